"""What a push does with cards and pictures: ours are replaced, other people's are kept, none is left stale."""

import os

import hub_processes
import pytest
from huggingface_hub import metadata_load

MODEL_CARD = "---\nlibrary_name: transformers\n---\n# A model\n"
KEPT = "is no head map's card and is kept"


@pytest.fixture(scope="module")
def pushed(hub, maps, tmp_path_factory):
    model = tmp_path_factory.mktemp("model")
    (model / "README.md").write_text(MODEL_CARD, encoding="utf-8")
    for name in ("model", "model-and-subfolder"):
        hub.store.add(f"tester/{name}", model)
    (model / "README.md").write_text("---\na: [\n---\nNot even YAML", encoding="utf-8")
    hub.store.add("tester/broken-card", model)
    v1, v2 = ({"do": "push", "folder": maps[name], "token": "hf_owner"} for name in ("v1", "v2"))
    steps = {
        "beside a model": {**v1, "repo": "tester/model"},
        "beside a model, again": {**v2, "repo": "tester/model"},
        "in a model's subfolder": {**v1, "repo": "tester/model-and-subfolder", "subfolder": "map"},
        "beside a broken card": {**v1, "repo": "tester/broken-card"},
        "first subfolder": {**v1, "repo": "tester/maps", "subfolder": "v1", "license": "mit"},
        "second subfolder": {**v2, "repo": "tester/maps", "subfolder": "v2"},
        "first again": {**v2, "repo": "tester/maps", "subfolder": "v1"},
        "drawn": {**v1, "repo": "tester/drawn"},
    }
    answers = hub_processes.run(hub.url, steps)
    assert not [answer for answer in answers.values() if "error" in answer], answers
    return answers


def tree_of(hub, name):
    return {path: entry.data for path, entry in hub.store.repo(f"tester/{name}").resolve("main").tree.items()}


def test_a_card_of_others_is_kept_and_that_is_said(hub, pushed):
    assert tree_of(hub, "model")["README.md"].decode() == MODEL_CARD
    assert tree_of(hub, "model-and-subfolder")["README.md"].decode() == MODEL_CARD
    assert tree_of(hub, "broken-card")["README.md"].endswith(b"Not even YAML")
    for step, answer in pushed.items():
        warned = [line for line in answer["logged"] if line.startswith("WARNING") and KEPT in line]
        assert bool(warned) == ("model" in step or "broken" in step), answer["logged"]


def test_the_map_itself_is_replaced_beside_a_kept_card(hub, pushed, maps):
    name = "head_map.safetensors"
    assert tree_of(hub, "model")[name] == (maps["v2"] / name).read_bytes()


def test_a_subfolder_is_a_whole_map_and_the_root_gets_a_card_once(hub, pushed, maps, tmp_path):
    files = tree_of(hub, "maps")
    for folder in ("v1", "v2"):  # v1 was pushed over with the map v2
        assert {path.split("/")[1] for path in files if path.startswith(f"{folder}/")} == {
            path.name for path in maps["v2"].iterdir()
        }
        assert files[f"{folder}/README.md"] == (maps["v2"] / "README.md").read_bytes()
    root = files["README.md"].decode()
    assert "](v1/head_map.png)" in root and 'subfolder="v1"' in root and "v2/" not in root
    (tmp_path / "README.md").write_text(root, encoding="utf-8")
    front = metadata_load(tmp_path / "README.md")
    assert front["base_model"] == "owner/tiny-vl" and "head-map" in front["tags"] and front["license"] == "mit"


def test_an_older_maps_picture_goes_where_none_is_drawn(hub, pushed, maps, tmp_path):
    assert "head_map.png" in tree_of(hub, "drawn")
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join([str(tmp_path), hub_processes.environment(hub.url, tmp_path)["PYTHONPATH"]])
    push = {"do": "push", "folder": maps["v2"], "repo": "tester/drawn", "token": "hf_owner"}
    answer = hub_processes.run(hub.url, {"push": push}, PYTHONPATH=path)["push"]
    files = tree_of(hub, "drawn")
    assert answer["commit"] == hub.store.repo("tester/drawn").branches["main"]
    assert "head_map.png" not in files and b"head_map.png" not in files["README.md"]
