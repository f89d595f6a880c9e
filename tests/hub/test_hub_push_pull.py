"""What one process pushes, another pulls, with nothing in common but the Hub: the very bits, at the asked revision."""

import re

import hub_processes
import pytest
from hub_server import LoopbackHub
from hub_store import git_sha1

FILES = ["README.md", "head_map.safetensors", "head_map_config.json"]
TRANSPORTS = {
    "no LFS": {"lfs_suffixes": (".nothing",)},
    "LFS from a CDN, the rest redirected, as on the Hub": {"redirects": ("relative", "cdn")},
}


@pytest.fixture(scope="module", params=TRANSPORTS)
def hub(request):
    with LoopbackHub(**TRANSPORTS[request.param]) as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, maps):
    """The answers of a process that is logged in and pushes."""
    v1, v2, v3 = ({"do": "push", "folder": maps[name]} for name in ("v1", "v2", "v3"))
    steps = {
        "first": {**v1, "repo": "tester/map", "tags": ["v1"], "commit_message": "The first map"},
        "second": {**v2, "repo": "tester/map", "tags": ["v2", "best"]},
        "branch": {**v3, "repo": "tester/map", "revision": "draft"},
        "branch again": {**v1, "repo": "tester/map", "revision": "draft", "subfolder": "other"},
        "subfolder": {**v1, "repo": "tester/map", "subfolder": "boxes/small"},
        "private": {**v1, "repo": "tester/secret", "private": True},
        "own request": {**v3, "repo": "tester/map", "create_pr": True, "commit_message": "A better map"},
        "request of a guest": {**v3, "repo": "tester/map", "create_pr": True, "token": "hf_guest"},
        "to two places": {**v3, "repo": "tester/map", "create_pr": True, "revision": "draft"},
        "nothing new": {**v2, "repo": "tester/map"},
        "own name only": {**v2, "repo": "map-of-mine"},
    }
    return hub_processes.run(hub.url, steps, token="hf_owner", xet=not hub.store.redirects)


@pytest.fixture(scope="module")
def pulled(hub, pushed, tmp_path_factory):
    """The answers of another process, which has no token, in the order of these steps."""
    pull = {"do": "pull", "repo": "tester/map"}
    before = len(hub.store.log)
    steps = {
        "main": pull,
        "tag v1": {**pull, "revision": "v1"},
        "tag best": {**pull, "revision": "best"},
        "first commit": {**pull, "revision": pushed["first"]["commit"]},
        "branch": {**pull, "revision": "draft"},
        "subfolder of branch": {**pull, "revision": "draft", "subfolder": "other"},
        "subfolder": {**pull, "subfolder": "boxes/small"},
        "request": {**pull, "revision": "refs/pr/1"},
        "request of a guest": {**pull, "revision": "refs/pr/2"},
        "secret": {**pull, "repo": "tester/secret"},
        "secret, of its owner": {**pull, "repo": "tester/secret", "token": "hf_owner"},
        "secret, of a guest": {**pull, "repo": "tester/secret", "token": "hf_guest"},
        "elsewhere": {**pull, "cache_dir": tmp_path_factory.mktemp("elsewhere")},
        "versions": {"do": "versions"},
    }
    answers = hub_processes.run(hub.url, steps)
    answers["requests"] = hub.store.log[before:]
    return answers


def test_a_push_is_one_commit_of_the_saved_files(hub, pushed, maps):
    repo = hub.store.repo("tester/map")
    first, second = (repo.commits[pushed[step]["commit"]] for step in ("first", "second"))
    assert first.title == "The first map" and second.parent == first.oid
    for commit, name in ((first, "v1"), (second, "v2")):
        files = {path: entry.data for path, entry in commit.tree.items() if path != ".gitattributes"}
        assert set(FILES) <= set(files) <= {*FILES, "head_map.png"}
        assert files == {path.name: path.read_bytes() for path in maps[name].iterdir()}
    assert first.tree["head_map.safetensors"].lfs == bool(hub.store.redirects)


def test_a_push_says_where_the_map_is(hub, pushed):
    for step, repo in (("first", "tester/map"), ("private", "tester/secret"), ("own name only", "tester/map-of-mine")):
        answer = pushed[step]
        assert answer["repo_id"] == repo and re.fullmatch(r"[0-9a-f]{40}", answer["commit"])
        assert answer["url"].startswith(f"{hub.url}/{repo}") and answer["pr_url"] is None


