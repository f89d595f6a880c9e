"""Time and speed-up of whole prefills against their length, from a study (Fig. 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from corehead_hf.plots.figure import axes_grid, figure_of, labelled, legend, spaced_ticks, titled
from corehead_hf.plots.latency import latency_curve, token_count
from corehead_hf.plots.style import DENSE, series
from corehead_hf.plots.text import last_part, percent, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corehead_hf.analysis.prefill_latency import LatencyPoint, PrefillLatency


def prefill_curve(study: PrefillLatency, *, axes: Any = None) -> Figure:
    """Time of a prefill and speed-up over dense prefill against length, one line a number of dense heads.

    Left as latency_curve draws it, with the break-even points. Bars are p20 to p80; a speed-up is paired by round. What
    ran out of memory is named above and has no point.

    Args:
        axes: two axes; without them the figure is new.

    Raises:
        ValueError: nothing was timed, or another number of axes.
    """
    if all(point.seconds is None for point in study.points):
        raise ValueError(
            f"prefills of {study.model} were to be drawn - none of them fitted into memory - take shorter ones."
        )
    grid = axes_grid(axes, 1, 2, (10.4, 4.8))
    time, gain = grid[0]
    table = study.to_pandas().dropna(subset="p50_ms").drop(columns=["model", "gpu"])
    latency_curve(table, ax=time)
    about = (f"{last_part(study.model)} {study.dtype}", short(study.device))
    lost = _lost(study)
    titled(time, "Latency of prefill of the text backbone", *about, *lost)
    _gain_panel(gain, study)
    titled(gain, "Speed-up over dense prefill", *about, f"sink {study.sink_size}", f"window {study.window_size}", *lost)
    return figure_of(time)


def _gain_panel(ax: Any, study: PrefillLatency) -> None:
    lengths = sorted({point.length for point in study.points})
    ax.set_xscale("log")
    ax.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.15)
    highest = 1.0
    for number, count in enumerate(sorted({point.count for point in study.points if point.hybrid})):
        of_count = [point for point in study.points if point.hybrid and point.count == count]
        points = [(point.length, point.speedup) for point in of_count if point.speedup is not None]
        median = np.array([speedup.p50 for _, speedup in points])
        ends = np.array([[speedup.p20 for _, speedup in points], [speedup.p80 for _, speedup in points]])
        bars = {"yerr": np.abs(ends - median), "capsize": 2, "elinewidth": 0.9}
        label = f"{percent(count / study.num_heads)} of heads dense ({count})"
        ax.errorbar([length for length, _ in points], median, **series(number).curve, **bars, label=label)
        highest = max(highest, *ends[1]) if points else highest
    ax.axhline(1, **DENSE, label="dense")
    ax.set_ylim(0, 1.12 * highest)
    labelled(ax, "tokens (1K = 1024)", "speed-up, times (bars: p20 to p80)")
    spaced_ticks(ax, lengths, [token_count(length) for length in lengths])
    ax.grid(alpha=0.25, linewidth=0.6)
    legend(ax)


def _lost(study: PrefillLatency) -> list[str]:
    """What ran out of memory, in words."""
    found: dict[str, list[LatencyPoint]] = {}
    for point in study.points:
        if point.seconds is None:
            found.setdefault(f"{point.count} dense heads" if point.hybrid else "dense", []).append(point)
    return [
        f"out of memory: {name} at {', '.join(token_count(point.length) for point in points)}"
        for name, points in found.items()
    ]
