"""Figures from measured results. Each function returns a matplotlib Figure, shows nothing, and can draw into `ax=`.

Needs matplotlib: pip install 'corehead-hf[plot]'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from corehead_hf.analysis.ablation import GroupAccuracy
from corehead_hf.data.example import Video
from corehead_hf.families import Geometry, Prepared
from corehead_hf.head_map import HeadMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUP_COLORS = {"top": "#c0392b", "bottom": "#2c7fb8", "random": "#7f8c8d"}


def require_matplotlib() -> None:
    """Raises ImportError with the remedy where matplotlib is missing; call it before long work that ends in figures."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'corehead-hf[plot]'") from error


def new_figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float]) -> tuple[Figure, Any]:
    """A Figure without pyplot's global state, and its axes as an object array [rows, columns]; size in inches."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=130)
    return figure, figure.subplots(rows, columns, squeeze=False)


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
            frame = {"fill": False, "edgecolor": "#2ecc71", "linewidth": 1.8}
            ax.add_patch(_rectangle((head - 0.5, layer - 0.5), 1, 1, **frame))
    ax.set(xlabel="query head", ylabel="layer", title=f"{head_map.model_type} on {head_map.dataset}")
    ax.set_xticks(_ticks(scores.shape[1]))
    ax.set_yticks(_ticks(scores.shape[0]))
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


def attention_overlay(
    prepared: Prepared, rows: Mapping[str, torch.Tensor], *, index: int = 0, axes: Any = None
) -> Figure:
    """Attention rows painted over the images of one example, with its evidence boxed (Figs. 1, 2, 8).

    Args:
        prepared: the batch the rows were recorded on.
        rows: label -> question-averaged row float [T] of one head; each label gets one line of images. All lines
            share one
            scale, up to the largest visual entry among them.
        index: which example of the batch.
        axes: object array [len(rows), 1] to draw into; without it the figure is new and titled with the question.
    """
    example, visual = prepared.examples[index], prepared.visual_mask[index]
    pictures = [(medium, 0, image) for medium, image in enumerate(example.media) if not isinstance(image, Video)]
    for medium, video in enumerate(example.media):
        if isinstance(video, Video):
            pictures += [(medium, frame, picture) for frame, picture in enumerate(video.frames)]
    pictures.sort(key=lambda picture: picture[:2])
    alone = axes is None
    if alone:
        axes = new_figure(len(rows), 1, size=(1.5 * len(pictures) + 1, 1.7 * len(rows) + 0.5))[1]
    canvas, offsets = _side_by_side([picture for _, _, picture in pictures])
    left_edge = {place[:2]: offset for place, offset in zip(pictures, offsets, strict=True)}
    scale = max(float(row[visual].max()) for row in rows.values()) or 1.0
    for ax, (label, row) in zip(axes[:, 0], rows.items(), strict=True):
        heat = np.zeros(canvas.shape[:2])
        for medium, (tokens, columns) in enumerate(zip(prepared.geometry[index], prepared.columns[index], strict=True)):
            _paint(
                heat,
                tokens,
                row.float().numpy()[columns] / scale,
                {f: x for (m, f), x in left_edge.items() if m == medium},
            )
        faded = (canvas.mean(axis=2, keepdims=True) * 0.5 + 127).repeat(3, axis=2).astype(np.uint8)
        ax.imshow(faded)
        ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.75 * heat)
        for (medium, frame, picture), offset in zip(pictures, offsets, strict=True):
            for part in example.evidence:
                if part.media == medium and (part.frames is None or frame in part.frames):
                    left, top, right, bottom = part.box or (0, 0, picture.shape[1], picture.shape[0])
                    corner, size = (offset + left - 0.5, top - 0.5), (right - left, bottom - top)
                    ax.add_patch(_rectangle(corner, *size, fill=False, edgecolor="#2ecc71", linewidth=2))
        ax.set_title(f"{label}, largest entry {float(row[visual].max()):.3f}", fontsize="small", loc="left")
        ax.set_axis_off()
    figure = axes[0, 0].get_figure()
    if alone:
        figure.suptitle(f"{example.question}  (answer: {example.answer})", fontsize="medium")
    return figure


def _paint(heat: np.ndarray, tokens: Geometry, weights: np.ndarray, left_edge: Mapping[int, int]) -> None:
    """Each pixel gets the largest entry of the tokens that show it: views of the whole do not hide tiles."""
    for token in np.flatnonzero(tokens.weights.any(axis=1)):
        for cell in np.flatnonzero(tokens.weights[token]):
            left, top, right, bottom = tokens.cells[token, cell].round().astype(int)
            offset = left_edge[int(tokens.frames[token, cell])]
            region = heat[max(top, 0) : max(bottom, 0), offset + max(left, 0) : offset + max(right, 0)]
            np.maximum(region, weights[token], out=region)


def _side_by_side(images: Sequence[np.ndarray], gap: int = 4) -> tuple[np.ndarray, list[int]]:
    """All images in one line on white, uint8 [H, W, 3], and the left edge of each."""
    height = max(image.shape[0] for image in images)
    offsets = np.cumsum([0, *(image.shape[1] + gap for image in images)]).tolist()
    canvas = np.full((height, offsets[-1] - gap, 3), 255, dtype=np.uint8)
    for image, left in zip(images, offsets, strict=False):
        canvas[: image.shape[0], left : left + image.shape[1]] = image
    return canvas, offsets[:-1]


def _rectangle(*args: Any, **kwargs: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(*args, **kwargs)


def _ticks(count: int) -> list[int]:
    step = max(1, -(-count // 12))
    return list(range(0, count, step))
