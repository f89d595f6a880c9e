"""The GPU plan without a GPU: its commands parse, its steps run at toy size, failed tests stop what they concern."""

import io
import subprocess
import time

import pytest
import torch

from benchmarks import run_gpu, sanitize
from benchmarks.plan import STEPS


def test_dry_run(capsys):
    assert run_gpu.main(["--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(f"== {step.name} " in out for step in STEPS)
    assert "left out" not in out


def test_a_gpu_run_needs_one(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_gpu.main([]) == 1
    assert "run it where there is one" in capsys.readouterr().out


def test_each_part_fits_its_call():
    """The steps before a part's last one leave it half of its time, in 9 minutes with the tests and the tuning."""
    for part, before, steps in ((1, run_gpu.TEST_SECONDS, 2), (2, 0, 4), (3, 0, 1)):
        seconds = [step.seconds for step in STEPS if step.part == part]
        assert before + sum(seconds[:steps]) < 540 - (run_gpu.TUNE_SECONDS if part == 1 else 0)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("tests/kernels/test_hybrid_prefill.py::test_gpu[bf16]", "kernel"),
        ("tests/kernels/test_fused_ops.py::test_gpu", "fuse"),
        ("tests/modes/test_record.py::test_gpu", "record"),
        ("tests/modes/test_hybrid.py::test_gpu", "hybrid"),
        ("tests/test_cli.py::test_gpu", "other"),
    ],
)
def test_what_a_test_is_about(name, kind):
    assert run_gpu.kind_of_test(name) == kind


@pytest.mark.parametrize(
    "failed, stopped, unfused",
    [
        ([], set(), False),
        (["tests/kernels/test_hybrid_prefill.py::x"], {"attention", "prefill", "decode"}, False),
        (["tests/modes/test_record.py::x"], {"recording"}, False),
        (["tests/test_fusion.py::x"], set(), True),
    ],
)
def test_a_failed_test_stops_what_it_concerns(failed, stopped, unfused, monkeypatch):
    commands = []
    monkeypatch.setattr(run_gpu, "run_module", lambda arguments, seconds: commands.append(arguments) or 0)
    for step in STEPS:
        before = len(commands)
        went_well = run_gpu.run_step(step, failed, time.monotonic() + 1000, "abc")
        assert went_well == (len(commands) > before) == (step.name.split(",")[0] not in stopped)
    assert all(command[-2:] == ["--commit", "abc"] or "--without" in command for command in commands)
    fused = [command for command in commands if "benchmarks.bench_prefill" in command]
    assert all(("dense_fuse" in command) == unfused for command in fused)


def test_no_time_no_step(monkeypatch, capsys):
    monkeypatch.setattr(run_gpu, "run_module", None)
    assert not run_gpu.run_step(STEPS[0], [], time.monotonic() + 1, None)
    assert "the budget is spent" in capsys.readouterr().out


@pytest.mark.parametrize(
    "lines, status, failed",
    [
        ("tests/a.py::x PASSED [ 50%]\ntests/b.py::y[1 2] FAILED [100%]\n1 failed\n", 1, ["tests/b.py::y[1"]),
        ("tests/a.py::x PASSED [100%]\n1 passed\n", 0, []),
        ("no tests ran\n", 5, None),
        ("tests/a.py::x PASSED [ 50%]\n", -9, None),
    ],
)
def test_reading_pytest(lines, status, failed, monkeypatch):
    class Process:
        stdout = io.StringIO(lines)

        def __init__(self, *args, **kwargs):
            pass

        def wait(self):
            return status

        def kill(self):
            raise AssertionError("not within a minute")

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert run_gpu.run_tests(60) == failed


def test_the_sanitizer_s_calls_run_interpreted():
    assert sanitize.main(["--device", "cpu", "--dtypes", "float32", "--calls", "6"]) == 0
