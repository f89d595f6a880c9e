"""What heads do for the answers: accuracy against ablated heads, and accuracy and speed-up against dense heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from corehead_hf.plots.figure import axes_grid, figure_of, labelled, legend, spaced_ticks, titled
from corehead_hf.plots.style import BAND, CHANCE, DENSE, GROUP_NAMES, GROUPS, Style, series
from corehead_hf.plots.text import about, last_part, percent, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corehead_hf.analysis.ablation import AblationCurve
    from corehead_hf.analysis.keep_sweep import KeepPoint, KeepSweep
    from corehead_hf.analysis.timing import Quantiles

VARIANTS = {
    "zero": "output set to zero",
    "mean": "output set to its mean",
    "visual": "visual columns masked",
    "stream": "reduced to sink {sink} + window {window}",
}
ORDER = ("bottom", "random", "layer_matched", "top")  # the top heads are drawn last, over the others


def ablation_curve(curve: AblationCurve, variant: str | Sequence[str] = "zero", *, ax: Any = None) -> Figure:
    """Accuracy against the number of ablated heads, one line a group, from the dense model on (Fig. 6a).

    Bands are the intervals of the study, over seeds their envelope.

    Args:
        variant: of ablation; several give one panel each, four two by two.
        ax: axes to draw into, as many as there are variants; without them the figure is new.

    Raises:
        ValueError: a variant that was not measured, or another number of axes.
    """
    variants = [variant] if isinstance(variant, str) else list(variant)
    missing = [name for name in variants if name not in curve.variants]
    if missing or not variants:
        raise ValueError(f"ablation variants {variants} were asked for - the study has {list(curve.variants)}.")
    lines = 2 if len(variants) == 4 else 1
    across = len(variants) // lines
    grid = axes_grid(ax, lines, across, (4.8 * across, 3.7 * lines))
    for panel, name in zip(grid.ravel(), variants, strict=True):
        _ablation_panel(panel, curve, name)
    return figure_of(grid[0, 0])


def _ablation_panel(ax: Any, curve: AblationCurve, variant: str) -> None:
    counts, highest = {0}, curve.dense.high
    if curve.chance is not None:
        ax.axhline(curve.chance, **CHANCE, label=f"chance ({curve.chance:.3g})")
    known = [group for group in ORDER if group in curve.groups]
    for group in [*known, *(group for group in curve.groups if group not in ORDER)]:
        points = curve.series(variant, group)
        if not points:
            continue
        style, dense = GROUPS.get(group) or series(len(GROUPS)), curve.dense
        x = [0, *(point.count for point in points)]
        low, high = [dense.low, *(point.low for point in points)], [dense.high, *(point.high for point in points)]
        ax.fill_between(x, low, high, color=style.color, alpha=BAND, linewidth=0)
        ax.plot(x, [dense.value, *(p.mean for p in points)], **style.curve, label=GROUP_NAMES.get(group, group))
        counts.update(x)
        highest = max(highest, *high)
    _accuracy_axis(ax, highest, curve.chance)
    ax.set_xlim(-0.03 * max(counts), 1.03 * max(counts))
    labelled(ax, f"ablated heads of {curve.num_heads}", _accuracy(curve.confidence))
    spaced_ticks(ax, sorted(counts), [str(count) for count in sorted(counts)])
    how = VARIANTS.get(variant, variant).format(sink=curve.sink_size, window=curve.window_size)
    titled(ax, f"Accuracy after ablation ({how})", *about(curve))
    legend(ax, reverse=True)


def _accuracy(confidence: float) -> str:
    return f"accuracy (bands: {percent(confidence)} intervals)"


def keep_curve(sweep: KeepSweep, *, axes: Any = None) -> Figure:
    """Accuracy and speed-up of hybrid prefill against the share of heads that stay dense (Tables 2 and 4).

    Args:
        axes: two axes, one where nothing was timed; without them the figure is new.

    Raises:
        ValueError: a sweep without points, or another number of axes.
    """
    if not sweep.points:
        raise ValueError(
            f"a keep curve of {sweep.model} was asked for - the sweep has no points - sweep over some keeps."
        )
    points = sorted(sweep.points, key=lambda point: point.share)
    is_timed = any(point.speedup is not None for point in points)
    grid = axes_grid(axes, 1, 1 + is_timed, (4.8 * (1 + is_timed), 3.7))
    _accuracy_panel(grid[0, 0], sweep, points)
    if is_timed:
        _speed_panel(grid[0, 1], sweep, points)
    return figure_of(grid[0, 0])


def _accuracy_panel(ax: Any, sweep: KeepSweep, points: list[KeepPoint]) -> None:
    x, found = [point.share for point in points], [point.accuracy for point in points]
    if sweep.chance is not None:
        ax.axhline(sweep.chance, **CHANCE, label=f"chance ({sweep.chance:.3g})")
    style = GROUPS["top"]
    ax.axhspan(sweep.dense.low, sweep.dense.high, color="black", alpha=0.1, linewidth=0)
    ax.axhline(sweep.dense.value, **DENSE, label="all heads dense")
    low, high = [estimate.low for estimate in found], [estimate.high for estimate in found]
    ax.fill_between(x, low, high, color=style.color, alpha=BAND, linewidth=0)
    ax.plot(x, [estimate.value for estimate in found], **style.curve, label="top heads dense, others sink + window")
    _accuracy_axis(ax, max(sweep.dense.high, *high), sweep.chance)
    _share_axis(ax, points, _accuracy(sweep.confidence), sweep.num_heads)
    sizes = f"sink {sweep.sink_size}, window {sweep.window_size}"
    titled(ax, "Accuracy of hybrid prefill", *about(sweep), sizes)
    legend(ax, reverse=True)


def _speed_panel(ax: Any, sweep: KeepSweep, points: list[KeepPoint]) -> None:
    timed = [(point, point.speedup) for point in points if point.speedup is not None]
    _error_bars(ax, [point.share for point, _ in timed], [speedup for _, speedup in timed], GROUPS["top"])
    ax.axhline(1, **DENSE, label="all heads dense")
    highest = max(speedup.p80 for _, speedup in timed)
    ax.set_ylim(0, 1.12 * max(1.0, highest))
    _share_axis(ax, points, "speed-up over dense, times", sweep.num_heads)
    tokens = "" if sweep.num_tokens is None else f"{sweep.num_tokens} tokens"
    sizes = f"sink {sweep.sink_size}, window {sweep.window_size}"
    titled(ax, "Speed-up of hybrid prefill", last_part(sweep.model), tokens, short(sweep.device), sizes)
    legend(ax, reverse=True)


def _error_bars(ax: Any, x: list[float], found: list[Quantiles], style: Style) -> None:
    median = np.array([quantiles.p50 for quantiles in found])
    ends = np.array([[quantiles.p20 for quantiles in found], [quantiles.p80 for quantiles in found]])
    bars = {"capsize": 2.5, "elinewidth": 1.0, "label": "hybrid, median (bars: p20 to p80)"}
    ax.errorbar(x, median, yerr=np.abs(ends - median), **style.curve, **bars)


def _share_axis(ax: Any, points: list[KeepPoint], ylabel: str, num_heads: int) -> None:
    shares = [point.share for point in points]
    ax.set_xscale("log")
    ax.set_xlim(shares[0] / 1.15, shares[-1] * 1.15)
    labelled(ax, f"heads kept dense, % of {num_heads}", ylabel)
    spaced_ticks(ax, shares, [f"{100 * share:.3g}" for share in shares])


def _accuracy_axis(ax: Any, highest: float, chance: float | None) -> None:
    """From 0 to just above the highest."""
    top = 1.1 * max(highest, chance or 0.0) or 1.0
    ax.set_ylim(-0.03 * top, min(top, 1.04) if highest <= 1 else top)
