"""Options, the origin columns, and the rows one invocation writes."""

import csv
import logging

import pytest
import torch

from benchmarks import bench_hybrid_attention, session
from benchmarks.harness import COLUMNS, Case, Timing
from benchmarks.session import Run, origin


def arguments(tmp_path, *more):
    return bench_hybrid_attention.parse(["--device", "cpu", "--results", str(tmp_path), *more])


def test_too_few_repeats_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        arguments(tmp_path, "--repeats", "4")
    assert "p20 and p80 need 5" in capsys.readouterr().err


def test_origin_names_this_machine():
    where = origin(torch.device("cpu"), "abc")
    assert list(where) == COLUMNS[:6]
    assert where["commit"] == "abc" and where["torch"] == torch.__version__ and "cores" in where["gpu"]


def test_a_row_by_hand(tmp_path, monkeypatch, capsys):
    cases = [
        Case("dense", 1.0, None, None, 8e9, None),
        Case("hybrid", 1 / 3, 4, 16, 2e9, None),
        Case("flex", 1 / 3, 4, 16, 2e9, None),
    ]
    timings = {cases[0]: Timing([2, 2, 4, 2, 2], 1.5), cases[1]: Timing([1, 1, 1, 1, 1], 1.25)}
    seen = []
    monkeypatch.setattr(session, "interleave", lambda found, *rest: seen.extend(found) or timings)
    args = arguments(tmp_path, "--without", "flex")
    run = Run("attention", "a model", args, origin(args.device, "abc"))
    run.length(64, cases)
    assert seen == cases[:2]
    with (tmp_path / "hybrid_attention.csv").open(newline="") as file:
        dense, hybrid = csv.DictReader(file)
    assert list(dense) == COLUMNS
    values = [hybrid[name] for name in COLUMNS[6:]]
    assert values == "attention,a model,64,0.3333,4,16,hybrid,1.000,1.000,1.000,2.000,1.250".split(",")
    assert (dense["tflops"], dense["sink"], dense["window"], dense["keep"]) == ("4.000", "", "", "1.0")
    assert "2.00x" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, kept", [([], "abc"), (["--providers", "a", "b"], "ab"), (["--without", "a", "--without", "c"], "b")]
)
def test_which_providers_run(tmp_path, options, kept):
    args = arguments(tmp_path, *options)
    assert "".join(name for name in "abc" if session.wanted(args, name)) == kept


def test_a_warning_of_the_package_is_printed_once(capsys):
    logger = logging.getLogger("corehead_hf.modes.hybrid")
    with session.warnings_once():
        for length in (8, 8, 9):
            logger.warning("%d tokens run dense", length)
    logger.warning("7 tokens run dense")
    assert capsys.readouterr().out == "  warning: 8 tokens run dense\n  warning: 9 tokens run dense\n"
