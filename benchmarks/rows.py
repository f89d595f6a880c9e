"""The committed rows, read back: grouped by run, with the ratios and bounds a reader may build from them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import COLUMNS, is_baseline
from benchmarks.roofline import Ceilings, attention_flops, speed_up_bound
from benchmarks.shapes import SHAPES

HYBRID = ("hybrid", "banded")  # what enable_hybrid and backend="auto" run


@dataclass(frozen=True)
class Row:
    """One line of results/*.csv; times in ms, sink and window None where every head is dense."""

    date: str
    gpu: str
    torch: str
    kind: str
    model: str
    n: int
    keep: float
    sink: int | None
    window: int | None
    provider: str
    p20: float
    p50: float
    p80: float
    peak_gb: float | None

    @property
    def setting(self) -> tuple[object, ...]:
        """What a later run of the same replaces."""
        return (self.kind, self.gpu, self.model, self.n, self.provider, self.keep, self.sink, self.window)

    @property
    def on_gpu(self) -> bool:
        return not self.gpu.startswith("cpu")


@dataclass(frozen=True)
class Ratio:
    """How many times faster: by the medians, and between what p20 and p80 of both allow."""

    p50: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.p50:.2f}x ({self.low:.2f}-{self.high:.2f})"


def ratio(slow: Row, fast: Row) -> Ratio:
    return Ratio(slow.p50 / fast.p50, slow.p20 / fast.p80, slow.p80 / fast.p20)


@dataclass(frozen=True)
class Group:
    """The rows of one interleaved run at one length; ratios are built inside a group only."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def baseline(self) -> Row | None:
        """The fastest dense row by its median."""
        return min((row for row in self.rows if is_baseline(row.provider)), key=lambda row: row.p50, default=None)

    @property
    def lacks_a_baseline(self) -> bool:
        """On a GPU speed-ups are against the better of two dense kernels; whether one of them is missing."""
        found = {row.provider for row in self.rows}
        return self.first.on_gpu and not {"dense_flash", "dense_cudnn"} <= found and self.first.kind != "record"

    def hybrid_of(self, row: Row) -> Row | None:
        """The hybrid row with the setting of another row."""
        same = (row.keep, row.sink, row.window)
        found = (r for r in self.rows if r.provider in HYBRID and (r.keep, r.sink, r.window) == same)
        return next(found, None)


def read(folder: Path) -> list[Row]:
    """All rows of a folder's CSV files.

    Raises:
        ValueError: a file has other columns.
    """
    rows = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise ValueError(f"{path} has the columns {reader.fieldnames}; benchmark rows have {COLUMNS}.")
            rows.extend(_row(line) for line in reader)
    return rows


def _row(line: dict[str, str]) -> Row:
    def whole(name: str) -> int | None:
        return int(line[name]) if line[name] else None

    times = (float(line[name]) for name in ("p20_ms", "p50_ms", "p80_ms"))
    texts = (line[name] for name in ("date", "gpu", "torch", "kind", "model"))
    peak = float(line["peak_mem_gb"]) if line["peak_mem_gb"] else None
    sizes = (whole("sink"), whole("window"))
    return Row(*texts, int(line["n"]), float(line["keep"]), *sizes, line["provider"], *times, peak)


def groups(rows: Iterable[Row]) -> list[Group]:
    """Rows by run and length, in the order of machine, model and length."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row.kind, row.gpu, row.model, row.n, row.date), []).append(row)
    return [Group(tuple(found[key])) for key in sorted(found, key=str_and_numbers)]


def str_and_numbers(key: tuple[object, ...]) -> tuple[tuple[bool, object], ...]:
    return tuple((isinstance(part, str), part) for part in key)


def latest(found: Iterable[Group]) -> list[tuple[Group, list[Row]]]:
    """Each run with those of its rows that are compared with its baseline and that no later run has measured again."""
    found = list(found)
    last: dict[tuple[object, ...], str] = {}
    for group in found:
        for row in group.rows:
            last[row.setting] = max(row.date, last.get(row.setting, ""))
    shown = []
    for group in found:
        rows = [row for row in group.rows if not is_baseline(row.provider) and last[row.setting] == row.date]
        if rows and group.baseline is not None:
            shown.append((group, rows))
    return shown


def bound(row: Row, rates: Ceilings | None) -> float | None:
    """The highest speed-up over dense that the row's setting allows, or None where nothing says it.

    For one layer's attention: the FLOP ratio, that is, every needed pair at the rate of the dense kernel. For a
    backbone: roofline.speed_up_bound at the given rates.
    """
    if row.window is None or row.sink is None:
        return None
    if row.kind == "attention":
        heads, head_dim = (int(x) for x in re.findall(r"^(\d+)q\d+kv d(\d+)", row.model)[0])
        dense, needed = (
            attention_flops(heads, count, head_dim, row.n, row.sink, row.window)
            for count in (heads, round(row.keep * heads))
        )
        return dense / needed
    shape = SHAPES.get(row.model.split()[0])
    if row.kind != "prefill" or shape is None or rates is None:
        return None
    count = round(row.keep * shape.layers * shape.heads)
    return speed_up_bound(shape, row.n, count, row.sink, row.window, rates, row.provider.endswith("_fuse"))
