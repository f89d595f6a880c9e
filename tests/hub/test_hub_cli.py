"""corehead push | pull | info, each in a process of its own: its words, its exit code, what it asks the Hub for."""

import json
import subprocess
import sys
from dataclasses import dataclass

import hub_processes
import pytest
from hub_server import LoopbackHub

TENSORS = "head_map.safetensors"
HEADER = 100_000  # bytes that the client asks for, to have the header in one request


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub(redirects=("relative", "cdn")) as hub:
        yield hub


@dataclass(frozen=True)
class Ran:
    """What a command ended with, and the requests it made."""

    code: int
    out: str
    err: str
    requests: list

    @property
    def data(self):
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture(scope="module")
def corehead(hub, tmp_path_factory):
    """corehead(...): runs it with an empty cache."""

    def run(*arguments, token=None, **more):
        before = len(hub.store.log)
        done = subprocess.run(
            [sys.executable, "-m", "corehead_hf.cli", *map(str, arguments)],
            env=hub_processes.environment(hub.url, tmp_path_factory.mktemp("home"), token=token, **more),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Ran(done.returncode, done.stdout, done.stderr, hub.store.log[before:])

    return run


@pytest.fixture(scope="module")
def pushed(corehead, maps):
    """Two pushes; the second is large, private, tagged, and on a branch and in a subfolder."""
    first = corehead("push", maps["v1"], "tester/map", "--message", "Boxes", "--tag", "v1", token="hf_owner")
    place = ("--private", "--revision", "draft", "--tag", "a", "--tag", "b", "--subfolder", "boxes")
    second = corehead("push", maps["large"], "tester/large", *place, "--format", "json", token="hf_owner")
    return first, second


def test_push(hub, pushed, maps):
    first, second = pushed
    repo = hub.store.repo("tester/map")
    commit = repo.commits[repo.tags["v1"]]
    assert first.code == 0 and commit.title == "Boxes" and repo.branches["main"] == commit.oid
    assert commit.tree[TENSORS].data == (maps["v1"] / TENSORS).read_bytes()
    assert "tester/map" in first.out and commit.oid in first.out and f"{hub.url}/tester/map" in first.out
    large = hub.store.repo("tester/large")
    assert large.private and large.tags == {"a": second.data["commit"], "b": second.data["commit"]}
    assert second.data["repo_id"] == "tester/large" and second.data["pr_url"] is None
    assert large.branches["draft"] == second.data["commit"] != large.branches["main"]
    assert large.commits[second.data["commit"]].tree[f"boxes/{TENSORS}"].lfs


def test_pull(hub, pushed, corehead, maps, tmp_path):
    pulled = corehead("pull", "tester/map", "--revision", "v1", "--out", tmp_path / "map", "--format", "json")
    assert pulled.data["source"] == f"tester/map@{hub.store.repo('tester/map').tags['v1']}"
    for path in maps["v1"].iterdir():
        if path.suffix != ".png":
            assert (tmp_path / "map" / path.name).read_bytes() == path.read_bytes(), path.name


def test_info_reads_the_header_and_downloads_no_tensors(hub, pushed, corehead, maps):
    place = ("tester/large", "--revision", "draft", "--subfolder", "boxes")
    info = corehead("info", *place, "--format", "json", token="hf_owner")
    commit = hub.store.repo("tester/large").branches["draft"]
    assert commit in info.data["source"]
    assert info.data["provenance"]["num_layers"] == info.data["provenance"]["num_heads"] == 128
    tensors = {name: (dtype, shape) for name, (dtype, shape) in info.data["tensors"].items()}
    expected = {"ram": ("F32", [128, 128]), "ram_std": ("F32", [128, 128]), "count": ("I64", [128])}
    assert tensors == expected
    raw = (maps["large"] / TENSORS).read_bytes()
    assert info.data["num_bytes"] == len(raw) > HEADER
    digest = hub.store.repo("tester/large").commits[commit].tree[f"boxes/{TENSORS}"].sha256
    assert info.data["sha256"] == digest and info.data["is_verified"] is True, "the Hub stores it under this sha256"
    asked = [one for one in info.requests if TENSORS in one.path or "/_cdn/" in one.path]
    bodies = [one for one in asked if one.method == "GET"]
    assert bodies and all(one.range for one in bodies), bodies
    assert sum(one.sent for one in bodies if one.status in (200, 206)) <= HEADER + 1


def test_info_as_text(pushed, corehead):
    info = corehead("info", "tester/map")
    lines = info.out.splitlines()
    assert info.code == 0 and lines[0].startswith("tester/map@")
    for line in ("  dataset: owner/boxes-v1", "  num_heads: 4", "  tensor ram: F32 [3, 4]"):
        assert line in lines, info.out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("pull", "tester/large"), ("tester/large", "private", "hf auth login")),
        (("info", "tester/map", "--revision", "v2"), ("'v2'", "'v1'")),
        (("push", "{v2}", "tester/map", "--create-pr"), ("tester/map", "hf auth login")),
    ],
)
def test_what_cannot_be_done_exits_with_1_and_says_why(pushed, corehead, maps, arguments, words):
    failed = corehead(*(part.format(**maps) for part in arguments))
    assert failed.code == 1 and not failed.out
    assert failed.err.startswith(f"corehead {arguments[0]}: ") and "Traceback" not in failed.err
    for word in words:
        assert word in failed.err, failed.err