def test_tags_branches_and_privacy_are_what_was_asked(hub, pushed):
    repo = hub.store.repo("tester/map")
    commits = {step: answer["commit"] for step, answer in pushed.items() if "commit" in answer}
    assert repo.tags == {"v1": commits["first"], "v2": commits["second"], "best": commits["second"]}
    assert repo.branches["draft"] == commits["branch again"] and repo.branches["main"] == commits["subfolder"]
    assert hub.store.repo("tester/secret").private and not repo.private


def test_a_pull_request_changes_nothing_else(hub, pushed):
    repo = hub.store.repo("tester/map")
    for number, (step, author) in enumerate((("own request", "tester"), ("request of a guest", "guest")), start=1):
        assert pushed[step]["pr_url"] == f"{hub.url}/tester/map/discussions/{number}"
        assert repo.pull_requests[number - 1]["author"] == author
        assert repo.branches[f"refs/pr/{number}"] == pushed[step]["commit"]
    assert repo.pull_requests[0]["title"] == "A better map"


def test_a_pull_request_to_a_branch_is_refused_before_anything_is_sent(hub, pushed):
    refused = pushed["to two places"]
    assert refused["error"] == "ValueError" and not refused["causes"]
    assert "create_pr" in refused["message"] and "draft" in refused["message"]
    assert len(hub.store.repo("tester/map").pull_requests) == 2


def test_pushing_the_same_again_makes_no_second_map(hub, pushed):
    repo = hub.store.repo("tester/map")
    assert pushed["nothing new"]["commit"] == repo.branches["main"]
    assert repo.commits[pushed["nothing new"]["commit"]].tree == repo.commits[pushed["subfolder"]["commit"]].tree


@pytest.mark.parametrize(
    "step, name, commit",
    [
        ("main", "v2", "subfolder"),
        ("tag v1", "v1", "first"),
        ("tag best", "v2", "second"),
        ("first commit", "v1", "first"),
        ("branch", "v3", "branch again"),
        ("subfolder of branch", "v1", "branch again"),
        ("subfolder", "v1", "subfolder"),
        ("request", "v3", "own request"),
        ("request of a guest", "v3", "request of a guest"),
        ("elsewhere", "v2", "subfolder"),
    ],
)
def test_another_process_pulls_the_very_bits(pushed, pulled, same, step, name, commit):
    same(pulled[step], name)
    oid = pushed[commit]["commit"]
    assert pulled[step]["source"].startswith(f"tester/map@{oid}"), "which commit it is cannot be seen"
    (line,) = [line for line in pulled[step]["logged"] if oid in line]
    assert line.startswith("INFO ") and "tester/map" in line and f"{int(name[1]) * 10} examples" in line


def test_a_private_map_is_for_its_owner(pushed, pulled, same):
    same(pulled["secret, of its owner"], "v1")
    for step in ("secret", "secret, of a guest"):
        assert pulled[step]["error"] == "HeadMapNotFoundError"
        assert "private" in pulled[step]["message"] and "hf auth login" in pulled[step]["message"]


def test_the_tensors_are_asked_for_at_a_commit(pulled):
    """Never at a branch, which may move between the two files."""
    files = [one.path for one in pulled["requests"] if "/resolve/" in one.path and one.path.endswith(".safetensors")]
    assert len(files) >= 10
    assert not [path for path in files if not re.search(r"/resolve/[0-9a-f]{40}/", path)]


def test_nothing_but_the_two_files_is_downloaded(pulled):
    names = {request.path.rsplit("/", 1)[1] for request in pulled["requests"] if "/resolve/" in request.path}
    assert names == {"head_map_config.json", "head_map.safetensors"}


def test_a_pull_loads_no_model_library(pulled):
    assert not pulled["versions"]["transformers"]


def test_tokens_stay_with_the_hub(hub, pulled):
    on_cdn = hub.store.requests("/_cdn/")
    assert bool(on_cdn) == ("cdn" in hub.store.redirects)
    assert all(request.origin != hub.url and not request.token and request.status < 300 for request in on_cdn)
    assert [request for request in pulled["requests"] if request.token], "the owner's pull carried no token"


def test_git_ids_are_gits():
    assert git_sha1(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object of the same
