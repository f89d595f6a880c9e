"""Scores of every head as layer x head images: one map, or CoRe heads above vision heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from corehead_hf.families.geometry import VISUAL_RULE
from corehead_hf.head_map import HeadMap
from corehead_hf.plots.figure import axes_grid, axes_or_new, color_bar, figure_of, frame, inches, index_ticks, titled
from corehead_hf.plots.style import EVIDENCE, LABEL, SCORES, SMALL
from corehead_hf.plots.text import about_map, counted, percent, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORE_LABEL = "RAM (share of attention on the evidence)"
VISION_LABEL = "share of attention on all visual tokens"


def head_heatmap(head_map: HeadMap, *, mark: torch.Tensor | None = None, ax: Any = None) -> Figure:
    """RAM of every head, layers upward and heads to the right (Fig. 4); of a map of vision heads, their scores.

    Args:
        mark: bool [L, Hq], heads to frame, e.g. head_map.top(0.05).
        ax: axes to draw into; without them the figure is new.
    """
    ax = axes_or_new(ax, _size(head_map, color_bars=1))
    image = _heat(ax, head_map, float(head_map.scores.max()), mark)
    is_vision = head_map.view_rule == VISUAL_RULE
    color_bar(image, ax, VISION_LABEL if is_vision else CORE_LABEL)
    framed = "" if mark is None else f"{counted(int(mark.sum()), 'head')} framed"
    title = "Vision-head score of every head" if is_vision else "RAM of every head"
    titled(ax, title, *about_map(head_map), framed, room=1.25 * inches(ax)[0])
    return figure_of(ax)


def head_heatmaps(
    core: Mapping[str, HeadMap],
    vision: Mapping[str, HeadMap] | None = None,
    *,
    keep: float | int = 0.05,
    axes: Any = None,
) -> Figure:
    """Maps side by side, CoRe heads above vision heads, one colour scale for each row (Fig. 4, App. F).

    Args:
        core: name of the column -> its map by RAM, e.g. one per data set or family.
        vision: the same names -> the map by attention on all visual tokens; None leaves that row out.
        keep: each map's top heads are framed; a share or a count as in HeadMap.top.
        axes: as many axes as there are maps, row by row; without them the figure is new.

    Raises:
        ValueError: no map, other names in `vision` than in `core`, or another number of axes.
    """
    if not core:
        raise ValueError("heat maps of no head map were asked for; give at least one.")
    if vision is not None and list(vision) != list(core):
        raise ValueError(f"vision heads of {list(vision)} were given for CoRe heads of {list(core)}; give the same.")
    rows = [("CoRe heads", CORE_LABEL, core)]
    rows += [("vision heads", VISION_LABEL, vision)] if vision is not None else []
    across, up = (max(sizes) for sizes in zip(*(_size(head_map) for head_map in core.values()), strict=True))
    grid = axes_grid(axes, len(rows), len(core), (len(core) * across + 0.9, len(rows) * up))
    for line, (kind, label, maps) in zip(grid, rows, strict=True):
        highest = max(float(head_map.scores.max()) for head_map in maps.values())
        for ax, (name, head_map) in zip(line, maps.items(), strict=True):
            image = _heat(ax, head_map, highest, head_map.top(keep))
            which = f"top {keep}" if isinstance(keep, int) else f"top {percent(keep)}"
            titled(ax, f"{short(name)}: {kind}", *about_map(head_map), f"{which} framed")
        color_bar(image, line, label)
    return figure_of(grid[0, 0])


def _size(head_map: HeadMap, color_bars: int = 0) -> tuple[float, float]:
    """Inches of a panel: cells of 0.28 x 0.22 on small maps, smaller ones on large maps."""
    layers, heads = head_map.scores.shape
    across, up = min(max(0.28 * heads, 2.4), 4.6), min(max(0.22 * layers, 1.5), 4.6)
    return across + 0.6 + 0.9 * color_bars, up + 1.1


def _heat(ax: Any, head_map: HeadMap, highest: float, mark: torch.Tensor | None) -> Any:
    scores = head_map.scores.numpy()
    shown = {"origin": "lower", "aspect": "auto", "interpolation": "nearest"}
    image = ax.imshow(scores, cmap=SCORES, vmin=0, vmax=highest or 1.0, **shown)
    layers, heads = scores.shape
    if mark is not None:
        across, up = inches(ax)
        thick = min(1.6, max(0.6, 72 * 0.09 * min(across / heads, up / layers)))
        for layer, head in mark.nonzero().tolist():
            frame(ax, (head - 0.5, layer - 0.5, head + 0.5, layer + 0.5), EVIDENCE, thick)
    ax.set_xlabel("query head", fontsize=LABEL)
    ax.set_ylabel("layer", fontsize=LABEL)
    ax.tick_params(labelsize=SMALL)
    index_ticks(ax, layers, heads)
    return image
