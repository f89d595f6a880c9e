"""corehead ablate and sweep on a shipped tiny model: what they are told reaches the study, what it finds is said."""

import dataclasses
import json
import logging
from pathlib import Path

import hand_made
import pytest

from corehead_hf import HeadMap
from corehead_hf.analysis import Estimate, Result
from corehead_hf.analysis.ablation import AblationPoint
from corehead_hf.commands import ablate

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
MODEL = HUB / "glyphs-qwen3-vl"
MAP = HUB / "glyphs-qwen3-vl-head-map"
SUBJECT = (MODEL, "--dtype", "float32", "--head-map", MAP)
GLYPHS = ("--data", "glyphs", "--option", "pages=3", "--option", "seed=4242", "--limit", 5)
SIZES = ("--sink", 4, "--window", 16)


def rows(printed, *begin):
    """The words of the table's lines that begin with these."""
    lines = [line.split() for line in printed.splitlines()]
    return [words[len(begin) :] for words in lines if words[: len(begin)] == [str(word) for word in begin]]


def test_ablate(corehead, answer, tmp_path):
    out, kept = tmp_path / "new" / "result.json", tmp_path / "kept.jsonl"
    asked = ("ablate", *SUBJECT, *GLYPHS, *SIZES, "--counts", 1, 0.05, "--seeds", 0, 3, "--out", out)
    asked += ("--groups", "top", "random", "--reference", 1, "--resume-from", kept)
    code, printed, error = corehead(*asked, "--variants", "zero", "stream", "--figure", tmp_path / "curve.png")
    assert code == 0, error
    curve = Result.load(out)
    assert (curve.kind, curve.model, curve.dataset) == ("ablation", "glyphs-qwen3-vl", "glyphs")
    assert (curve.num_examples, curve.num_heads, curve.sink_size, curve.window_size) == (4, 48, 4, 16)
    assert curve.chance == 1 / 12 and curve.dense.value == 1.0
    made = [(p.variant, p.group, p.count, p.seed) for p in curve.points]
    groups = [("top", 1, None), ("top", 2, None), *(("random", count, seed) for count in (1, 2) for seed in (0, 3))]
    assert made == [(variant, *group) for variant in ("zero", "stream") for group in groups]
    top = [p.accuracy.value for p in curve.points if p.group == "top"]
    assert max(top) <= 0.5  # the one head that looks the letter up
    assert printed.startswith("glyphs-qwen3-vl, 4 examples of glyphs, 48 heads, chance level 0.083\n")
    assert rows(printed, "none", "dense") == [["0", "1.000", "[0.510,", "1.000]", "-"]]  # Wilson's of 4 of 4
    (drawn,) = rows(printed, "zero", "top", 1)
    accuracy, drop = curve.points[0].accuracy, curve.points[0].drop
    assert drawn[0] == f"{accuracy.value:.3f}" and drawn[3] == f"{drop.value:.3f}"
    seeds = [p.accuracy for p in curve.points if (p.variant, p.group, p.count) == ("stream", "random", 2)]
    low, high = min(s.low for s in seeds), max(s.high for s in seeds)
    (drawn,) = rows(printed, "stream", "random", 2)
    assert drawn[:3] == [f"{sum(s.value for s in seeds) / 2:.3f}", f"[{low:.3f},", f"{high:.3f}]"]
    assert printed.endswith(f"saved in {out} and {tmp_path / 'curve.png'}\n")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    passes = kept.read_text().count("\n")
    told = answer(*asked, "--variants", "zero", "mean")  # also with a variant more
    assert kept.read_text().count("\n") == passes + 6
    assert (
        told["out"] == str(out)
        and told["kind"] == "ablation"
        and told == {**json.loads(out.read_text()), "out": str(out)}
    )
    assert told["points"][0]["accuracy"] == vars(accuracy)


def test_of_random_heads_the_mean_and_the_envelope_are_said():
    seeds = [("zero", "random", 1, 0, 0.8), ("zero", "top", 1, None, 0.1), ("zero", "random", 1, 1, 0.6)]
    points = [AblationPoint(*key, Estimate(x, x - 0.1, x + 0.05), Estimate(-x, -x, 0.0)) for *key, x in seeds]
    curve = dataclasses.replace(hand_made.ablation(), points=tuple(points))
    lines = ablate._text(curve)
    assert rows("\n".join(lines), "zero", "random", 1) == [
        ["0.700", "[0.500,", "0.850]", "-0.700", "[-0.800,", "0.000]"]
    ]
    assert rows("\n".join(lines), "zero", "top", 1) == [["0.100", "[0.000,", "0.150]", "-0.100", "[-0.100,", "0.000]"]]


