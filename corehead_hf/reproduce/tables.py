"""Tables 2 and 4 and the numbers of Figures 5 to 7: ours beside the paper's, row by row."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from corehead_hf import paper
from corehead_hf.analysis import KeyTokenStudy
from corehead_hf.analysis.prefill_latency import LatencyPoint, PrefillLatency
from corehead_hf.reproduce.answers import ABLATION, accuracy_name
from corehead_hf.reproduce.plan import Source
from corehead_hf.reproduce.run import Run
from corehead_hf.reproduce.speed import LATENCY

Rows: TypeAlias = "list[dict[str, Any]]"

PAPER_TOP = 15  # heads of the paper's key token ratio
_ENDS = {"accuracy": "value", "low": "low", "high": "high"}


def accuracy_rows(run: Run, source: Source, table: str) -> Rows:
    """Table 2 or 4: a row per budget, dense first; percent. Cells that are not known are None.

    Args:
        source: the benchmark.
        table: its name in corehead_hf.paper.
    """
    reported = _reported(run, table)
    total = run.head_map.scores.numel()
    rows, timed = [], _timed(run)
    for count in (total, *run.plan.budgets):
        found = run.saved(accuracy_name(source, None if count == total else count))
        if found is None:
            continue
        theirs, ours, point = reported.get(count, {}), found.average, timed.get(count)
        rows.append(
            {
                "dense heads": "all" if count == total else count,
                "share": 100 * count / total,
                **{name: None if ours is None else 100 * getattr(ours, end) for name, end in _ENDS.items()},
                "paper": None if found.missing else theirs.get("average"),
                **({"tasks without a question": ", ".join(found.missing)} if found.missing else {}),
                "questions": found.num_examples,
                "unreadable": found.num_unparsed,
                "skipped": found.num_skipped,
                "speed-up": None if point is None else _speedup(point),
                "at tokens": None if point is None else point.length,
                "paper's speed-up": theirs.get("speedup"),
            }
        )
    return rows


def task_rows(run: Run, source: Source) -> Rows:
    """Accuracy of every task of a benchmark in percent, a row per budget."""
    total, rows = run.head_map.scores.numel(), []
    for count in (total, *run.plan.budgets):
        found = run.saved(accuracy_name(source, None if count == total else count))
        if found is not None and found.groups:
            tasks = {group.name: 100 * group.accuracy.value for group in found.groups}
            rows.append({"dense heads": "all" if count == total else count, **tasks})
    return rows


def latency_rows(run: Run) -> Rows:
    """Figure 7: a row per length, dense milliseconds, and the speed-up of every budget."""
    found: PrefillLatency | None = run.saved(LATENCY)
    if found is None:
        return []
    lengths = dict.fromkeys(point.length for point in found.points)
    return [{"tokens": length, **_line([p for p in found.points if p.length == length])} for length in lengths]


def figure_rows(run: Run) -> Rows:
    """Single numbers of Figures 5 and 6: what was found, and what the paper reports of any model."""
    rows = []
    for quantity, ask in _QUANTITIES.items():
        ours = ask(run)
        reported = [row for row in paper.table("figures") if str(row["quantity"]) == quantity.format(top=PAPER_TOP)]
        told = "; ".join(f"{row['model']}: {_range(row['low'], row['high'])}" for row in reported)
        if ours is not None or told:
            told += f" (top {PAPER_TOP})" if told and "{top}" in quantity and run.plan.top != PAPER_TOP else ""
            rows.append({"quantity": quantity.format(top=run.plan.top), "here": ours, "paper": told or None})
    return rows


def write_csv(rows: Rows, path: Path) -> None:
    """Rows of one table as CSV; unknown cells are empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: Rows) -> list[str]:
    """Rows of one table as Markdown; unknown cells are dashes."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return [*lines, *(f"| {' | '.join(_cell(row.get(name)) for name in names)} |" for row in rows)]


def _reported(run: Run, table: str) -> dict[int, paper.PaperRow]:
    """The paper's rows for this model by budget; none where it has no such model."""
    name = paper.short_name(run.plan.model)
    return {int(row["heads"] or 0): row for row in paper.table(table) if row["model"] == name}


def _timed(run: Run) -> dict[int, LatencyPoint]:
    """The hybrid points at the longest prompt that dense prefill could do, by number of dense heads."""
    found: PrefillLatency | None = run.saved(LATENCY)
    known = [] if found is None else [p for p in found.points if p.hybrid and p.speedup is not None]
    longest = max((point.length for point in known), default=0)
    return {point.count: point for point in known if point.length == longest}


def _line(points: Sequence[LatencyPoint]) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for point in points:
        if not point.hybrid:
            line["dense ms"] = None if point.seconds is None else 1e3 * point.seconds.p50
        else:
            line[f"speed-up at {point.count}"] = _speedup(point)
    return line


def _speedup(point: LatencyPoint) -> str | None:
    return None if point.speedup is None else f"{point.speedup.p50:.2f}"


def _spearman(run: Run) -> str | None:
    found = run.saved("stability")
    if found is None:
        return None
    pairs = [found.spearman[i, j] for j in range(len(found.names)) for i in range(j)]
    return _range(min(pairs), max(pairs))


def _universal(run: Run) -> str | None:
    found = run.saved("stability")
    return (
        None if found is None else f"{len(found.universal)} of {found.counts.size} heads, {len(found.names)} data sets"
    )


def _ablated(count: int) -> Callable[[Run], str | None]:
    def ask(run: Run) -> str | None:
        curve = run.saved(ABLATION)
        if curve is None:
            return None
        points = {0: curve.dense} | {p.count: p.accuracy for p in curve.points if p.group == "top"}
        return f"{100 * points[count].value:.1f}" if count in points else None

    return ask


def _studies(run: Run) -> dict[str, KeyTokenStudy]:
    found = {source.name: run.saved(f"key tokens {source.name}") for source in run.plan.measured}
    return {name: study for name, study in found.items() if study is not None}


def _ratio(group: str) -> Callable[[Run], str | None]:
    def ask(run: Run) -> str | None:
        told = [f"{name} {100 * study.ratio[group].value:.1f}" for name, study in _studies(run).items()]
        return "; ".join(told) or None

    return ask


def _coverage(run: Run) -> str | None:
    told = []
    for name, study in _studies(run).items():
        sizes = zip(study.group_sizes, study.coverage["top"], strict=True)
        covered = [100 * found.value for size, found in sizes if 50 <= size <= 100]
        told += [f"{name} {_range(min(covered), max(covered))}"] if covered else []
    return "; ".join(told) or None


_QUANTITIES: dict[str, Callable[[Run], str | None]] = {
    "spearman between two of four data sets": _spearman,
    "heads in the top 5 % of all four data sets": _universal,
    "score in percent with no head ablated": _ablated(0),
    "score in percent with the top 5 heads ablated": _ablated(5),
    "key token ratio in percent of the top {top} heads": _ratio("top"),
    "key token ratio in percent of the bottom {top} heads": _ratio("bottom"),
    "key tokens covered in percent by 50 to 100 heads": _coverage,
}


def _range(low: Any, high: Any) -> str:
    return f"{low:g}" if low == high else f"{low:.3g} to {high:.3g}"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
