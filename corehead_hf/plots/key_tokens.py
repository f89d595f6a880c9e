"""Whether heads find the evidence: key token ratio, hit rate and coverage beside their chance levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corehead_hf.measures import HIT_THRESHOLD
from corehead_hf.plots.figure import axes_or_new, figure_of, labelled, legend, spaced_ticks, titled
from corehead_hf.plots.style import BAND, CHANCE, GROUP_NAMES, GROUPS, SMALL
from corehead_hf.plots.text import about

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corehead_hf.analysis.key_tokens import KeyTokenStudy

ORDER = ("top", "random", "bottom")
BAR = 0.26  # of the distance between the two measures


def key_token_bars(study: KeyTokenStudy, *, ax: Any = None) -> Figure:
    """Mean key token ratio and hit rate, eq. (23), of the top, random and bottom heads (Fig. 6b).

    Whiskers are the study's intervals; a dashed line over each measure's bars is its chance level.

    Args:
        ax: axes to draw into; without them the figure is new.
    """
    ax = axes_or_new(ax, (4.8, 3.7))
    measures = [(study.ratio, study.ratio_chance), (study.hit_rate, study.hit_chance)]
    groups = [group for group in ORDER if group in study.ratio]
    left = BAR * (len(groups) - 1) / 2
    highest = 0.0
    for i, group in reversed(list(enumerate(groups))):
        places = [at - left + BAR * i for at in range(len(measures))]
        found = [values[group] for values, _ in measures]
        ends = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
        heights = [estimate.value for estimate in found]
        ax.bar(places, heights, 0.9 * BAR, **GROUPS[group].bar, label=GROUP_NAMES[group])
        ax.errorbar(places, heights, yerr=ends, fmt="none", ecolor="black", elinewidth=0.9, capsize=2.5)
        for at, estimate in zip(places, found, strict=True):
            above = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": SMALL}
            ax.annotate(f"{estimate.value:.3f}", (at, max(estimate.high, estimate.value)), **above)
            highest = max(highest, estimate.high, estimate.value)
    for at, (_, chance) in enumerate(measures):
        label = "chance" if at == 0 else None
        ax.plot([at - left - 0.6 * BAR, at + left + 0.6 * BAR], [chance] * 2, **CHANCE, label=label)
        highest = max(highest, chance)
    labelled(ax, "", "mean over heads and examples")
    ax.set_xticks([0, 1], ["key token ratio", f"hit rate (ratio \u2265 {HIT_THRESHOLD:g})"])
    ax.set_xlim(-0.5, 1.5)
    ax.set_ylim(0, 1.15 * highest or 1.0)
    titled(ax, f"Evidence found by {study.k} heads of each group", *about(study))
    legend(ax, reverse=True)
    return figure_of(ax)


def coverage_curve(study: KeyTokenStudy, *, ax: Any = None) -> Figure:
    """Share of the evidence that at least one head of a group finds, eqs. (24, 25), against its size (Fig. 6c).

    Args:
        ax: axes to draw into; without them the figure is new.

    Raises:
        ValueError: the study has no group sizes.
    """
    sizes = study.group_sizes
    if not sizes:
        raise ValueError(f"the coverage of {study.model} was asked for - the study has no group sizes - give it some.")
    ax = axes_or_new(ax, (4.8, 3.7))
    ax.plot(sizes, study.coverage_chance, **CHANCE, label="chance")
    for group in (name for name in reversed(ORDER) if name in study.coverage):
        found, style = study.coverage[group], GROUPS[group]
        low, high = [estimate.low for estimate in found], [estimate.high for estimate in found]
        ax.fill_between(sizes, low, high, color=style.color, alpha=BAND, linewidth=0)
        ax.plot(sizes, [estimate.value for estimate in found], **style.curve, label=GROUP_NAMES[group])
    ax.set_xscale("log")
    ax.set_xlim(sizes[0] / 1.12, sizes[-1] * 1.12)
    ax.set_ylim(-0.03, 1.04)
    labelled(ax, f"heads in the group, of {study.num_heads}", "share of evidence tokens (bands: intervals)")
    spaced_ticks(ax, sizes, [str(size) for size in sizes])
    titled(ax, "Evidence covered by groups of heads", *about(study))
    legend(ax, reverse=True)
    return figure_of(ax)
