"""Where heads look: attention rows painted over an example's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from corehead_hf.data.example import Example, Video
from corehead_hf.families import Prepared
from corehead_hf.plots.figure import axes_grid, color_bar, figure_of, frame, inches, titled
from corehead_hf.plots.pictures import Board, board_of, faded, pictures_of
from corehead_hf.plots.style import ENTRIES, EVIDENCE, SMALL, TINY, TITLE
from corehead_hf.plots.text import balanced, clean, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = 220  # characters of a question that a title shows
PAPER = 0.76  # the grey of a faded picture's middle tone


def attention_overlay(
    prepared: Prepared,
    rows: Mapping[str, torch.Tensor],
    *,
    index: int = 0,
    max_frames: int = 8,
    per_line: int | None = None,
    side_by_side: bool = False,
    axes: Any = None,
) -> Figure:
    """Attention rows painted over the images and frames of one example, with its evidence boxed (Figs. 1, 2, 8).

    Args:
        prepared: the batch the rows were recorded on.
        rows: label -> question-averaged row float [T] of one head; each label gets its own copy of the pictures. All
            share one scale, up to the largest visual entry among them.
        index: which example of the batch.
        max_frames: the most frames of each video, evenly chosen; the title says where some are left out.
        per_line: pictures in one line; None takes 8, and side by side 4 or fewer, so that copies are nearly square.
        side_by_side: labels as columns, e.g. a top head beside a bottom head, rather than one below the other.
        axes: axes to draw into, one per label; without them the figure is new and titled with the question.
    """
    example, visual = prepared.examples[index], prepared.visual_mask[index].cpu()
    pictures, note = pictures_of(example, max_frames)
    if per_line is None:
        per_line = min(4, int(np.ceil(np.sqrt(len(pictures))))) if side_by_side else 8
    board = board_of(pictures, per_line)
    lines, columns = (1, len(rows)) if side_by_side else (len(rows), 1)
    grid = axes_grid(axes, lines, columns, _size(board, lines, columns)).ravel()
    entries = {label: row.float().cpu() for label, row in rows.items()}
    highest = max(float(row[visual].max()) for row in entries.values())
    for ax, (label, row) in zip(grid, entries.items(), strict=True):
        values = [row.numpy()[places] / (highest or 1.0) for places in prepared.columns[index]]
        _draw(ax, board, board.heat(prepared.geometry[index], values), example)
        largest = f"largest entry {float(row[visual].max()):.3f}" + (f" ({note})" if note else "")
        room = inches(ax)[0] * (1.15 if axes is None else 1.0)
        titled(ax, f"{clean(label)}, {largest}", room=room, size=SMALL)
    color_bar(_scale(highest or 1.0), grid, "attention entry (boxed: evidence)", shrink=0.9, aspect=25, pad=0.02)
    figure = figure_of(grid[0])
    if axes is None:
        asked = f"{short(example.question, QUESTION)}  (answer: {short(example.answer, 60)})"
        figure.suptitle(balanced(asked, 0.95 * figure.get_figwidth(), TITLE), fontsize=TITLE)
    return figure


def _size(board: Board, lines: int, columns: int) -> tuple[float, float]:
    """Inches of a figure of copies of the board: pictures of about two inches, within a page."""
    high, wide = board.canvas.shape[:2]
    across = -(-len(board.pictures) // board.lines)
    each = min(2.0 * across + 0.8, 11.0 / columns)
    up = each * high / wide
    shrunk = min(1.0, 9.0 / (up * lines))
    return max(each * columns * shrunk, 2.6 * columns) + 1.1, max(up * shrunk + 0.45, 1.5) * lines + 0.6


def _draw(ax: Any, board: Board, heat: np.ndarray, example: Example) -> None:
    """The pictures, faded to grey, under the heat, with the evidence boxed and images and frames numbered."""
    ax.imshow(faded(board.canvas))
    ax.imshow(heat, cmap=ENTRIES, vmin=0, vmax=1, alpha=np.where(board.covered(), _alpha(heat), 0))
    for number, picture in enumerate(board.pictures):
        boxes = board.on_canvas(number, np.array(picture.evidence(example)).reshape(-1, 4))
        for box in boxes - 0.5:  # imshow puts the middle of the first pixel at 0
            frame(ax, tuple(box.tolist()), EVIDENCE, 1.4)
    ax.spines[:].set_visible(False)
    ax.set(xticks=[], yticks=[])
    if len(board.pictures) > 1:
        _number(ax, board, example)


def _number(ax: Any, board: Board, example: Example) -> None:
    """Which images and frames are shown: below them, or beside each line of them."""
    media = {picture.medium: isinstance(example.media[picture.medium], Video) for picture in board.pictures}
    if not any(media.values()):
        kind, names = "image", [str(picture.medium) for picture in board.pictures]
    elif len(media) == 1:
        kind, names = "frame", [str(picture.frame) for picture in board.pictures]
    else:
        kind = "medium"
        names = [f"{p.medium}, frame {p.frame}" if media[p.medium] else str(p.medium) for p in board.pictures]
    ax.tick_params(length=0, labelsize=TINY, pad=1.5)
    across, down = board.middles()
    if board.lines == 1:
        ax.set_xticks(across, names)
        ax.set_xlabel(kind, fontsize=TINY, labelpad=1)
    else:
        lines = [np.flatnonzero(down == middle) for middle in dict.fromkeys(down.tolist())]
        spans = [names[line[0]] + (f" to {names[line[-1]]}" if len(line) > 1 else "") for line in lines]
        ax.set_yticks([down[line[0]] for line in lines], spans)
        ax.set_ylabel(kind, fontsize=TINY, labelpad=1)


def _alpha(heat: np.ndarray) -> np.ndarray:
    """How much of the picture the heat hides, for heat in [0, 1]."""
    return 0.1 + 0.65 * heat


def _scale(highest: float) -> Any:
    """The colours as they are seen over a picture of a middle grey, from 0 to the highest entry."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    steps = np.linspace(0, 1, 256)
    veil = _alpha(steps)[:, None]
    return ScalarMappable(
        Normalize(0, highest), ListedColormap(veil * colormaps[ENTRIES](steps)[:, :3] + (1 - veil) * PAPER)
    )
