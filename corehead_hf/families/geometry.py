"""Which pixels each visual token shows: the source cells of a medium's tokens, and how much evidence they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corehead_hf.data.example import Evidence

# What a token belongs to: a high-resolution view, a view of the whole medium, or (a newline) no place at all. Where a
# family shows a medium once, its tokens are both, so that no view policy takes them away.
NO_PLACE, HIRES, GLOBAL, ONLY = 0, 1, 2, 3
VIEWS = ("all", "hires", "global")
VISUAL_RULE = "all visual tokens"


def view_rule(views: str, min_coverage: float, target: str = "evidence") -> str:
    """Which columns are summed, in words, as head maps keep it; target as in corehead_hf.measure."""
    if target == "visual":
        return VISUAL_RULE
    share = f"at least {min_coverage:g} of it shows" if min_coverage else "any of it shows"
    return f"{views} views; a visual token counts if {share} evidence"


@dataclass(frozen=True, eq=False)
class Geometry:
    """The source cells of one medium's visual tokens, in the order of its N placeholders.

    Most tokens show one cell; a token of a shrunk grid mixes up to four, a token of a Qwen video two frames.

    Attributes:
        cells: float64 [N, K, 4], left, top, right, bottom in native pixels, within the medium.
        weights: float64 [N, K], the share of each cell in the token; rows sum to 1, to less where the
            rest shows padding, or 0 where it shows no place.
        frames: int64 [N, K], the sampled frame of each cell; 0 for images.
        views: int8 [N], NO_PLACE, HIRES, GLOBAL or ONLY.
    """

    cells: np.ndarray
    weights: np.ndarray
    frames: np.ndarray
    views: np.ndarray

    def __len__(self) -> int:
        return len(self.views)

    def coverage(self, parts: Sequence[Evidence]) -> np.ndarray:
        """How much of each token shows the evidence, float64 [N] in [0, 1]: 0.25 = a quarter of its pixels.

        Overlapping parts: the largest coverage counts.
        """
        best = np.zeros_like(self.weights)
        areas = (self.cells[..., 2] - self.cells[..., 0]) * (self.cells[..., 3] - self.cells[..., 1])
        for part in parts:
            shared = np.ones_like(self.weights)
            if part.box is not None:
                left, top, right, bottom = part.box
                width = np.minimum(self.cells[..., 2], right) - np.maximum(self.cells[..., 0], left)
                height = np.minimum(self.cells[..., 3], bottom) - np.maximum(self.cells[..., 1], top)
                shared = np.clip(width, 0, None) * np.clip(height, 0, None) / areas
            if part.frames is not None:
                shared = shared * np.isin(self.frames, part.frames)
            best = np.maximum(best, shared)
        return (self.weights * best).sum(axis=1)

    def of_view(self, view: str) -> np.ndarray:
        """bool [N]: the tokens that a view policy counts."""
        if view == "all":
            return self.views != NO_PLACE
        return (self.views == ONLY) | (self.views == (HIRES if view == "hires" else GLOBAL))


def grid(shape: tuple[int, ...], rows: int, columns: int, *, view: int = ONLY, frame: int = 0) -> Geometry:
    """An image of shape [height, width, ...] stretched onto rows x columns tokens, row-major."""
    row, column = (index.ravel() for index in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    # Multiplied first: index * (size / count) may land beside a whole pixel, where a neighbour's box would touch it.
    y, x = (np.arange(count + 1) * size / count for size, count in zip(shape, (rows, columns), strict=False))
    cells = np.stack([x[column], y[row], x[column + 1], y[row + 1]], axis=1)
    return single_cells(cells, view=view, frame=frame)


def single_cells(cells: np.ndarray, *, view: int = ONLY, frame: int = 0) -> Geometry:
    """Tokens that show one cell each, float [N, 4]."""
    n = len(cells)
    cells = np.asarray(cells, dtype=np.float64)[:, None]
    return Geometry(cells, np.ones((n, 1)), np.full((n, 1), frame), np.full(n, view, dtype=np.int8))


def no_place(count: int = 1) -> Geometry:
    """Newline tokens."""
    cells = np.tile(np.array([[[0.0, 0.0, 1.0, 1.0]]]), (count, 1, 1))
    return Geometry(cells, np.zeros((count, 1)), np.zeros((count, 1), dtype=np.int64), np.zeros(count, dtype=np.int8))


def concatenate(parts: Sequence[Geometry]) -> Geometry:
    """Tokens of several parts one after another; tokens with fewer cells get cells of weight 0."""
    most = max(part.cells.shape[1] for part in parts)

    def widened(array: np.ndarray) -> np.ndarray:
        extra = most - array.shape[1]
        padding = [(0, 0), (0, extra)] + [(0, 0)] * (array.ndim - 2)
        return np.pad(array, padding, mode="edge") if array.ndim == 3 else np.pad(array, padding)

    return Geometry(
        np.concatenate([widened(part.cells) for part in parts]),
        np.concatenate([widened(part.weights) for part in parts]),
        np.concatenate([widened(part.frames) for part in parts]),
        np.concatenate([part.views for part in parts]),
    )
