"""What needs a GPU, in one command: first the gpu tests, then the benchmark, inside a time budget.

    python benchmarks/run_gpu.py --minutes 9 --out "$OUT"

A failing test stops it: what is wrong is not timed. A length that the budget cuts off leaves no rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
CSV = ROOT / "benchmarks" / "results" / "hybrid_attention.csv"
LENGTHS = [8192, 32768, 131072]
BENCHMARK = (
    "benchmarks.bench_hybrid_attention --device cuda --dtype bfloat16 --heads 32 --kv-heads 8 --dense-heads 0 1 2 4"
).split()
NOTHING_COLLECTED = 5  # pytest's exit status


def run_module(arguments: list[str], deadline: float) -> int | None:
    """The exit status of `python -m ...`, or None where the budget ended it."""
    left = deadline - time.monotonic()
    if left <= 0:
        return None
    print(f"[{left:.0f} s left] python -m {' '.join(arguments)}", flush=True)
    try:
        return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, timeout=left).returncode
    except subprocess.TimeoutExpired:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="budget for all of it")
    parser.add_argument("--out", type=Path, help="a folder to copy the CSV to")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    if not torch.cuda.is_available():  # every gpu test would be skipped, and that looks like success
        print(f"a run on a GPU was asked for - torch {torch.__version__} sees none - run it where there is one.")
        return 1
    if importlib.util.find_spec("pytest") is None:
        print("pytest is not installed here: only the benchmark's own check of sampled rows guards the timings.")
    else:
        status = run_module(["pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests"], deadline)
        if status != 0:
            reason = {None: "ran out of time", NOTHING_COLLECTED: "found no test"}.get(status, "failed")
            print(f"the gpu tests {reason} (status {status}); nothing is timed.")
            return 1
    worst = 0
    for n in LENGTHS:
        status = run_module([*BENCHMARK, "--lengths", str(n)], deadline)
        if status != 0:
            print(f"n={n}: {'the budget is spent' if status is None else f'failed with status {status}'}")
            worst = 1
        if args.out and CSV.exists():
            args.out.mkdir(parents=True, exist_ok=True)
            shutil.copy(CSV, args.out / CSV.name)
        if status is None:
            break
    return worst


if __name__ == "__main__":
    sys.exit(main())
