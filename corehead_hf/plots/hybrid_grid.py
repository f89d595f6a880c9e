"""What hybrid prefill gives for what it reads: accuracy against KV entries read, a panel a sink size and model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corehead_hf.plots.figure import axes_grid, figure_of, labelled, legend, spaced_ticks, titled
from corehead_hf.plots.style import CHANCE, DENSE, series
from corehead_hf.plots.text import about, percent, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corehead_hf.analysis.hybrid_grid import GridPoint, HybridGrid

TICKS = (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # percent


def hybrid_grid_curves(grids: HybridGrid | Mapping[str, HybridGrid], *, axes: Any = None) -> Figure:
    """Accuracy against the share of KV entries read in prefill, one line a window, from few dense heads to many.

    Bars are the intervals of the study. Panels: sinks from top to bottom, models from left to right; the first of a
    column tells what all of it shows.

    Args:
        grids: of one model, or of several by name; all with the same sinks.
        axes: as many axes as there are sinks times models; without them the figure is new.

    Raises:
        ValueError: no grid, one without points, other sinks in another, or another number of axes.
    """
    named = dict(grids) if isinstance(grids, Mapping) else {"": grids}
    sinks = {name: grid.sinks for name, grid in named.items()}
    rows = next(iter(sinks.values()), ())
    if not rows or set(sinks.values()) != {rows}:
        raise ValueError(
            f"grids with the sinks {sinks} were to be drawn - a row of panels is one sink - give the same."
        )
    grid_of_axes = axes_grid(axes, len(rows), len(named), (4.4 * len(named), 3.1 * len(rows) + 0.6))
    lowest = 100 * min(point.cost.kv_read for grid in named.values() for point in grid.points)
    for column, (name, grid) in enumerate(named.items()):
        for row, sink in enumerate(rows):
            ax = grid_of_axes[row, column]
            _panel(ax, grid, sink)
            _axes(ax, grid, lowest)
            titled(ax, f"{short(name or 'Hybrid prefill')}, sink\u00a0{sink}", *([] if row else _details(grid, name)))
        legend(grid_of_axes[-1, column])
    return figure_of(grid_of_axes[0, 0])


def _panel(ax: Any, grid: HybridGrid, sink: int) -> None:
    ax.axhspan(grid.dense.low, grid.dense.high, color="black", alpha=0.08, linewidth=0)
    ax.axhline(grid.dense.value, **DENSE, label="all heads dense")
    if grid.chance is not None:
        ax.axhline(grid.chance, **CHANCE, label=f"chance ({grid.chance:.3g})")
    for number, window in enumerate(grid.windows):
        points = grid.series(sink, window)
        bars = {"yerr": _bars(points), "capsize": 2, "elinewidth": 0.8, "label": f"window {window}"}
        x, y = [100 * point.cost.kv_read for point in points], [point.accuracy.value for point in points]
        ax.errorbar(x, y, **series(number).curve, **bars)


def _bars(points: tuple[GridPoint, ...]) -> list[list[float]]:
    found = [point.accuracy for point in points]
    return [[one.value - one.low for one in found], [one.high - one.value for one in found]]


def _axes(ax: Any, grid: HybridGrid, lowest: float) -> None:
    ax.set_xscale("log")
    ax.set_xlim(lowest / 1.25, 112)
    ax.set_ylim(-0.04, 1.06)
    labelled(ax, "KV entries read in prefill, % of dense attention", f"accuracy ({percent(grid.confidence)} intervals)")
    ticks = [tick for tick in TICKS if tick >= lowest / 1.25]
    spaced_ticks(ax, ticks, [f"{tick:g}" for tick in ticks])
    ax.grid(alpha=0.25, linewidth=0.6)


def _details(grid: HybridGrid, name: str) -> list[str]:
    model, dataset, examples = about(grid)
    counts = sorted({point.count for point in grid.points})
    along = f"along a line {', '.join(map(str, counts))} of {grid.num_heads} heads dense"
    tokens = f"{grid.shortest} to {grid.longest} tokens"
    return [*([] if model == name else [model]), dataset, examples, tokens, along]
