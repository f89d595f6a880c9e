"""CoRe heads against vision heads: every head by its two scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from corehead_hf.plots.figure import axes_or_new, figure_of, labelled, legend, titled
from corehead_hf.plots.style import BLUE, GREY, PURPLE, VERMILION
from corehead_hf.plots.text import last_part, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corehead_hf.analysis.vision_heads import VisionHeads


def vision_overlap(vision_heads: VisionHeads, *, ax: Any = None) -> Figure:
    """RAM against attention on all visual tokens, one point a head; both top sets and what they share stand out.

    Args:
        ax: axes to draw into; without them the figure is new.
    """
    ax = axes_or_new(ax, (5.0, 4.3))
    core, vision = vision_heads.core.ravel(), vision_heads.vision.ravel()
    is_core, is_vision = (_top(scores, vision_heads.count) for scores in (core, vision))
    sets = (
        ("neither", ~is_core & ~is_vision, {"c": GREY, "marker": ".", "s": 12, "linewidths": 0}),
        ("vision heads only", is_vision & ~is_core, {"c": BLUE, "marker": "s", "s": 20}),
        ("CoRe heads only", is_core & ~is_vision, {"c": VERMILION, "marker": "^", "s": 26}),
        ("both", is_core & is_vision, {"c": PURPLE, "marker": "D", "s": 26}),
    )
    for name, chosen, style in sets:
        edge = {} if name == "neither" else {"edgecolors": "black", "linewidths": 0.5}
        ax.scatter(vision[chosen], core[chosen], label=f"{name} ({int(chosen.sum())})", **style, **edge)
    ax.set_xlim(-0.03 * vision.max() or -0.03, 1.05 * vision.max() or 1)
    ax.set_ylim(-0.03 * core.max() or -0.03, 1.05 * core.max() or 1)
    labelled(ax, "share of attention on all visual tokens", "RAM (share of attention on the evidence)")
    found = f"{vision_heads.overlap} in both (chance {vision_heads.expected:.2g}, p = {vision_heads.p_value:.1g})"
    about = [last_part(vision_heads.model), last_part(vision_heads.dataset), f"{core.size} heads"]
    rho = f"Spearman\u2019s \u03c1 {vision_heads.spearman:.2f}"
    titled(ax, f"CoRe heads and vision heads, the top {percent(vision_heads.share)} of each", *about, found, rho)
    legend(ax)
    return figure_of(ax)


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    """bool [n]: the highest, ties by place as in HeadMap.ranking."""
    chosen = np.zeros(scores.size, dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[:count]] = True
    return chosen
