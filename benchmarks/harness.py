"""What every benchmark shares: the columns, interleaved timing, out-of-memory handling, the CSV.

Cases take turns, in alternating order, so that noise and clock changes hit all alike; the first two turns warm up.
README.md says how to read the rows.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from corehead_hf.kernels import trial
from corehead_hf.kernels.trial import WARM_UPS, milliseconds

COLUMNS = (
    "date commit gpu torch triton transformers kind model n keep sink window provider "
    "p20_ms p50_ms p80_ms tflops peak_mem_gb"
).split()
LEAST_REPEATS = 5  # p20 and p80 of fewer runs mean nothing


@dataclass(frozen=True, eq=False)
class Case:
    """One provider in one setting.

    Attributes:
        provider: as in the CSV; names that begin with "dense" and do not fuse are baselines.
        keep: share of the query heads that are dense, 1 where no head streams.
        sink, window: tokens a streaming head sees; None where no head streams.
        flops: operations the mask needs, for the tflops column.
        call: what is timed.
        around: entered before the clock starts and left after it has stopped: what switches the provider on.
        tokens: the time is divided by it: decoded tokens in one call.
    """

    provider: str
    keep: float
    sink: int | None
    window: int | None
    flops: float
    call: Callable[[], Any]
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    tokens: int = 1

    def __str__(self) -> str:
        window = "" if self.window is None else f", window {self.window}"
        return f"{self.provider} (keep {self.keep:.4g}{window})"


@dataclass
class Timing:
    """Milliseconds of each timed call, the process's peak memory in GiB (None on a CPU), seconds of the last turn."""

    ms: list[float] = field(default_factory=list)
    peak_gb: float | None = None
    turn_seconds: float = 0.0


def quantiles(ms: Sequence[float]) -> tuple[float, float, float]:
    """p20, p50, p80, linear between the neighbouring runs."""
    p20, p50, p80 = (
        torch.tensor(ms, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    )
    return p20, p50, p80


def reason(error: BaseException) -> str:
    """One line for the log."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    return trial.reason(error)


def leave_out(what: object, why: str) -> None:
    """Says so, and gives memory back."""
    print(f"  left out: {what}: {why}", flush=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def interleave(
    cases: Iterable[Case], device: torch.device, repeats: int = LEAST_REPEATS, deadline: float | None = None
) -> dict[Case, Timing]:
    """Time of every case, all in one run; a case that fails is logged and left out.

    Args:
        cases: the most important one first: where the deadline is near, the last ones are left out.
        deadline: on the clock of time.monotonic().
    """
    found = {case: Timing() for case in cases}
    for turn in range(WARM_UPS + repeats):
        if turn in (1, WARM_UPS) and deadline is not None:
            _fit(found, WARM_UPS + repeats - turn, deadline)
        for case in list(found)[:: -1 if turn % 2 else 1]:
            why, start = None, time.monotonic()
            try:
                ms, peak = _once(case, device)
            except Exception as error:  # out of memory, or a kernel that this torch or this device lacks
                why = reason(error)
            if why is not None:  # outside the handler, whose traceback keeps tensors alive
                del found[case]
                leave_out(case, why)
                continue
            found[case].turn_seconds = time.monotonic() - start
            if turn >= WARM_UPS:
                found[case].ms.append(ms)
                found[case].peak_gb = peak if peak is None else max(peak, found[case].peak_gb or 0.0)
    return found


def _once(case: Case, device: torch.device) -> tuple[float, float | None]:
    with case.around():
        if device.type != "cuda":
            return milliseconds(case.call, device) / case.tokens, None
        torch.cuda.reset_peak_memory_stats(device)
        ms = milliseconds(case.call, device) / case.tokens
        return ms, torch.cuda.max_memory_allocated(device) / 2**30


def _fit(found: dict[Case, Timing], turns: int, deadline: float) -> None:
    while found and turns * sum(timing.turn_seconds for timing in found.values()) > deadline - time.monotonic():
        last = list(found)[-1]
        del found[last]
        leave_out(last, f"{max(deadline - time.monotonic(), 0):.0f} s of the budget are left")


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows to the end of a CSV, header once; on the disk when this returns.

    Raises:
        ValueError: the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with path.open(newline="") as file:
            header = next(csv.reader(file), None)
        if header != COLUMNS:
            raise ValueError(f"{path} has the columns {header}; rows have {COLUMNS}. Move it away, or pass --results.")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


def is_baseline(provider: str) -> bool:
    """Whether speed-ups are taken against it: dense attention that fuses nothing else."""
    return provider.startswith("dense") and not provider.endswith("fuse")
