"""Pulling: whatever can go wrong ends as one clear error with its cause kept, or is overcome without a word."""

import re
import shutil
from dataclasses import dataclass, field

import hub_processes
import pytest
from hub_checks import ACCESS, CONNECTION, FOR_EVER, FORMAT, NOT_FOUND, check_error

TENSORS, CONFIG = "head_map.safetensors", "head_map_config.json"
NO_FILE = "EntryNotFoundError RemoteEntryNotFoundError"


@dataclass(frozen=True)
class Case:
    """A pull from a repository of its own.

    Attributes:
        error: class it must end with; "" = it must succeed.
        words, causes: of the error, see check_error.
        repo: how the repository is made, see `prepare`; None = not at all.
        fault: method, file or "everything", kind, times.
        step: arguments of the pull.
        bodies: how often the tensors must be asked for; None = any number.
    """

    error: str = ""
    words: str = ""
    causes: str = ""
    repo: dict | None = field(default_factory=dict)
    fault: tuple | None = None
    step: dict = field(default_factory=dict)
    bodies: int | None = None


def always(method, part, kind):
    return method, part, kind, FOR_EVER


ABSENT = "private|hf auth login|spelling"
CASES = {
    # Who may read what.
    "missing": Case(NOT_FOUND, ABSENT, "RepositoryNotFoundError", repo=None),
    "missing, logged in": Case(NOT_FOUND, ABSENT, "RepositoryNotFoundError", repo=None, step={"token": "hf_guest"}),
    "private": Case(NOT_FOUND, ABSENT, "RepositoryNotFoundError", {"private": True}),
    "gated": Case(ACCESS, "gated|/tester/gated|hf auth login", "GatedRepoError", {"gated": True}),
    "gated to a guest": Case(ACCESS, "gated", "GatedRepoError", {"gated": True}, step={"token": "hf_guest"}, bodies=0),
    "gated to its owner": Case(repo={"gated": True}, step={"token": "hf_owner"}, bodies=1),
    "bad token": Case(ACCESS, "token|hf auth login", "HfHubHTTPError", step={"token": "hf_wrong"}),
    # What is there.
    "no such tag": Case(NOT_FOUND, "'v7'|v1|revision=", "RevisionNotFoundError", step={"revision": "v7"}, bodies=0),
    "no such commit": Case(NOT_FOUND, "f" * 40, "RevisionNotFoundError", step={"revision": "f" * 40}, bodies=0),
    "not a map": Case(NOT_FOUND, "no head map", NO_FILE, {"without": [CONFIG, TENSORS]}, bodies=0),
    "half a map": Case(NOT_FOUND, TENSORS, NO_FILE, {"without": [TENSORS]}),
    "no such subfolder": Case(NOT_FOUND, "boxes|subfolder=", NO_FILE, step={"subfolder": "boxes"}, bodies=0),
    "nothing kept": Case(CONNECTION, "local_files_only|cache", "any", step={"local_files_only": True}, bodies=0),
    # What comes over the wire.
    "503 on everything": Case(CONNECTION, "503|again|127.0.0.1", "any", fault=always("*", "everything", "status:503")),
    "503 on the head": Case(CONNECTION, "503|again", "any", fault=always("HEAD", TENSORS, "status:503"), bodies=0),
    "503 on the body": Case(CONNECTION, "503|again", "any", fault=always("GET", TENSORS, "status:503")),
    "500 on the body": Case(CONNECTION, "500|again", "any", fault=always("GET", TENSORS, "status:500")),
    "429 on the body": Case(CONNECTION, "too many requests", "any", fault=always("GET", TENSORS, "status:429")),
    "not a hub": Case(CONNECTION, "HF_ENDPOINT", "FileMetadataError", fault=always("*", TENSORS, "no-commit")),
    "broken for ever": Case(CONNECTION, "127.0.0.1", "any", fault=always("GET", TENSORS, "truncate")),
    "corrupt twice": Case(FORMAT, "sha256", fault=("GET", TENSORS, "corrupt", 2), bodies=2),
    "another map's tensors": Case(FORMAT, "sha256", repo={"swapped": True}, bodies=2),
    "corrupt config twice": Case(FORMAT, CONFIG, fault=("GET", CONFIG, "corrupt", 2)),
    # What is overcome.
    "503 once on the first head": Case(fault=("HEAD", CONFIG, "status:503", 1), bodies=1),
    "503 once on the second head": Case(fault=("HEAD", TENSORS, "status:503", 1), bodies=1),
    "503 twice on the body": Case(fault=("GET", TENSORS, "status:503", 2), bodies=3),
    "503 once on the config": Case(fault=("GET", CONFIG, "status:503", 1), bodies=1),
    "broken once": Case(fault=("GET", TENSORS, "truncate", 1), bodies=2),
    "broken config": Case(fault=("GET", CONFIG, "truncate", 1), bodies=1),
    "corrupt once": Case(fault=("GET", TENSORS, "corrupt", 1), bodies=2),
    "corrupt config once": Case(fault=("GET", CONFIG, "corrupt", 1)),
    "late once": Case(fault=("GET", TENSORS, "hang:1.3", 1), bodies=2),
}
AGAIN = ("corrupt twice", "corrupt config twice")


