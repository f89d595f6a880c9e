"""Whether a measuring run had seen enough: how much the ranking of heads still changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corehead_hf.head_map import HeadMap
from corehead_hf.plots.figure import axes_or_new, figure_of, labelled, legend, spaced_ticks, titled
from corehead_hf.plots.style import CHANCE, series
from corehead_hf.plots.text import about_map, counted, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def convergence_curve(
    maps: HeadMap | Mapping[str, HeadMap], *, until_stable: float | None = None, ax: Any = None
) -> Figure:
    """Spearman's rho between the ranking over the first examples and that over the first half of them.

    Args:
        maps: one head map, or several by name, one line each.
        until_stable: the threshold of corehead_hf.measure, drawn as a dashed line.
        ax: axes to draw into; without them the figure is new.

    Raises:
        ValueError: no map, or one that holds no check of its convergence.
    """
    named = {"": maps} if isinstance(maps, HeadMap) else dict(maps)
    empty = [name or repr(head_map) for name, head_map in named.items() if not head_map.convergence]
    if empty or not named:
        raise ValueError(
            f"the convergence of {', '.join(empty) or 'no head map'} was asked for - nothing is known of it, as of "
            "merged maps and those of fewer than 16 examples - measure in one run over more."
        )
    ax = axes_or_new(ax, (4.8, 3.7))
    counts: set[int] = set()
    lowest = until_stable or 1.0
    for number, (name, head_map) in enumerate(named.items()):
        x, rho = zip(*(head_map.convergence or ()), strict=True)
        label = f"{short(name)}, {counted(head_map.num_examples, 'example')}" if name else None
        ax.plot(x, rho, **series(number).curve, label=label)
        counts.update(x)
        lowest = min(lowest, *rho)
    if until_stable is not None:
        ax.axhline(until_stable, **CHANCE, label=f"stable from {until_stable:g} on, three times in a row")
    checks = sorted(counts)
    ax.set_xlim(checks[0] - 0.04 * checks[-1], 1.04 * checks[-1])
    ax.set_ylim(lowest - 0.06 * (1 - lowest) - 0.005, 1 + 0.03 * (1 - lowest) + 0.002)
    labelled(ax, "examples", "Spearman\u2019s \u03c1 with the first half\u2019s ranking")
    spaced_ticks(ax, checks, [str(check) for check in checks])
    only = about_map(next(iter(named.values()))) if len(named) == 1 else (f"{len(named)} head maps",)
    titled(ax, "Convergence of the ranking of heads", *only)
    if any(named) or until_stable is not None:
        legend(ax)
    return figure_of(ax)
