"""Pushing what one may not, and Hubs that are none: one clear error each, and nothing half done."""

import socket

import hub_processes
import pytest
from hub_checks import ACCESS, CONFLICT, CONNECTION, FOR_EVER, check_error
from hub_server import LoopbackHub

BASE = "owner/tiny-vl"


@pytest.fixture(scope="module")
def refused(hub, maps):
    """One process tries what it may not, or what fails."""
    for name in ("mine", "moved", "busy", "tagged", "overtaken"):
        hub.store.add(f"tester/{name}", maps["v1"])
    overtake = {"effect": lambda: hub.store.add("tester/overtaken", maps["v3"])}
    hub.fault("POST", "tester/overtaken/commit", "hang:0", **overtake)
    hub.store.repo("tester/tagged").tags["v1"] = hub.store.repo("tester/tagged").branches["main"]
    hub.fault("POST", "tester/moved/commit", "status:412", message="A commit has happened since.")
    hub.fault("POST", "tester/busy/commit", "status:503", FOR_EVER)
    push = {"do": "push", "folder": maps["v2"], "repo": "tester/mine"}
    owner = {**push, "token": "hf_owner"}
    steps = {
        "read-only token": {**push, "token": "hf_reader"},
        "read-only token, new repository": {**push, "token": "hf_reader", "repo": "tester/new"},
        "another's repository": {**push, "token": "hf_guest"},
        "another's name": {**push, "token": "hf_guest", "repo": "tester/newer"},
        "not logged in": push,
        "bad token": {**push, "token": "hf_wrong"},
        "moved": {**owner, "repo": "tester/moved"},
        "overtaken": {**owner, "repo": "tester/overtaken"},
        "busy": {**owner, "repo": "tester/busy"},
        "tag taken": {**owner, "repo": "tester/tagged", "tags": ["v1"]},
        "no name": {**owner, "repo": "tester/a b"},
        "request with a branch": {**owner, "create_pr": True, "revision": "draft"},
        "request with tags": {**owner, "create_pr": True, "tags": ["v2"]},
        "find": {"do": "find", "base_model": BASE, "token": "hf_wrong"},
    }
    return hub_processes.run(hub.url, steps)


@pytest.mark.parametrize(
    "step, error, words, causes",
    [
        ("read-only token", ACCESS, "tester/mine|right to write", "HfHubHTTPError"),
        ("read-only token, new repository", ACCESS, "tester/new|right to write", "HfHubHTTPError"),
        ("another's repository", ACCESS, "tester/mine|right to write|create_pr=True", "HfHubHTTPError"),
        ("another's name", ACCESS, "tester/newer", "HfHubHTTPError"),
        ("not logged in", ACCESS, "hf auth login", "HfHubHTTPError LocalTokenNotFoundError"),
        ("bad token", ACCESS, "token|hf auth login", "HfHubHTTPError"),
        ("moved", CONFLICT, "tester/moved|push again", "HfHubHTTPError"),
        ("overtaken", CONFLICT, "tester/overtaken|push again", "HfHubHTTPError"),
        ("busy", CONNECTION, "tester/busy|503|again", "HfHubHTTPError"),
        ("tag taken", CONFLICT, "v1|tester/tagged", ""),
        ("find", ACCESS, f"{BASE}|token", "HfHubHTTPError"),
    ],
)
def test_a_refused_push_is_one_clear_error(refused, step, error, words, causes):
    check_error(refused[step], error, words, causes)


def test_a_malformed_name_is_refused_before_anything_is_sent(hub, refused):
    answer = refused["no name"]
    assert "HeadMapError" in answer["bases"] or answer["error"] == "ValueError", answer
    assert "tester/a b" in answer["message"] and not hub.store.requests("a%20b")
    assert ("model", "tester/a b") not in hub.store.repos


@pytest.mark.parametrize("step, words", [("with a branch", "draft"), ("with tags", "v2")])
def test_a_pull_request_is_to_main_and_has_no_tags(hub, refused, step, words):
    answer = refused[f"request {step}"]
    assert answer["error"] == "ValueError" and words in answer["message"] and "create_pr" in answer["message"]
    assert not hub.store.repo("tester/mine").pull_requests


def test_a_refused_push_leaves_the_repository_as_it_was(hub, refused):
    for name in ("mine", "moved", "busy"):
        repo = hub.store.repo(f"tester/{name}")
        assert len(repo.commits) == 2 and not repo.tags and set(repo.branches) == {"main"}
    assert ("model", "tester/new") not in hub.store.repos and ("model", "tester/newer") not in hub.store.repos


def test_what_somebody_pushed_meanwhile_is_not_overwritten(hub, refused, maps):
    tree = hub.store.repo("tester/overtaken").resolve("main").tree
    assert tree["head_map.safetensors"].data == (maps["v3"] / "head_map.safetensors").read_bytes()


def test_a_tag_that_is_taken_stays_where_it_is(hub, refused):
    repo = hub.store.repo("tester/tagged")
    first = list(repo.commits)[1]
    assert repo.tags == {"v1": first} and repo.branches == {"main": first}, "pushed, and only then refused"


@pytest.fixture(scope="module")
def elsewhere(maps):
    """One process whose endpoints are wrong: nobody listens, or what answers is no Hub."""
    with socket.socket() as taken, LoopbackHub() as web:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: a connection is refused at once
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
        web.fault("*", "", "web-page", FOR_EVER)
        steps = {}
        for place, url in (("down", closed), ("web", web.url)):
            push = {"do": "push", "folder": maps["v1"], "repo": "tester/map", "token": "hf_owner"}
            steps[f"pull, {place}"] = {"do": "pull", "repo": "tester/map", "endpoint": url}
            steps[f"push, {place}"] = {**push, "endpoint": url}
            steps[f"find, {place}"] = {"do": "find", "base_model": BASE, "endpoint": url}
        steps["local"] = {"do": "pull", "repo": maps["v1"]}
        yield hub_processes.run(closed, steps), {"down": closed, "web": web.url}


@pytest.mark.parametrize("verb", ["pull", "push", "find"])
@pytest.mark.parametrize("place", ["down", "web"])
def test_what_is_down_or_no_hub_is_a_connection_error(elsewhere, verb, place):
    answers, urls = elsewhere
    subject = BASE if verb == "find" else "tester/map"
    answer = answers[f"{verb}, {place}"]
    check_error(answer, CONNECTION, f"{urls[place]}|HF_ENDPOINT|{subject}", "any")
    assert answer["waited"] <= 30, "longer than the client alone would have tried"


def test_a_folder_needs_no_hub(elsewhere, same):
    same(elsewhere[0]["local"], "v1")
    assert elsewhere[0]["local"]["waited"] == 0


def test_a_hub_without_xet(hub, maps):
    """hf_xet is installed and used where the client would; this Hub, like most self-hosted ones, has only LFS."""
    pytest.importorskip("hf_xet")
    push = {"do": "push", "folder": maps["v1"], "repo": "tester/no-xet", "token": "hf_owner"}
    answer = hub_processes.run(hub.url, {"push": push}, xet=True)["push"]
    if [one for one in hub.store.requests("tester/no-xet") if "xet-write-token" in one.path]:
        check_error(answer, CONNECTION, "HF_HUB_DISABLE_XET=1|tester/no-xet", "any")
    else:  # hub < 1.0 asks the server first whether it has Xet
        assert answer.get("commit") == hub.store.repo("tester/no-xet").branches["main"], answer
