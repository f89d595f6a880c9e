"""Whether the same heads come out on top on every data set: how often each does, and how alike the rankings are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from corehead_hf.plots.figure import axes_or_new, color_bar, figure_of, inches, index_ticks, titled
from corehead_hf.plots.style import LABEL, SMALL, STEPS, TINY
from corehead_hf.plots.text import counted, last_part, percent, short, widest_word, width, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corehead_hf.analysis.stability import Stability

LEAST = 4.5  # points below which an interval is left out
LIGHT = 0.179  # relative luminance above which black text has more contrast than white (WCAG 2)


def stability_map(stability: Stability, *, ax: Any = None) -> Figure:
    """In how many data sets each head is among the top, eq. (21): one colour a number (Fig. 5).

    Args:
        ax: axes to draw into; without them the figure is new.
    """
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    layers, heads = stability.counts.shape
    across, up = min(max(0.28 * heads, 3.0), 4.8), min(max(0.22 * layers, 1.8), 4.6)
    ax = axes_or_new(ax, (across + 1.8, up + 1.5))
    most = len(stability.names)
    colors, norm = colormaps[STEPS].resampled(most + 1), BoundaryNorm(np.arange(most + 2) - 0.5, most + 1)
    shown = {"origin": "lower", "aspect": "auto", "interpolation": "nearest"}
    image = ax.imshow(stability.counts, cmap=colors, norm=norm, **shown)
    bar = color_bar(image, ax, "data sets that have the head on top", ticks=range(most + 1))
    numbers = [int((stability.counts == count).sum()) for count in range(most + 1)]
    bar.ax.set_yticklabels([f"{count}  ({counted(number, 'head')})" for count, number in enumerate(numbers)])
    bar.minorticks_off()
    bar.ax.tick_params(length=0)
    ax.set_xlabel("query head", fontsize=LABEL)
    ax.set_ylabel("layer", fontsize=LABEL)
    ax.tick_params(labelsize=SMALL)
    index_ticks(ax, layers, heads)
    names = [last_part(name) for name in stability.names]
    headline = f"{counted(numbers[-1], 'head')} among the top {percent(stability.share)} on all {most} data sets"
    titled(
        ax,
        headline,
        last_part(stability.model),
        f"{_examples(stability)} examples each",
        *names,
        *_expected(stability),
        room=1.3 * inches(ax)[0],
    )
    return figure_of(ax)


def _examples(stability: Stability) -> str:
    """How many of a data set, or from how few to how many."""
    least, most = min(stability.num_examples), max(stability.num_examples)
    return str(most) if least == most else f"{least} to {most}"


def _expected(stability: Stability) -> list[str]:
    """What the number of heads in all data sets is to be held against."""
    low, high = stability.universal_low, stability.universal_high
    interval = [] if low is None or high is None else [f"interval {low} to {high} heads"]
    return [*interval, f"{stability.chance:.2g} expected by chance"]


def spearman_matrix(stability: Stability, *, ax: Any = None) -> Figure:
    """Spearman's rank correlation of every two data sets, with its interval where it is known (Fig. 5).

    Args:
        ax: axes to draw into; without them the figure is new.
    """
    most = len(stability.names)
    side = min(max(0.95 * most, 2.6), 9.0)
    ax = axes_or_new(ax, (side + 2.2, side + 1.3))
    low = min(0.9, math.floor(10 * stability.spearman.min()) / 10)
    image = ax.imshow(stability.spearman, cmap=STEPS, vmin=low, vmax=1, interpolation="nearest")
    color_bar(image, ax, "Spearman\u2019s \u03c1", shrink=0.8)
    cell = 0.75 * min(inches(ax)) / most
    size, small = _sizes(cell, stability.spearman_low is not None)
    for first, second in np.ndindex(most, most):
        color = image.cmap(image.norm(stability.spearman[first, second]))
        _write(ax, stability, first, second, "black" if luminance(color) > LIGHT else "white", size, small)
    _name_ticks(ax, [last_part(name) for name in stability.names], cell)
    interval = f"intervals over {_examples(stability)} examples" if small else ""
    title = f"How alike data sets rank {stability.counts.size} heads"
    titled(ax, title, last_part(stability.model), interval, room=1.1 * inches(ax)[0])
    return figure_of(ax)


def _sizes(cell: float, has_intervals: bool) -> tuple[float, float]:
    """Points of the number and of its interval in a cell of so many inches; 0 where there is no interval or no room."""
    number, interval = (
        size * 0.88 * cell / width(text, size) for size, text in ((LABEL, "0.00"), (TINY, "[0.00, 0.00]"))
    )
    return min(LABEL, number), min(TINY, interval) if has_intervals and interval >= LEAST else 0.0


def _write(ax: Any, stability: Stability, first: int, second: int, ink: str, size: float, small: float) -> None:
    """The number of one cell and below it its interval."""
    low, high = stability.spearman_low, stability.spearman_high
    where = {"ha": "center", "color": ink}
    is_pair = low is not None and high is not None and small and first != second
    rho = f"{stability.spearman[first, second]:.2f}"
    ax.text(second, first, rho, va="bottom" if is_pair else "center_baseline", fontsize=size, **where)
    if low is not None and high is not None and is_pair:
        interval = f"[{low[first, second]:.2f}, {high[first, second]:.2f}]"
        ax.text(second, first + 0.06, interval, va="top", fontsize=small, **where)


def _name_ticks(ax: Any, names: list[str], cell: float) -> None:
    """Names below and beside a matrix: level, in lines, where these fit a cell, else upright below."""
    room = 1.25 * cell
    small = max(TINY, min(SMALL, SMALL * room / max(widest_word(name, SMALL) for name in names)))
    beside = [wrapped(name, 1.2, SMALL) for name in names]
    below = [wrapped(name, room, small) for name in names]
    lines = max(name.count("\n") + 1 for name in beside + below)
    if lines * SMALL * 1.25 / 72 > cell:
        size = min(SMALL, 0.85 * 72 * cell)
        cut = [short(name, 20) for name in names]
        ax.set_xticks(range(len(names)), cut, fontsize=size, rotation=90)
        ax.set_yticks(range(len(names)), cut, fontsize=size)
        return
    ax.set_xticks(range(len(names)), below, fontsize=small)
    ax.set_yticks(range(len(names)), beside, fontsize=SMALL)


def luminance(color: Any) -> float:
    """WCAG's relative luminance of (red, green, blue, ...) in [0, 1]: 0 is black, 1 is white."""
    channels = np.asarray(color[:3], dtype=float)
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
