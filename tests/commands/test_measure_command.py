"""corehead measure, end to end on a shipped tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from corehead_hf import HeadMap, cli
from corehead_hf.measuring import read_measured

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
MODEL = str(HUB / "glyphs-qwen3-vl")


@pytest.fixture
def corehead(tmp_path, capsys):
    """corehead(...): runs the verb with float32 weights; its exit code, what it printed, the error's text."""

    def run(*arguments, out="map"):
        code = cli.main(["measure", MODEL, "--dtype", "float32", "--out", str(tmp_path / out), *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_glyphs(corehead, tmp_path):
    options = ("--data", "glyphs", "--limit", 20, "--option", "pages=3", "--resume-from", tmp_path / "kept")
    code, printed, _ = corehead(*options, "--top", 3)
    head_map = HeadMap.from_pretrained(tmp_path / "map")
    assert code == 0 and head_map.num_examples == 20 and head_map.dataset == "glyphs"
    assert head_map.base_model_name_or_path == "glyphs-qwen3-vl" and head_map.base_model_revision is None
    shipped = HeadMap.from_pretrained(f"{MODEL}-head-map")
    assert head_map.ranking()[0].tolist() == shipped.ranking()[0].tolist()
    lines = printed.splitlines()
    assert "20 examples of 'glyphs'" in lines[0]
    assert lines[1].startswith(f"skipped 0, chance level {head_map.chance:.4f}, Spearman ")
    layer, head = head_map.ranking()[0].tolist()
    lift = float(head_map.lift[layer, head])
    assert lines[3].split()[:3] == ["1", str(layer), str(head)] and lines[3].split()[-1] == f"{lift:.1f}" and lift > 3
    assert lines[-2] == "glyphs: 20 examples from 20 rows" and lines[-1] == f"saved in {tmp_path / 'map'}/"
    assert len(list(read_measured(tmp_path / "kept"))) >= 20
    assert corehead(*options, out="again")[0] == 0
    again = HeadMap.from_pretrained(tmp_path / "again")
    assert torch.equal(again.scores, head_map.scores) and again.sums.equal(head_map.sums)
    code, _, error = corehead(*options, "--batch-size", 4)
    assert code == 1 and "batch_size: 8 there / 4 now" in error


def write_jsonl(folder, rows):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "page.png")
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "own.jsonl"


def row(name, **changes):
    evidence = [{"media": 0, "box": [16, 0, 32, 16]}]
    return {"id": name, "media": ["page.png"], "question": "Letter A?", "evidence": evidence, **changes}


def test_ones_own_annotations(corehead, tmp_path):
    rows = [row("a"), row("b", media=["missing.png"]), row("c", question="Letter B?")]
    data = write_jsonl(tmp_path, rows)
    code, _, error = corehead("--data", data)
    assert code == 1 and "own.jsonl:2" in error and "missing.png" in error and not (tmp_path / "map").exists()
    code, printed, _ = corehead("--data", data, "--on-error", "skip", "--dataset", "mine")
    head_map = HeadMap.from_pretrained(tmp_path / "map")
    assert code == 0 and (head_map.num_examples, head_map.num_skipped, head_map.dataset) == (2, 1, "mine")
    assert "skipped 1" in printed and "own.jsonl:2" in printed
    corehead("--data", data, "--on-error", "skip", out="named")
    assert HeadMap.from_pretrained(tmp_path / "named").dataset == "own"


@pytest.mark.parametrize(
    "options, message",
    [
        (("--data", "nothing"), "data set 'nothing' was asked; known are"),
        (("--data", "glyphs", "--path", "x"), "takes none"),
        (("--data", "refcocog"), "needs path"),
        (("--data", "own.jsonl", "--path", "x"), "--path x was given beside"),
        (("--data", "glyphs", "--option", "pages"), "--option pages was given; it is KEY=VALUE"),
        (("--data", "glyphs", "--option", "colour=3"), "has no option colour"),
        (("--data", "glyphs", "--dtype", "float33"), "--dtype float33 was given"),
        (("--data", "glyphs", "--until-stable", "2"), "until_stable=2.0"),
        (("--data", "glyphs", "--keep-rows"), "keep_rows=True was asked without a folder"),
        (("--data", "glyphs", "--min-coverage", "2"), "min_coverage=2.0"),
    ],
)
def test_a_request_that_cannot_be_met(corehead, tmp_path, options, message):
    code, printed, error = corehead(*options)
    assert code == 1 and message in error and not printed
    assert not (tmp_path / "map").exists()