def test_sweep(corehead, answer, tmp_path):
    out = tmp_path / "result.json"
    asked = ("sweep", *SUBJECT, *GLYPHS, *SIZES, "--out", out, "--chance", 0.5, "--max-new-tokens", 3)
    code, printed, error = corehead(*asked, "--keep", 1, 1.0, "--time", "--repeats", 2, "--dataset", "letters")
    assert code == 0, error
    swept = Result.load(out)
    assert (swept.kind, swept.dataset, swept.num_examples) == ("keep_sweep", "letters", 5)
    assert (swept.sink_size, swept.window_size, swept.chance, swept.device) == (4, 16, 0.5, "cpu")
    assert [(point.count, point.accuracy.value) for point in swept.points] == [(1, 1.0), (48, 1.0)]
    assert swept.num_tokens > 48 and swept.points[0].seconds.p50 > 0
    assert f"of {swept.num_tokens} tokens on cpu" in printed and "sink 4 + window 16" in printed
    every, one, all_ = rows(printed, "all")[1], *(rows(printed, count)[0] for count in (1, 48))
    assert every[0] == "1.000" and one[0] == "0.021" and all_[0] == "1.000"
    assert one[-4:-3] == [f"{swept.points[0].speedup.p50:.3g}"]
    told = answer(*asked, "--keep", 0.05)
    assert told["points"][0]["count"] == 2 and told["points"][0]["seconds"] is None and told["num_tokens"] is None


@pytest.mark.parametrize(
    "asked, message",
    [
        (("--keep", 1, "--repeats", 3), "--repeats counts timed rounds; give it with --time"),
        (("--keep", 1, "--out", MODEL / "config.json" / "a.json"), "no file can be made there"),
    ],
)
def test_what_could_not_be_kept_or_would_be_ignored_is_refused_first(corehead, tmp_path, asked, message):
    code, _, error = corehead("sweep", *SUBJECT, *GLYPHS, "--out", tmp_path / "r.json", *asked)
    assert code == 1 and message in error and "Traceback" not in error


def test_what_the_family_cannot_map_is_skipped_where_that_is_asked(corehead, tmp_path, caplog):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "page.png")
    row = {"id": "a", "media": ["page.png"], "question": "Letter A?", "answer": "red"}
    row["evidence"] = [{"media": 0, "box": [16, 0, 32, 16]}]
    odd = {**row, "id": "b", "question": "Cafe\u0301, letter B?"}  # the tokenizer composes the accent
    data = tmp_path / "own.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in (row, odd, {**row, "id": "c"})))
    asked = ("sweep", *SUBJECT, "--data", data, *SIZES, "--keep", 1, "--out", tmp_path / "result.json")
    assert corehead(*asked)[0] == 1
    with caplog.at_level(logging.WARNING):
        assert corehead(*asked, "--on-error", "skip")[0] == 0
    assert "skipped example 'b'" in caplog.text
    found = Result.load(tmp_path / "result.json")
    assert (found.num_examples, found.chance, found.dataset) == (2, None, "own")
    data.write_text(json.dumps({**row, "answer": " "}))
    code, _, error = corehead(*asked)
    assert code == 1 and "example 'a' has no answer text" in error


@pytest.mark.parametrize(
    "verb, options, message",
    [
        ("ablate", ("--variants", "mean"), "give --reference"),
        ("ablate", ("--variants", "zero", "--reference", 99), "gave no example to score beside --reference 99"),
        ("ablate", ("--counts", 49), "keep=49"),
        ("sweep", ("--keep", 0.001), "rounds to 0"),
        ("sweep", ("--out", "."), "--out . is a folder"),
        ("sweep", ("--head-map", "nowhere"), "nowhere"),
    ],
)
def test_a_request_that_cannot_be_met(corehead, tmp_path, verb, options, message):
    code, printed, error = corehead(verb, *SUBJECT, *GLYPHS, "--out", tmp_path / "result.json", *options)
    assert code == 1 and message in error and not printed
    assert not (tmp_path / "result.json").exists()


def test_a_map_of_another_model(corehead, tmp_path):
    other = HUB / "glyphs-internvl-head-map"
    assert HeadMap.from_pretrained(other).model_type == "internvl"
    asked = ("ablate", MODEL, "--head-map", other, *GLYPHS, "--out", tmp_path / "result.json")
    code, _, error = corehead(*asked)
    assert code == 1 and "model_type: map has 'internvl' / model has 'qwen3_vl'" in error


@pytest.mark.parametrize(
    "options, message",
    [
        (("--counts", "0"), "argument --counts: 0 was given"),
        (("--counts", "1.5"), "1.5 was given"),
        (("--groups", "middle"), "invalid choice: 'middle'"),
        (("--variants", "half"), "invalid choice: 'half'"),
        (("--figure", "curve.gif"), "curve.gif was given"),
        (("--chance", "2"), "2 was given"),
        (("--window", "0"), "0 was given"),
    ],
)
def test_wrong_usage(usage, tmp_path, options, message):
    assert message in usage("ablate", *SUBJECT, *GLYPHS, "--out", tmp_path / "result.json", *options)
