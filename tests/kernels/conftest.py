"""What the kernels' tests share beyond cases.py: poisoned memory, and tests that only run when asked for by name."""

import pytest
import torch


def pytest_configure(config):
    config.addinivalue_line("markers", "exhaustive: shapes drawn by hypothesis, minutes; run with -m exhaustive")


def pytest_collection_modifyitems(config, items):
    if "exhaustive" not in config.option.markexpr:
        left_out = [item for item in items if "exhaustive" in item.keywords]
        items[:] = [item for item in items if "exhaustive" not in item.keywords]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def poisoned_empty(monkeypatch):
    """torch.empty full of NaN, so that an element nobody writes is seen."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        made = empty(*args, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)
