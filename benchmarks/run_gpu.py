"""What needs a GPU, in one command: the gpu tests, autotuning, then the benchmarks of plan.py inside a time budget.

    python benchmarks/run_gpu.py --minutes 9 --out "$OUT"

A failed test stops the steps it concerns; the rest and the report still run. --part 1, 2 or 3 splits the plan for three
calls; --dry-run prints it and runs every step at toy size on a CPU.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # as a script it would find its siblings by their bare names only
    sys.path[0] = str(ROOT)

import torch  # noqa: E402

from benchmarks import figure, report  # noqa: E402
from benchmarks.plan import STEPS, Step  # noqa: E402
from benchmarks.roofline import Ceilings  # noqa: E402
from benchmarks.rows import read  # noqa: E402
from benchmarks.session import RESULTS, origin  # noqa: E402
from corehead_hf.kernels import tuning  # noqa: E402

TEST_SECONDS, TUNE_SECONDS = 170, 120
MARGIN = 12  # seconds between a benchmark's own budget and the end of its process
FUSED = ["--without", "hybrid_fuse", "dense_fuse"]


def kind_of_test(name: str) -> str:
    """What a gpu test is about: "fuse", "record", "kernel", "hybrid" or "other"."""
    for kind, words in {
        "fuse": ("fus",),
        "record": ("record", "rows", "detection"),
        "kernel": ("kernels/",),
        "hybrid": ("hybrid", "model", "patching", "seam"),
    }.items():
        if any(word in name for word in words):
            return kind
    return "other"


def run_tests(seconds: float) -> list[str] | None:
    """Names of the gpu tests that failed, or None where there is no verdict; prints failures and the summary."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider", "tests"]
    print(f"[{seconds:.0f} s] {' '.join(command[1:])}", flush=True)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    assert process.stdout is not None
    lines = list(process.stdout)
    status = process.wait()
    timer.cancel()
    failed = [line.split()[0] for line in lines if " FAILED" in line or " ERROR" in line]
    print("".join(lines[-1:] if status == 0 else lines[-40:]), flush=True)
    if failed or status == 0:
        return failed
    why = "out of time" if status < 0 else f"status {status}"
    print(f"the gpu tests gave no verdict ({why}): only the check of sampled rows guards the timings", flush=True)
    return None


def run_module(arguments: list[str], seconds: float) -> int | None:
    """The exit status of `python -m ...`, or None where its time ended it."""
    print(f"[{seconds:.0f} s] python -m {' '.join(arguments)}", flush=True)
    try:
        return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return None


def run_step(step: Step, failed: list[str], deadline: float, commit: str | None) -> bool:
    """Runs one benchmark unless a failed test forbids it; returns whether all went well."""
    kinds = {kind_of_test(name) for name in failed}
    print(f"\n== {step.name}", flush=True)
    if kinds & set(step.stopped_by):
        print(f"not timed: {', '.join(sorted(kinds & set(step.stopped_by)))} tests failed")
        return False
    seconds = min(step.seconds, deadline - time.monotonic())
    if seconds < 2 * MARGIN:
        print("not timed: the budget is spent")
        return False
    more = ["--seconds", f"{seconds - MARGIN:.0f}"] + ([] if commit is None else ["--commit", commit])
    if step.fuses and "fuse" in kinds:
        more += FUSED
    status = run_module([step.module, *step.arguments.split(), *more], seconds)
    if status != 0:
        print(f"{step.name}: {'out of time' if status is None else f'status {status}'}")
    return status == 0


def keep(out: Path | None, final: bool = False) -> None:
    """Copies the CSV files, and at the end the report and the figure, to --out."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    for path in RESULTS.glob("*.csv"):
        shutil.copy(path, out / path.name)
    if final:
        rows = read(RESULTS)
        (out / "report.md").write_text(report.readme_section(rows, Ceilings()), encoding="utf-8")
        if all(importlib.util.find_spec(name) for name in ("matplotlib", "pandas")):
            figure.draw(rows, out / "figure7.png")


def tune(out: Path | None, deadline: float) -> None:
    """Measures this GPU's tiles and rates unless that was done before; what is measured is used from then on."""
    seconds = min(TUNE_SECONDS, deadline - time.monotonic())
    if tuning.entry("cuda"):
        print(f"this GPU is tuned already: {tuning.file()}")
    elif seconds > 0:
        target = [] if out is None else ["--json", str(out / "autotune.json")]
        status = run_module(["corehead_hf.cli", "autotune", *target], seconds)
        print("tuned" if status == 0 else f"not tuned ({'out of time' if status is None else f'status {status}'})")


def environment(commit: str | None) -> None:
    where = origin(torch.device("cuda" if torch.cuda.is_available() else "cpu"), commit)
    print(f"Python {platform.python_version()}; " + "; ".join(f"{name} {value}" for name, value in where.items()))


def dry_run(steps: list[Step]) -> int:
    """Parses every real command and runs every step at toy size, in this process, into a throw-away folder."""
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        for step in steps:
            print(f"\n== {step.name} [{step.seconds:.0f} s]: python -m {step.module} {step.arguments}", flush=True)
            module = importlib.import_module(step.module)
            module.parse(step.arguments.split())
            worst = max(worst, module.main([*step.tiny.split(), "--results", folder, "--seconds", "60"]))
        print("\n" + "\n".join(report.sections(read(Path(folder)), Ceilings(), report.plain)))
    return worst


def real_run(steps: list[Step], args: argparse.Namespace) -> int:
    deadline = time.monotonic() + 60 * args.minutes
    if not torch.cuda.is_available():  # every gpu test would be skipped, and that looks like success
        print(f"a run on a GPU was asked for - torch {torch.__version__} sees none - run it where there is one.")
        return 1
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    failed = None if args.part in (2, 3) else run_tests(min(TEST_SECONDS, deadline - time.monotonic()))
    all_well = args.part in (2, 3) or failed == []
    tune(args.out, deadline)
    for step in steps:
        all_well &= run_step(step, failed or [], deadline, args.commit)
        keep(args.out)
    print("\n" + "\n".join(report.sections(read(RESULTS), Ceilings(), report.plain)))
    keep(args.out, final=True)
    print(f"failed gpu tests: {', '.join(failed) or 'none'}" if failed is not None else "no verdict of the gpu tests")
    return 0 if all_well else 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="budget for all of it")
    parser.add_argument("--out", type=Path, help="a folder to copy rows, report and figure to")
    parser.add_argument(
        "--part", type=int, choices=[1, 2, 3], help="of the plan; parts 2 and 3 trust the tests of part 1"
    )
    parser.add_argument("--commit", help="for the column of that name, where this is no git checkout")
    parser.add_argument("--dry-run", action="store_true", help="toy sizes on a CPU, rows thrown away")
    args = parser.parse_args(argv)
    steps = [step for step in STEPS if args.part in (None, step.part)]
    environment(args.commit)
    return dry_run(steps) if args.dry_run else real_run(steps, args)


if __name__ == "__main__":
    sys.exit(main())
