"""Where heads look: attention rows painted over an example's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from corehead_hf.data.example import Example
from corehead_hf.families import Prepared
from corehead_hf.plots.figure import EVIDENCE, new_figure, rectangle
from corehead_hf.plots.pictures import Board, board_of, faded, pictures_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def attention_overlay(
    prepared: Prepared,
    rows: Mapping[str, torch.Tensor],
    *,
    index: int = 0,
    max_frames: int = 8,
    per_line: int = 8,
    axes: Any = None,
) -> Figure:
    """Attention rows painted over the images and frames of one example, with its evidence boxed (Figs. 1, 2, 8).

    Args:
        prepared: the batch the rows were recorded on.
        rows: label -> question-averaged row float [T] of one head; each label gets its own copy of the pictures. All
            share one scale, up to the largest visual entry among them.
        index: which example of the batch.
        max_frames: the most frames of each video, evenly chosen; the title says where some are left out.
        per_line: pictures in one line.
        axes: object array [len(rows), 1] to draw into; without it the figure is new and titled with the question.
    """
    example, visual = prepared.examples[index], prepared.visual_mask[index].cpu()
    pictures, note = pictures_of(example, max_frames)
    board = board_of(pictures, per_line)
    alone = axes is None
    if alone:
        across = min(len(pictures), per_line)
        axes = new_figure(len(rows), 1, size=(1.5 * across + 1, (1.4 * board.lines + 0.3) * len(rows) + 0.5))[1]
    entries = {label: row.float().cpu() for label, row in rows.items()}
    scale = max(float(row[visual].max()) for row in entries.values()) or 1.0
    for ax, (label, row) in zip(axes[:, 0], entries.items(), strict=True):
        values = [row.numpy()[columns] / scale for columns in prepared.columns[index]]
        _draw(ax, board, board.heat(prepared.geometry[index], values), example)
        title = f"{label}, largest entry {float(row[visual].max()):.3f}" + (f" ({note})" if note else "")
        ax.set_title(title, fontsize="small", loc="left")
    figure = axes[0, 0].get_figure()
    if alone:
        figure.suptitle(f"{example.question}  (answer: {example.answer})", fontsize="medium")
    return figure


def _draw(ax: Any, board: Board, heat: np.ndarray, example: Example) -> None:
    """The pictures, faded to grey, under the heat, with the evidence boxed."""
    ax.imshow(faded(board.canvas))
    ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=np.where(board.covered(), 0.15 + 0.75 * heat, 0))
    for number, picture in enumerate(board.pictures):
        for left, top, right, bottom in board.on_canvas(number, np.array(picture.evidence(example)).reshape(-1, 4)):
            corner = (left - 0.5, top - 0.5)  # imshow puts the middle of the first pixel at 0
            ax.add_patch(rectangle(corner, right - left, bottom - top, fill=False, edgecolor=EVIDENCE, linewidth=2))
    ax.set_axis_off()
