"""A map that was pulled once is there without the Hub; one that was not is refused in words that say so."""

import hub_processes
import pytest
from hub_server import LoopbackHub

ONLY_LOCAL = {"local_files_only": True}


@pytest.fixture(scope="module")
def home(tmp_path_factory, maps):
    """HF_HOME of a user who pulled main (v2), tag v1 and a subfolder, and the port that was the Hub's."""
    home = tmp_path_factory.mktemp("home")
    with LoopbackHub() as hub:
        repo = hub.store.add("tester/map", maps["v1"])
        first = repo.tags["v1"] = repo.branches["main"]
        hub.store.add("tester/map", maps["v3"], subfolder="other")
        hub.store.add("tester/map", maps["v2"])
        hub.store.add("tester/damaged", maps["v1"])
        pull = {"do": "pull", "repo": "tester/map"}
        steps = {
            "main": pull,
            "v1": {**pull, "revision": "v1"},
            "other": {**pull, "subfolder": "other"},
            "damaged": {**pull, "repo": "tester/damaged"},
        }
        warm = {
            "pinned": {**pull, "revision": first},
            "again": pull,
            "damage": {"do": "damage", "repo": "tester/damaged"},
            "mended": steps["damaged"],
            "damage again": {"do": "damage", "repo": "tester/damaged"},
        }
        answers = hub_processes.run(hub.url, {**steps, **warm}, home=home)
        assert not [answer for answer in answers.values() if "error" in answer], answers
        return home, hub.url, first, answers, list(hub.store.log)


def bodies(log, part):
    return [one for one in log if one.method == "GET" and part in one.path and one.path.endswith(".safetensors")]


def test_what_is_cached_is_not_downloaded_again(home, same):
    _, _, first, answers, log = home
    same(answers["pinned"], "v1")
    same(answers["again"], "v2")
    assert len(bodies(log, first)) == 1 and len(bodies(log, "tester/map")) == 3


def test_a_pinned_commit_that_is_cached_needs_no_request(home):
    """Asked for by tag v1, it was one HEAD for the config's commit, and two requests for each file at most."""
    _, _, first, _, log = home
    assert len([one for one in log if first in one.path]) <= 3


def test_a_damaged_cache_is_mended(home, same):
    answers, log = home[3:]
    same(answers["mended"], "v1")
    assert len(bodies(log, "tester/damaged")) == 2


@pytest.fixture(scope="module", params=["offline", "local files only", "server down"])
def offline(request, home):
    """The answers of a process that cannot, or may not, reach the Hub any more."""
    folder, url, first, *_ = home
    settings = {"HF_HUB_OFFLINE": "1"} if request.param == "offline" else {}
    options = ONLY_LOCAL if request.param == "local files only" else {}
    pull = {"do": "pull", "repo": "tester/map", **options}
    steps = {
        "main": pull,
        "v1": {**pull, "revision": "v1"},
        "commit": {**pull, "revision": first},
        "other": {**pull, "subfolder": "other"},
        "another revision": {**pull, "revision": "v9"},
        "another repository": {**pull, "repo": "tester/never-pulled"},
        "damaged": {**pull, "repo": "tester/damaged"},
    }
    return request.param, hub_processes.run(url, steps, home=folder, **settings)


@pytest.mark.parametrize("step, name", [("main", "v2"), ("v1", "v1"), ("commit", "v1"), ("other", "v3")])
def test_a_warm_cache_is_enough(home, offline, same, step, name):
    same(offline[1][step], name)
    assert offline[1][step]["source"].startswith("tester/map@")


@pytest.mark.parametrize("step", ["another revision", "another repository"])
def test_a_cold_cache_says_so(offline, step):
    how, answers = offline
    answer = answers[step]
    assert answer.get("error") == "HeadMapConnectionError" and answer["causes"], answer
    assert "cache" in answer["message"]
    reason = {"offline": "HF_HUB_OFFLINE", "local files only": "local_files_only", "server down": "127.0.0.1"}[how]
    assert reason in answer["message"]
    assert ("v9" if step == "another revision" else "tester/never-pulled") in answer["message"]


def test_a_damaged_cache_is_refused_where_it_cannot_be_mended(offline):
    how, answers = offline
    answer = answers["damaged"]
    assert answer.get("error") == ("HeadMapConnectionError" if how == "server down" else "HeadMapFormatError"), answer
    assert "sha256" in " ".join([answer["message"], *answer["logged"]]), "that it is damaged is not said"


def test_nobody_sleeps_without_need(offline):
    how, answers = offline
    assert how == "server down" or not any(answer["waited"] for answer in answers.values())
