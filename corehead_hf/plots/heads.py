"""What heads do, as numbers: scores per head, accuracy against ablated heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from corehead_hf.analysis.ablation import GroupAccuracy
from corehead_hf.head_map import HeadMap
from corehead_hf.plots.figure import EVIDENCE, new_figure, rectangle, ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUP_COLORS = {"top": "#c0392b", "bottom": "#2c7fb8", "random": "#7f8c8d"}


def head_heatmap(head_map: HeadMap, *, mark: torch.Tensor | None = None, ax: Any = None) -> Figure:
    """RAM of every head, layers upward and heads to the right (Fig. 4).

    Args:
        mark: bool [L, Hq], heads to frame, e.g. head_map.top(0.05).
    """
    if ax is None:
        num_layers, num_heads = head_map.scores.shape
        size = (2.5 + 0.28 * num_heads, 1.4 + 0.22 * num_layers)
        ax = new_figure(size=size)[1][0, 0]
    figure = ax.get_figure()
    scores = head_map.scores.numpy()
    image = ax.imshow(scores, origin="lower", cmap="magma", vmin=0, aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=ax, label="RAM")
    if mark is not None:
        for layer, head in mark.nonzero().tolist():
            frame = {"fill": False, "edgecolor": EVIDENCE, "linewidth": 1.8}
            ax.add_patch(rectangle((head - 0.5, layer - 0.5), 1, 1, **frame))
    ax.set(xlabel="query head", ylabel="layer", title=f"{head_map.model_type} on {head_map.dataset}")
    ax.set_xticks(ticks(scores.shape[1]))
    ax.set_yticks(ticks(scores.shape[0]))
    return figure


def ablation_curve(
    points: Sequence[GroupAccuracy], *, dense: float, chance: float | None = None, title: str = "", ax: Any = None
) -> Figure:
    """Accuracy against the number of ablated heads (Fig. 6a); the random group's band spans its seeds."""
    if ax is None:
        ax = new_figure(size=(4.6, 3.4))[1][0, 0]
    counts = [0, *(point.count for point in points)]
    ax.plot(
        counts, [dense, *(p.bottom for p in points)], "s-", color=GROUP_COLORS["bottom"], label="bottom heads by RAM"
    )
    ax.plot(counts, [dense, *(p.random_mean for p in points)], "^-", color=GROUP_COLORS["random"], label="random heads")
    low, high = [dense, *(min(p.random) for p in points)], [dense, *(max(p.random) for p in points)]
    ax.fill_between(counts, low, high, color=GROUP_COLORS["random"], alpha=0.25, linewidth=0)
    ax.plot(counts, [dense, *(p.top for p in points)], "o-", color=GROUP_COLORS["top"], label="top heads by RAM")
    if chance is not None:
        ax.axhline(chance, color="black", linestyle=":", linewidth=1, label="chance")
    ax.set(xlabel="ablated heads", ylabel="accuracy", ylim=(-0.03, 1.05), title=title)
    ax.set_xticks(counts)
    ax.legend(frameon=False, fontsize="small")
    return ax.get_figure()
