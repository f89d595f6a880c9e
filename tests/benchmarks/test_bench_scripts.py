"""Each benchmark end to end at toy size on the CPU, and what it does with a wrong result."""

import csv

import pytest

from benchmarks import bench_hybrid_attention, bench_prefill, bench_record, oracle

LAYER = "--device cpu --heads 4 --kv-heads 2 --head-dim 32 --window 40 --sink 8 --lengths 100 --peer-heads".split()
TINY = "--device cpu --model tiny --lengths 150".split()
SPARSE = "--keep 0.2 --windows 48 --sink 8 --dense-below 0".split()


def rows_of(folder, name):
    path = folder / name
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def test_attention(tmp_path):
    assert bench_hybrid_attention.main([*LAYER, "--dense-heads", "0", "1", "--results", str(tmp_path)]) == 0
    rows = rows_of(tmp_path, "hybrid_attention.csv")
    found = [(row["provider"], row["keep"], row["window"]) for row in rows]
    assert found == [("dense", "1.0", ""), ("banded", "0.0", "40"), ("banded", "0.25", "40")]
    assert {row["kind"] for row in rows} == {"attention"} and len({row["date"] for row in rows}) == 1


def test_interpreted_triton_as_providers_of_their_own(tmp_path):
    options = ["--lengths", "50", "--dense-heads", "1", "--backends", "triton_one_launch", "triton_two_launches"]
    assert bench_hybrid_attention.main([*LAYER, *options, "--results", str(tmp_path)]) == 0
    providers = [row["provider"] for row in rows_of(tmp_path, "hybrid_attention.csv")]
    assert providers == ["dense", "banded", "triton_one_launch", "triton_two_launches"]


def test_a_wrong_attention_is_not_timed(tmp_path, monkeypatch, capsys):
    right = bench_hybrid_attention.hybrid_attention

    def one_key_too_many(*args, window_size, **kwargs):
        return right(*args, window_size=window_size + 1, **kwargs)

    monkeypatch.setattr(bench_hybrid_attention, "hybrid_attention", one_key_too_many)
    assert bench_hybrid_attention.main([*LAYER, "--dense-heads", "0", "--results", str(tmp_path)]) == 1
    assert [row["provider"] for row in rows_of(tmp_path, "hybrid_attention.csv")] == ["dense"]
    assert "wrong: error" in capsys.readouterr().out


def test_prefill(tmp_path, capsys):
    assert bench_prefill.main([*TINY, *SPARSE, "--results", str(tmp_path)]) == 0
    rows = rows_of(tmp_path, "prefill.csv")
    found = [(row["provider"], row["keep"], row["window"]) for row in rows]
    fused = [("hybrid_fuse", "0.2083", "48"), ("dense_fuse", "1.0", "")]
    assert found == [("dense", "1.0", ""), ("hybrid", "0.2083", "48"), *fused]
    assert {(row["kind"], row["model"], row["n"]) for row in rows} == {("prefill", "tiny float32", "150")}
    assert "hybrid, window 48, 5 dense heads: agrees with explicit masks" in capsys.readouterr().out


def test_a_wrong_prefill_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(oracle, "refuse", lambda *args: "wrong")
    assert bench_prefill.main([*TINY, *SPARSE, "--results", str(tmp_path)]) == 1
    assert rows_of(tmp_path, "prefill.csv") == []


def test_decode(tmp_path):
    assert bench_prefill.main([*TINY, *SPARSE, "--decode", "2", "--results", str(tmp_path)]) == 0
    rows = rows_of(tmp_path, "prefill.csv")
    assert [row["provider"] for row in rows] == ["dense", "hybrid", "hybrid_fuse"]
    assert {row["kind"] for row in rows} == {"decode"}


def test_record(tmp_path, capsys):
    options = ["--question", "4", "--evidence", "8"]
    assert bench_record.main([*TINY, *options, "--results", str(tmp_path)]) == 0
    assert [row["provider"] for row in rows_of(tmp_path, "record.csv")] == ["dense", "record"]
    assert "recording 150 tokens" in capsys.readouterr().out


def test_recording_masks_do_not_overlap():
    question, evidence = bench_record.masks(50, 4, 8)
    assert question[0, -4:].all() and question.sum() == 4 and evidence.sum() == 8
    assert not (question & evidence).any()


def test_too_long_a_question_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench_record.parse([*TINY, "--question", "100", "--evidence", "50"])
    assert "do not fit in 150" in capsys.readouterr().err
