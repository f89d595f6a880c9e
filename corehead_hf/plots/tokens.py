"""What a family does to its media: every visual token drawn where its pixels are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from corehead_hf.data.example import Box, Video
from corehead_hf.families import Geometry, Prepared
from corehead_hf.families.geometry import GLOBAL, HIRES, NO_PLACE, ONLY
from corehead_hf.plots.figure import figure_of, frame, inches, new_figure, titled
from corehead_hf.plots.pictures import Picture, faded, pictures_of
from corehead_hf.plots.style import GREEN, SMALL, TITLE, VERMILION
from corehead_hf.plots.text import wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND = (
    "Boxed: evidence. Filled: tokens marked as showing it. Grid: dark blue = first token in the prompt, yellow = last."
)
VIEW_NAMES = {HIRES: "high-resolution view", GLOBAL: "view of the whole", ONLY: "only view"}


@dataclass(frozen=True, eq=False)
class Panel:
    """One view of one picture.

    Attributes:
        evidence: its boxes of evidence, native pixels.
        boxes: float64 [N, 4], what its tokens show, native pixels.
        counted: bool [N], the tokens that count as evidence.
        order: float64 [N] in [0, 1], where each token stands among the medium's tokens.
    """

    title: str
    picture: Picture
    evidence: list[Box]
    boxes: np.ndarray
    counted: np.ndarray
    order: np.ndarray


def token_overlay(
    prepared: Prepared, index: int = 0, *, max_frames: int = 4, per_line: int = 3, axes: Any = None
) -> Figure:
    """The visual tokens of one example as grids over its media: one panel per view of an image or frame.

    The evidence is boxed (red, cased in black), and the tokens that count as evidence are filled (green); the grid's
    colour runs from the first token of a medium (dark blue) to the last (yellow). A token that mixes cells of a shrunk
    grid is drawn as the box around them, so that its neighbours overlap; one that shows two frames stands in the panels
    of both. Tokens on padding reach over the picture's edge.

    Args:
        prepared: a batch; its evidence_mask says which tokens count.
        index: which example of the batch.
        max_frames: the most frames of each video, evenly chosen; the title says where some are left out.
        per_line: panels in one line.
        axes: an array of axes to draw into, at least one per panel; those left over are switched off. Without it the
            figure is new and titled with the example's token counts.
    """
    panels = list(_panels(prepared, index, max_frames))
    alone = axes is None
    if alone:
        lines, across = -(-len(panels) // per_line), min(len(panels), per_line)
        axes = new_figure(lines, across, size=(4.2 * across, 3.2 * lines + 0.4))[1]
    flat = np.asarray(axes, dtype=object).ravel()
    if len(flat) < len(panels):
        raise ValueError(f"{len(flat)} axes were given for {len(panels)} panels; give one axes per panel.")
    figure = figure_of(flat[0])
    room = 1.3 * inches(flat[0])[0]
    for ax, panel in zip(flat, panels, strict=False):
        _draw(ax, panel)
        titled(ax, panel.title, room=room, size=SMALL)
    for ax in flat[len(panels) :]:
        ax.set_axis_off()
    if alone:
        visual, evidence = (int(m[index].sum()) for m in (prepared.visual_mask, prepared.evidence_mask))
        note = pictures_of(prepared.examples[index], max_frames)[1]
        figure.suptitle(f"{visual} visual tokens, {evidence} marked" + (f" ({note})" if note else ""), fontsize=TITLE)
        figure.supxlabel(wrapped(LEGEND, 0.95 * figure.get_figwidth(), SMALL), fontsize=SMALL)
    return figure


def _panels(prepared: Prepared, index: int, max_frames: int) -> Iterator[Panel]:
    """In the order of the prompt: media, frames, and within them the views as their first tokens come."""
    example = prepared.examples[index]
    for picture in pictures_of(example, max_frames)[0]:
        tokens = prepared.geometry[index][picture.medium]
        counted = prepared.evidence_mask[index].cpu().numpy()[prepared.columns[index][picture.medium]]
        shows = (tokens.weights > 0) & (tokens.frames == picture.frame)
        views = [view for view in dict.fromkeys(tokens.views.tolist()) if view != NO_PLACE]
        for view in views:
            inside = (tokens.views == view) & shows.any(axis=1)
            is_video = isinstance(example.media[picture.medium], Video)
            names = [f"medium {picture.medium}"] if len(example.media) > 1 else []
            names += [f"frame {picture.frame}"] if is_video else [VIEW_NAMES[view]]
            title = f"{', '.join(names)}: {int(inside.sum())} tokens"
            newlines = int((tokens.views == NO_PLACE).sum())
            if newlines and not is_video and view == views[-1]:
                title += f" and {newlines} newlines"
            title += f", {int(counted[inside].sum())} marked"
            boxes, order = _boxes(tokens, shows, inside), np.flatnonzero(inside) / len(tokens)
            yield Panel(title, picture, picture.evidence(example), boxes, counted[inside], order)


def _boxes(tokens: Geometry, shows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """float64 [N, 4]: the box around each token's cells in one frame."""
    cells, used = tokens.cells[inside], shows[inside][..., None]
    low = np.where(used, cells[..., :2], np.inf).min(axis=1)
    high = np.where(used, cells[..., 2:], -np.inf).max(axis=1)
    return np.concatenate([low, high], axis=1)


def _draw(ax: Any, panel: Panel) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    height, width = panel.picture.pixels.shape[:2]
    ax.imshow(faded(panel.picture.pixels), extent=(0, width, height, 0))
    left, top, right, bottom = panel.boxes.T
    corners = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 4, 2)
    ax.add_collection(PolyCollection(list(corners[panel.counted]), facecolors=GREEN, edgecolors="none", alpha=0.6))
    grid = PolyCollection(list(corners), facecolors="none", linewidths=0.5)
    grid.set_edgecolor(colormaps["plasma"](panel.order))
    ax.add_collection(grid)
    for box in panel.evidence:
        frame(ax, box, VERMILION, 1.8)
    ax.set_xlim(min(0, left.min(initial=0)), max(width, right.max(initial=0)))
    ax.set_ylim(max(height, bottom.max(initial=0)), min(0, top.min(initial=0)))
    ax.set(xticks=[], yticks=[], aspect="equal")