def repo_of(name):
    return f"tester/{re.sub('[^a-z0-9]+', '-', name.lower())}-map"


def prepare(hub, name, folder, maps, *, private=False, gated=False, without=(), swapped=False):
    """Puts the repository of a case on the Hub: v1, with its tag."""
    shutil.copytree(maps["v1"], folder)
    for file in without:
        (folder / file).unlink()
    if swapped:
        shutil.copy(maps["v2"] / TENSORS, folder / TENSORS)
    repo = hub.store.add(repo_of(name), folder, private=private, gated=gated)
    repo.tags["v1"] = repo.branches["main"]


@pytest.fixture(scope="module")
def answers(hub, maps, tmp_path_factory):
    """One process meets them all."""
    folders, steps = tmp_path_factory.mktemp("repos"), {}
    for number, (name, case) in enumerate(CASES.items()):
        if case.repo is not None:
            prepare(hub, name, folders / str(number), maps, **case.repo)
        if case.fault:
            method, part, kind, times = case.fault
            place = f"/{repo_of(name)}" if part == "everything" else f"^/{repo_of(name)}/resolve/.*{part}"
            hub.fault(method, place, kind, times)
        steps[name] = {"do": "pull", "repo": repo_of(name), **case.step}
    steps |= {f"{name}, again": {"do": "pull", "repo": repo_of(name)} for name in AGAIN}
    return hub_processes.run(hub.url, steps, HF_HUB_DOWNLOAD_TIMEOUT="1")


def gets(hub, name, file):
    path = f"/{repo_of(name)}/resolve/"
    return [one for one in hub.store.requests(path) if one.method == "GET" and one.path.endswith(file)]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.error])
def test_what_cannot_be_had_is_one_clear_error(answers, name):
    case = CASES[name]
    words = case.words if case.error == FORMAT else f"{case.words}|{repo_of(name)}"
    check_error(answers[name], case.error, words, case.causes)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.error])
def test_what_passes_is_overcome(answers, same, name):
    same(answers[name], "v1")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.bodies is not None])
def test_the_tensors_are_asked_for_as_often_as_that_takes(hub, answers, name):
    assert len(gets(hub, name, TENSORS)) == CASES[name].bodies + (name in AGAIN)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.fault and case.fault[3] == FOR_EVER])
def test_giving_up_takes_three_tries_and_no_minute(hub, answers, name):
    """Old clients try six times themselves, 23 s long; that is not done three times over."""
    method, part, kind, _ = CASES[name].fault
    if kind[:8] in ("status:5", "truncate"):
        path = f"/{repo_of(name)}/resolve/"
        tries = [one for one in hub.store.requests(path) if method in ("*", one.method)]
        assert len([one for one in tries if one.path == tries[-1].path]) >= 3
    assert answers[name]["waited"] <= 30


def test_every_fault_was_met(hub, answers):
    assert len(hub.store.faults) == sum(case.fault is not None for case in CASES.values())
    assert not [fault for fault in hub.store.faults if fault.times == FOR_EVER or 0 < fault.times < 10]


@pytest.mark.parametrize("name", AGAIN)
def test_what_was_refused_is_not_kept(hub, answers, same, name):
    """The next pull gives what is on the Hub by then, not what was in the cache."""
    same(answers[f"{name}, again"], "v1")
