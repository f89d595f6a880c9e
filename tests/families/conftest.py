"""What the geometry tests of all families share: the number of random cases, one oracle per session."""

import functools

import pytest


def pytest_addoption(parser):
    parser.addoption("--geometry-cases", type=int, default=100, help="random cases of each family's geometry")


def pytest_generate_tests(metafunc):
    """One test per random case of `case_seed`; a failing seed can be run again by its name."""
    if "case_seed" in metafunc.fixturenames:
        metafunc.parametrize("case_seed", range(metafunc.config.getoption("--geometry-cases", 100)))


@pytest.fixture(scope="session")
def oracle_of(tmp_path_factory):
    """oracle_of(a subclass of oracle.Oracle): the one instance of this session."""
    return functools.cache(lambda kind: kind(tmp_path_factory.mktemp(kind.model_type)))
