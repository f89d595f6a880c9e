"""The paper's Figure 7 from committed rows: latency over length, one panel per machine and model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import Row
from corehead_hf import plots

if TYPE_CHECKING:
    from pandas import DataFrame


def tables(rows: Iterable[Row]) -> dict[tuple[str, str], DataFrame]:
    """(machine, model) -> its rows, as plots.latency_curve takes them.

    Prefill rows of a GPU; where there is none, one layer's attention.
    """
    import pandas

    rows = list(rows)
    chosen = [row for row in rows if row.kind == "prefill" and row.on_gpu] or [r for r in rows if r.kind == "attention"]
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in chosen:
        panels.setdefault((row.gpu, row.model), []).append(row)
    names = {time: f"{time}_ms" for time in ("p20", "p50", "p80")}
    sizes = {"sink": float, "window": float}  # None becomes NaN
    return {
        key: pandas.DataFrame([asdict(row) for row in panel]).rename(columns=names).astype(sizes)
        for key, panel in panels.items()
    }


def draw(rows: Iterable[Row], path: Path) -> None:
    """Writes the figure; needs matplotlib and pandas (the extras `plot` and `analysis`).

    Raises:
        ValueError: there is nothing to draw.
    """
    panels = tables(rows)
    if not panels:
        raise ValueError("a figure was asked for - there are no prefill or attention rows - run a benchmark first.")
    figure, axes = plots.new_figure(1, len(panels), size=(5.4 * len(panels), 5.4))
    for ax, table in zip(axes[0], panels.values(), strict=True):
        plots.latency_curve(table, ax=ax)
    figure.savefig(path, dpi=150)
