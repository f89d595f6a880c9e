"""One invocation of a benchmark: its options, where and when it ran, and the rows it writes and prints."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import logging
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import LEAST_REPEATS, Case, Timing, append, interleave, is_baseline, quantiles

RESULTS = Path(__file__).parent / "results"
FILES = {
    "attention": "hybrid_attention.csv",
    "prefill": "prefill.csv",
    "decode": "prefill.csv",
    "record": "record.csv",
    "compile": "compile.csv",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all benchmarks have."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device)
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], help="default: bfloat16, float32 on a CPU"
    )
    parser.add_argument(
        "--repeats", type=int, default=LEAST_REPEATS, help=f"timed calls per case, at least {LEAST_REPEATS}"
    )
    parser.add_argument("--providers", nargs="+", help="only these; default: all that run here")
    parser.add_argument("--without", nargs="+", action="extend", default=[], help="not these providers")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument(
        "--seconds", type=float, help="budget: the last providers are left out where all would exceed it"
    )
    parser.add_argument("--commit", help="for the column of that name, where this is no git checkout")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    """Fills defaults that depend on others; exits with argparse's message where a value is out of range."""
    if args.repeats < LEAST_REPEATS:
        parser.error(f"--repeats {args.repeats} was asked for - p20 and p80 need {LEAST_REPEATS} - pass that or more.")
    args.device = torch.device(args.device)
    args.dtype = args.dtype or ("float32" if args.device.type == "cpu" else "bfloat16")
    args.deadline = None if args.seconds is None else time.monotonic() + args.seconds
    return args


def wanted(args: argparse.Namespace, provider: str) -> bool:
    """Whether --providers and --without let a provider through."""
    return (args.providers is None or provider in args.providers) and provider not in args.without


class _Once(logging.Handler):
    """Prints each warning of the package once: providers are switched on again at every turn."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.seen:
            self.seen.add(message)
            print(f"  {record.levelname.lower()}: {message}", flush=True)


@contextlib.contextmanager
def warnings_once() -> Iterator[None]:
    handler, logger = _Once(), logging.getLogger("corehead_hf")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{device.type} ({threads}, {names[0] if names else platform.processor()})"


def origin(device: torch.device, commit: str | None = None) -> dict[str, str]:
    """The columns that say where and when; one value per run."""

    def version(package: str) -> str:
        return importlib.metadata.version(package) if importlib.util.find_spec(package) else ""

    if commit is None:
        describe = ["git", "describe", "--always", "--dirty"]
        git = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True)
        commit = git.stdout.strip() or "none"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit,
        "gpu": machine(device),
        "torch": torch.__version__,
        "triton": version("triton"),
        "transformers": version("transformers"),
    }


@dataclass
class Run:
    """One invocation of a benchmark on one model: times lengths and writes their rows."""

    kind: str
    model: str
    args: argparse.Namespace
    where: dict[str, str]

    @property
    def path(self) -> Path:
        return self.args.results / FILES[self.kind]

    def length(self, n: int, cases: Sequence[Case]) -> list[dict[str, Any]]:
        """Times the cases of one length, appends and prints their rows, and returns them."""
        cases = [case for case in cases if wanted(self.args, case.provider)]
        found = interleave(cases, self.args.device, self.args.repeats, self.args.deadline)
        rows = [self._row(n, case, timing) for case, timing in found.items()]
        append(self.path, rows)
        best = min((float(row["p50_ms"]) for row in rows if is_baseline(row["provider"])), default=float("nan"))
        for row in rows:
            times = " ".join(f"{float(row[name]):10.3f}" for name in ("p20_ms", "p50_ms", "p80_ms"))
            setting = f"{row['provider']:20s} {row['keep']:>7} {row['window'] or '-':>6}"
            print(f"{n:8d}  {setting} {times}  {best / float(row['p50_ms']):6.2f}x {row['peak_mem_gb']:>8}", flush=True)
        return rows

    def header(self) -> None:
        where = self.where
        print(f"{self.kind}, {self.model}: {where['gpu']}, torch {where['torch']}, triton {where['triton']}")
        print(
            "       n  provider                keep window     p20 ms     p50 ms     p80 ms  to better dense, peak GiB"
        )

    def _row(self, n: int, case: Case, timing: Timing) -> dict[str, Any]:
        p20, p50, p80 = quantiles(timing.ms)
        return self.where | {
            "kind": self.kind,
            "model": self.model,
            "n": n,
            "keep": round(case.keep, 4),
            "sink": "" if case.sink is None else case.sink,
            "window": "" if case.window is None else case.window,
            "provider": case.provider,
            "p20_ms": f"{p20:.3f}",
            "p50_ms": f"{p50:.3f}",
            "p80_ms": f"{p80:.3f}",
            "tflops": f"{case.flops / p50 / 1e9:.3f}",
            "peak_mem_gb": "" if timing.peak_gb is None else f"{timing.peak_gb:.3f}",
        }
