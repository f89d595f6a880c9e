"""Timing, budget, out-of-memory handling and the CSV, with fake providers and a scripted clock."""

import contextlib
import csv
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import harness
from benchmarks.harness import COLUMNS, Case, append, interleave, is_baseline, quantiles
from corehead_hf.kernels import trial

CPU = torch.device("cpu")
COLUMNS_OF_THE_ISSUE = (
    "date, commit, gpu, torch, triton, transformers, kind, model, n, keep, sink, window, provider, "
    "p20_ms, p50_ms, p80_ms, tflops, peak_mem_gb"
)


def case(name, call=lambda: None, **more):
    return Case(name, 1.0, None, None, 1e9, call, **more)


def test_columns():
    assert COLUMNS_OF_THE_ISSUE.split(", ") == COLUMNS


def test_quantiles_by_hand():
    assert quantiles([5, 1, 4, 2, 3]) == pytest.approx((1.8, 3, 4.2))  # positions 0.8, 2 and 3.2 of 0..4


def test_providers_take_turns_in_alternating_order():
    calls = []
    found = interleave([case(name, lambda name=name: calls.append(name)) for name in "abc"], CPU, repeats=5)
    assert "".join(calls) == "abccba" * 3 + "abc"  # two turns warm up
    assert [len(timing.ms) for timing in found.values()] == [5, 5, 5]
    assert all(timing.peak_gb is None for timing in found.values())


def test_switching_a_provider_on_is_not_timed():
    events = []

    @contextlib.contextmanager
    def around():
        time.sleep(0.02)
        events.append("on")
        yield
        events.append("off")

    (timing,) = interleave([case("a", lambda: events.append("call"), around=around)], CPU).values()
    assert events == ["on", "call", "off"] * 7
    assert max(timing.ms) < 10


def test_time_is_per_token():
    (timing,) = interleave([case("a", lambda: time.sleep(0.01), tokens=5)], CPU).values()
    assert 2 <= min(timing.ms) < 9


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("no kernel\nfor this")])
@pytest.mark.parametrize("failing_turn", [0, 4])
def test_a_failing_case_is_logged_and_left_out(error, failing_turn, capsys):
    turns = []

    def fail():
        turns.append(1)
        if len(turns) == failing_turn + 1:
            raise error

    found = interleave([case("good"), case("bad", fail), case("other")], CPU)
    assert [c.provider for c in found] == ["good", "other"]
    assert [len(timing.ms) for timing in found.values()] == [5, 5]
    assert len(turns) == failing_turn + 1  # never called again
    log = capsys.readouterr().out
    assert "bad (keep 1)" in log and ("out of memory" in log or "RuntimeError: no kernel" in log)
    assert "for this" not in log


class Clock:
    """Seconds that pass only when a call says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(harness, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def spend(self, seconds):
        self.now += seconds


def test_the_budget_leaves_out_the_last_ones(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    cases = [case(name, lambda: clock.spend(1)) for name in "abcd"]
    found = interleave(cases, CPU, deadline=4 + 6 * 2.5)  # after the first turn, six of two cases fit
    assert [c.provider for c in found] == ["a", "b"]
    assert all(timing.ms == [1000] * 5 for timing in found.values())
    assert clock.now == 4 + 6 * 2
    assert "d (keep 1): 15 s of the budget are left" in capsys.readouterr().out


def test_a_slow_first_turn_alone_does_not_stop_the_rest(monkeypatch):
    clock = Clock(monkeypatch)
    seconds = iter([3] + [1] * 6)
    found = interleave([case("a", lambda: clock.spend(next(seconds)))], CPU, deadline=3 + 6 * 3)
    assert len(next(iter(found.values())).ms) == 5


def test_no_budget_no_rows(monkeypatch):
    clock = Clock(monkeypatch)
    assert interleave([case("a", lambda: clock.spend(1))], CPU, deadline=0) == {}


def test_rows_are_appended_under_one_header(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    row = dict.fromkeys(COLUMNS, "x") | {"gpu": "cpu (2 cores, a name)"}
    append(path, [row])
    append(path, [row, row])
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [COLUMNS] + [[row[name] for name in COLUMNS]] * 3


def test_a_file_with_other_columns_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("date,ms\n")
    with pytest.raises(ValueError, match="has the columns"):
        append(path, [])


def test_what_speed_ups_are_taken_against():
    names = ["dense", "dense_flash", "dense_cudnn", "dense_fa4", "dense_fuse", "hybrid", "flex"]
    assert [is_baseline(name) for name in names] == [True] * 4 + [False] * 3


def test_on_cuda_events_and_the_peak_are_read(monkeypatch):
    monkeypatch.setattr(harness, "milliseconds", lambda call, device: 3.0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    peaks = iter([1, 1, 2, 5, 3, 2, 2])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks) * 2**30)
    (timing,) = interleave([case("a")], torch.device("cuda")).values()
    assert (timing.ms, timing.peak_gb) == ([3.0] * 5, 5.0)
