"""bench_compile end to end at toy size, what it refuses to time, and its table by hand."""

import csv

import pytest
import torch

from benchmarks import bench_compile, report
from benchmarks.rows import Group, Row

TINY = "--device cpu --model tiny --lengths 60 --tokens 2 --window 16 --sink 4 --compiler eager".split()
STATES = ["dense", "dense_compiled", "wrapped", "wrapped_compiled", "hybrid", "hybrid_compiled"]


def test_every_state_in_one_run(tmp_path, capsys):
    assert bench_compile.main([*TINY, "--layers", "2", "--results", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "compile.csv").open(newline="")))
    assert [row["provider"] for row in rows] == STATES
    assert {(row["kind"], row["model"], row["n"]) for row in rows} == {("compile", "tiny 2 layers float32", "60")}
    assert [row["window"] for row in rows] == [""] * 4 + ["16"] * 2
    assert capsys.readouterr().out.count("1 graphs, 0 graph breaks, error") == 3


def test_a_wrong_compiler_is_not_timed(tmp_path, monkeypatch, capsys):
    def wrong(args, model):
        def backend(graph, inputs):
            return lambda *given: [x * 1.01 if x.is_floating_point() else x for x in graph(*given)]

        return torch.compile(model, backend=backend, dynamic=False)

    monkeypatch.setattr(bench_compile, "compiled", wrong)
    assert bench_compile.main([*TINY, "--layers", "1", "--results", str(tmp_path)]) == 1
    assert not (tmp_path / "compile.csv").exists() and ", wrong" in capsys.readouterr().out


def test_a_model_that_was_not_compiled_is_not_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_compile, "compiled", lambda args, model: model)
    assert bench_compile.main([*TINY, "--layers", "1", "--results", str(tmp_path)]) == 1
    assert not (tmp_path / "compile.csv").exists() and "0 graphs" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--window", "60"], ["--layers", "4"], ["--layers", "0"]])
def test_sizes_that_do_not_fit_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        bench_compile.parse([*TINY, *wrong])
    assert " - pass " in capsys.readouterr().err


def test_the_table_by_hand():
    def row(provider, p50):
        return Row("d", "cpu", "2", "compile", "m", 8, 1.0, None, None, provider, p50 - 1, p50, p50 + 1, None)

    rows = (row("dense", 10), row("wrapped", 11), row("dense_compiled", 4), row("wrapped_compiled", 5))
    header, lines = report.compile_table([(Group(rows), [rows[1], rows[3]])], None)
    assert len(header) == len(lines[0]) == 5
    assert lines == [
        ["8", "wrapped", "10.000", "11.000", "1.10x (0.91-1.33)"],  # 11 / 10, 10 / 11, 12 / 9
        ["8", "wrapped_compiled", "4.000", "5.000", "1.25x (0.80-2.00)"],  # 5 / 4, 4 / 5, 6 / 3
    ]
