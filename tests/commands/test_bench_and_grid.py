"""corehead bench and grid on a shipped tiny model: what they are told reaches the study, what it finds is said."""

import dataclasses
import json
from importlib import import_module
from pathlib import Path

import hand_made
import pytest

from corehead_hf.analysis import Result
from corehead_hf.analysis.prefill_latency import LENGTHS
from corehead_hf.commands import bench

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
MODEL = HUB / "glyphs-qwen3-vl"
SUBJECT = (MODEL, "--dtype", "float32", "--head-map", HUB / "glyphs-qwen3-vl-head-map")
GLYPHS = ("--data", "glyphs", "--option", "pages=3", "--option", "seed=4242", "--limit", 4)


def words(printed, *begin):
    """Of the table's lines that begin with these."""
    lines = [line.split() for line in printed.splitlines()]
    return [line[len(begin) :] for line in lines if line[: len(begin)] == [str(word) for word in begin]]


def test_bench(corehead, answer, tmp_path):
    out, kept = tmp_path / "new" / "result.json", tmp_path / "kept.jsonl"
    asked = ("bench", *SUBJECT, "--keep", 1, 0.1, "--sink", 4, "--window", 16, "--repeats", 1, "--resume-from", kept)
    asked += ("--out", out, "--backend", "reference", "--dense-below", 30)
    code, printed, error = corehead(*asked, "--lengths", 40, 20, "--figure", tmp_path / "curve.png")
    assert code == 0, error
    study = Result.load(out)
    assert (study.kind, study.model, study.device, study.dtype) == (
        "prefill_latency",
        "glyphs-qwen3-vl",
        "cpu",
        "float32",
    )
    assert (study.sink_size, study.window_size, study.dense_below, study.backend) == (4, 16, 30, "reference")
    assert not study.fuse and study.repeats == 1 and study.num_heads == 48
    made = [(p.length, p.count, p.streaming_layers) for p in study.points]
    assert made == [(20, 48, 0), (20, 1, 0), (20, 5, 0), (40, 48, 0), (40, 1, 12), (40, 5, 12)]
    assert [point.keep for point in study.points[:3]] == pytest.approx([1.0, 1 / 48, 0.1])
    assert "glyphs-qwen3-vl float32 on cpu, 48 heads in 12 layers, hybrid attention on reference\n" in printed
    assert "1 rounds in turns; all other heads see sink 4 + window 16" in printed
    (dense,), (one,) = words(printed, 40, "all"), words(printed, 40, 1)
    point = study.points[4]
    assert dense[0] == "0" and dense[-1] == "-"
    assert one == ["12", *[f"{1e3 * point.mean:.4g}"] * 4, f"{point.speedup.p50:.2f}"]
    assert printed.endswith(f"saved in {out} and {tmp_path / 'curve.png'}\n")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    told = answer(*asked, "--lengths", 20)
    assert told == {**json.loads(out.read_text()), "out": str(out)}
    assert kept.read_text().count("\n") == 1 + 2 and len(told["points"]) == 3


def test_the_options_of_bench_reach_the_study(corehead, tmp_path, monkeypatch):
    given = {}

    def study(model, head_map, **options):
        given.update(options)
        return dataclasses.replace(hand_made.prefill_latency(), fuse=options["fuse"])

    monkeypatch.setattr(import_module("corehead_hf.analysis.prefill_latency"), "prefill_latency", study)
    asked = ("bench", *SUBJECT, "--out", tmp_path / "result.json")
    _, printed, _ = corehead(*asked, "--fuse", "--dense-below", "auto", "--seed", 5, "--repeats", 9)
    assert given == {
        "keeps": [0.05], "lengths": list(LENGTHS), "sink_size": 128, "window_size": 2048, "dense_below": "auto",
        "backend": "auto", "fuse": True, "repeats": 9, "seed": 5, "resume_from": None,
    }  # fmt: skip
    assert "hybrid attention on triton with fused kernels\n" in printed
    corehead(*asked)
    assert given["fuse"] is False and given["dense_below"] == 0 and given["repeats"] == 5


