"""corehead push, pull and info without a Hub: folders, refusals, and what push asks for (tests/hub has the rest)."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from corehead_hf import HeadMap, HeadMapFormatError
from corehead_hf.head_map.info import head_map_info
from corehead_hf.head_map.publish import PushedMap

FOLDER = Path(__file__).resolve().parents[2] / "hub_artifacts" / "glyphs-qwen3-vl-head-map"
TENSORS, CONFIG = "head_map.safetensors", "head_map_config.json"


@pytest.fixture
def copy(tmp_path):
    """A folder of the shipped map that may be damaged."""
    folder = tmp_path / "copy"
    HeadMap.from_pretrained(FOLDER).save_pretrained(folder)
    return folder


def test_info_of_a_folder(corehead):
    raw = (FOLDER / TENSORS).read_bytes()
    code, printed, _ = corehead("info", FOLDER, "--format", "json")
    data = json.loads(printed)
    assert code == 0 and data["source"] == str(FOLDER) and data["is_verified"] is True
    assert data["sha256"] == hashlib.sha256(raw).hexdigest() and data["num_bytes"] == len(raw)
    assert data["provenance"] == {
        name: value
        for name, value in json.loads((FOLDER / CONFIG).read_text("utf-8")).items()
        if name not in ("format_version", "corehead_version", "sha256")
    }
    # 12 layers of 4 heads, as the model's config.json has them.
    assert {name: (dtype, shape) for name, (dtype, shape) in data["tensors"].items()} == {
        "ram": ("F32", [12, 4]),
        "ram_std": ("F32", [12, 4]),
        "count": ("I64", [12]),
        "ram_sum": ("I64", [2, 12, 4]),
        "ram_square_sum": ("I64", [2, 12, 4]),
        "chance_sum": ("I64", [2]),
    }
    lines = corehead("info", FOLDER)[1].splitlines()
    assert lines[0] == str(FOLDER) and "  num_examples: 192" in lines and "  tensor ram: F32 [12, 4]" in lines
    assert lines[-1] == f"  sha256 of {len(raw)} bytes: {data['sha256']}; it is the file's"


def change(folder, old, new):
    text = (folder / CONFIG).read_text("utf-8")
    assert old in text
    (folder / CONFIG).write_text(text.replace(old, new), "utf-8")


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda folder: (folder / TENSORS).write_bytes(bytes(2472)), "sha256"),
        (lambda folder: (folder / TENSORS).unlink(), "no such file"),
        (lambda folder: change(folder, '"head_dim": 32', '"head_dim": -1'), "head_dim=-1"),
        (lambda folder: change(folder, '"num_skipped": 0', '"num_skipped": -1'), "num_skipped=-1"),
        (lambda folder: change(folder, '"num_layers": 12', '"num_layers": 11'), r"\[11, 4\]"),
    ],
)
def test_info_of_a_damaged_folder_is_refused(copy, damage, reason):
    head_map_info(copy)
    damage(copy)
    with pytest.raises(HeadMapFormatError, match=reason):
        head_map_info(copy)


def test_what_is_not_there_exits_with_1(corehead, tmp_path):
    for verb, more in (("info", ()), ("push", ("owner/map",)), ("pull", ()), ("show", ())):
        code, printed, error = corehead(verb, tmp_path / "nowhere", *more)
        assert code == 1 and not printed and error.startswith(f"corehead {verb}: ")
        assert "is not an existing folder, nor a Hub id" in error


def test_push_passes_every_option_on(corehead, monkeypatch):
    calls = []

    def push(head_map, repo_id, **given):
        calls.append((head_map.source, repo_id, given))
        return PushedMap("owner/map", "c" * 40, "https://hub/commit", "https://hub/pr")

    monkeypatch.setattr(HeadMap, "push_to_hub", push)
    options = ["--private", "--revision", "draft", "--tag", "v1", "--tag", "best"]
    options += ["--subfolder", "boxes", "--message", "First", "--license", "cc-by-4.0"]
    code, printed, _ = corehead("push", FOLDER, "owner/map", *options)
    assert code == 0
    assert printed.splitlines() == [
        f"pushed {FOLDER} to owner/map, commit {'c' * 40}",
        "https://hub/commit",
        "https://hub/pr",
    ]
    corehead("push", FOLDER, "map", "--create-pr")
    asked = {"private": True, "revision": "draft", "tags": ["v1", "best"], "subfolder": "boxes"}
    asked |= {"commit_message": "First", "license": "cc-by-4.0", "create_pr": False}
    plain = {**dict.fromkeys(asked), "tags": [], "create_pr": True}
    assert calls == [(str(FOLDER), "owner/map", asked), (str(FOLDER), "map", plain)]


def test_pull_of_a_folder_saves_a_copy(corehead, tmp_path):
    code, printed, _ = corehead("pull", FOLDER, "--out", tmp_path / "out", "--top", 2)
    lines = printed.splitlines()
    assert code == 0 and lines[0] == f"from {FOLDER}" and lines[-1] == f"saved in {tmp_path / 'out'}/"
    shipped, saved = HeadMap.from_pretrained(FOLDER), HeadMap.from_pretrained(tmp_path / "out")
    assert torch.equal(shipped.scores, saved.scores) and shipped.sums.equal(saved.sums)


def test_show_names_imported_scores(corehead, copy):
    shipped = HeadMap.from_pretrained(FOLDER)
    given = {name: getattr(shipped, name) for name in shipped.__dataclass_fields__}
    HeadMap(**{**given, "sums": None, "score_rule": "gate"}).save_pretrained(copy)
    code, printed, _ = corehead("show", copy)
    assert code == 0 and re.search(r"^scores +gate$", printed, re.MULTILINE) and "RAM" not in printed
    assert json.loads(corehead("show", copy, "--format", "json")[1])["score_rule"] == "gate"
    plain = corehead("show", FOLDER)[1]
    assert "RAM" in plain and not re.search("^scores", plain, re.MULTILINE)
