"""The tiny model with its map in one repository, and with the map in a second one, from a cold and a warm cache."""

from pathlib import Path

import hub_client
import hub_model_client
import hub_processes
import pytest
from hub_server import LoopbackHub

from corehead_hf import HeadMap

ARTIFACTS = Path(__file__).resolve().parents[2] / "hub_artifacts"
MODEL, MAP = ARTIFACTS / "glyphs-qwen3-vl", ARTIFACTS / "glyphs-qwen3-vl-head-map"
TWO = {"repo": "tester/glyphs-qwen3-vl", "head_map": "tester/glyphs-qwen3-vl-head-map"}
ONE = {"repo": "tester/both", "head_map": "tester/both"}
PROGRAM = {"program": "hub_model_client.py"}


@pytest.fixture(scope="module")
def local():
    """What the model answers with its map when both are read from folders."""
    return hub_model_client.load(str(MODEL), str(MAP))


@pytest.fixture(scope="module")
def answers(tmp_path_factory, maps):
    """Of three processes: one uploads, one loads from a cold cache, one from the same cache without the Hub."""
    home = tmp_path_factory.mktemp("home")
    with LoopbackHub(redirects=("relative", "cdn")) as hub:
        uploads = {
            "model": {"do": "upload", "folder": MODEL, "repo": TWO["repo"]},
            "map": {"do": "push", "folder": MAP, "repo": TWO["head_map"], "tags": ["v1"]},
            "model of both": {"do": "upload", "folder": MODEL, "repo": ONE["repo"]},
            "map of both": {"do": "push", "folder": MAP, "repo": ONE["repo"]},
            "misfit": {"do": "push", "folder": maps["v1"], "repo": TWO["head_map"]},
        }
        uploaded = hub_processes.run(hub.url, uploads, token="hf_owner")
        hub.store.repo(ONE["repo"]).private = True
        pinned = {"head_map_revision": "v1"}
        steps = {
            "one": {"do": "load", **ONE, "token": "hf_owner"},
            "two": {"do": "load", **TWO, **pinned},
            "misfit": {"do": "load", **TWO},
            "anonymous": {"do": "load", **ONE, "cache_dir": tmp_path_factory.mktemp("cold")},
            "live": {"do": "load_head_map", "repo": MODEL, "source": TWO["head_map"], "revision": "v1"},
        }
        loaded = hub_processes.run(hub.url, steps, home=home, **PROGRAM)
        files = [request.path for request in hub.store.log if request.method == "GET" and "/resolve/" in request.path]
        tree = hub.store.repo(ONE["repo"]).resolve("main").tree
        url = hub.url
    again = {"one": {"do": "load", **ONE}, "two": {"do": "load", **TWO, **pinned}}
    offline = hub_processes.run(url, again, home=home, HF_HUB_OFFLINE="1", **PROGRAM)
    return {"uploaded": uploaded, "cold": loaded, "offline": offline, "files": files, "tree": tree}


def test_the_map_lies_beside_the_weights_and_the_models_card_stays(answers):
    tree = answers["tree"]
    for folder in (MODEL, MAP):
        for path in (path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if folder == MODEL or name != "README.md":
                assert tree[name].data == path.read_bytes(), name


@pytest.mark.parametrize("repo", ["one", "two"])
@pytest.mark.parametrize("cache", ["cold", "offline"])
def test_the_model_from_the_hub_answers_as_the_local_one(answers, local, cache, repo):
    answer = answers[cache][repo]
    assert "error" not in answer, answer
    for what in ("dense", "ablated", "hybrid", "scores", "spread", "count", "sums", "class"):
        assert answer[what] == local[what], what
    assert answer["ablated"] != answer["dense"], "the map's heads do nothing"


def test_the_map_says_where_it_is_from(answers):
    commits = {step: answer["commit"] for step, answer in answers["uploaded"].items()}
    for cache in ("cold", "offline"):
        assert answers[cache]["one"]["source"] == f"{ONE['head_map']}@{commits['map of both']}"
        assert answers[cache]["two"]["source"] == f"{TWO['head_map']}@{commits['map']}"


def test_a_map_pulled_into_a_live_model(answers):
    expected = hub_client.contents(HeadMap.from_pretrained(MAP))
    live = answers["cold"]["live"]
    assert live["scores"] == expected["scores"] and live["source"].startswith(TWO["head_map"])


def test_the_newest_map_does_not_fit_and_is_refused(answers):
    misfit = answers["cold"]["misfit"]
    assert misfit["error"] == "ValueError" and "num_layers: map has 3 / model has 12" in misfit["message"]


def test_the_token_serves_model_and_map(answers):
    assert answers["cold"]["anonymous"]["error"] in ("OSError", "RepositoryNotFoundError", "HeadMapNotFoundError")


def test_a_map_brings_no_other_model(answers):
    """base_model of the map is a name on the Hub; it must not be asked for."""
    repos = {path.split("/resolve/")[0].lstrip("/") for path in answers["files"]}
    assert repos <= {ONE["repo"], *TWO.values()}