def test_bench_says_what_ran_out_of_memory():
    study = hand_made.prefill_latency(lengths=(8192,), counts=(20, 250), lost=((8192, 1152), (8192, 250)))
    printed = "\n".join(bench._text(study))
    assert words(printed, 8192, "all") == [["0", "out", "of", "memory", "-", "-", "-", "-"]]
    assert words(printed, 8192, 250) == [["36", "out", "of", "memory", "-", "-", "-", "-"]]
    (row,) = words(printed, 8192, 20)
    assert row[0] == "36" and row[-1] == "-"


def test_the_lengths_of_bench_are_the_papers():
    assert bench.LENGTHS == LENGTHS == tuple(1024 * n for n in (8, 16, 32, 64, 128))


def test_grid(corehead, answer, tmp_path):
    out, kept = tmp_path / "result.json", tmp_path / "kept.jsonl"
    asked = (
        "grid",
        *SUBJECT,
        *GLYPHS,
        "--keep",
        1,
        "--sink",
        4,
        0,
        "--batch-size",
        4,
        "--resume-from",
        kept,
        "--out",
        out,
    )
    code, printed, error = corehead(
        *asked, "--window", 16, 99, "--figure", tmp_path / "curve.png", "--dataset", "letters"
    )
    assert code == 0, error
    grid = Result.load(out)
    assert (grid.kind, grid.dataset, grid.num_examples, grid.chance) == ("hybrid_grid", "letters", 4, 1 / 12)
    assert [(p.sink_size, p.window_size, p.count) for p in grid.points] == [
        (sink, window, 1) for sink in (0, 4) for window in (16, 99)
    ]
    assert grid.dense.value == 1.0 and grid.longest < 99 and grid.points[1].cost.kv_read == 1.0
    assert printed.startswith("glyphs-qwen3-vl, 4 examples of letters, 48 heads, chance level 0.083\n")
    assert f"prompts of {grid.shortest} to {grid.longest} tokens" in printed
    (dense,), (narrow,) = words(printed, "-", "-", "all"), words(printed, 4, 16, 1)
    assert dense[:3] == ["1.000", "[0.510,", "1.000]"] and dense[-2:] == ["1.000", f"{grid.dense_flops:.3g}"]
    cost = grid.points[2].cost
    assert narrow[0] == f"{grid.points[2].accuracy.value:.3f}"
    assert narrow[-3:] == [f"{cost.kv_read:.3f}", f"{cost.flops:.3g}", f"({cost.flops_share:.3f})"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    passes = kept.read_text().count("\n")
    told = answer(*asked, "--window", 16, "--chance", 0.5)
    assert kept.read_text().count("\n") == passes and told["chance"] == 0.5 and len(told["points"]) == 2


@pytest.mark.parametrize(
    "verb, options, message",
    [
        ("bench", ("--lengths", 1), "lengths=[1]"),
        ("bench", ("--keep", 49), "keep=49"),
        ("bench", ("--backend", "fast"), "backend 'fast'"),
        ("bench", ("--out", "."), "--out . is a folder"),
        ("grid", (*GLYPHS, "--keep", 0.001), "rounds to 0"),
        ("grid", (*GLYPHS, "--head-map", "nowhere"), "nowhere"),
    ],
)
def test_a_request_that_cannot_be_met(corehead, tmp_path, verb, options, message):
    code, printed, error = corehead(verb, *SUBJECT, "--out", tmp_path / "result.json", *options)
    assert code == 1 and message in error and not printed
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    "verb, options, message",
    [
        ("bench", ("--lengths", "0"), "argument --lengths: 0 was given"),
        ("bench", ("--dense-below", "never"), "never was given"),
        ("bench", ("--keep", "1.5"), "1.5 was given"),
        ("grid", (*GLYPHS, "--window", "0"), "argument --window: 0 was given"),
        ("grid", (*GLYPHS, "--figure", "curve.gif"), "curve.gif was given"),
        ("grid", (), "--data"),
    ],
)
def test_wrong_usage(usage, tmp_path, verb, options, message):
    assert message in usage(verb, *SUBJECT, "--out", tmp_path / "result.json", *options)
