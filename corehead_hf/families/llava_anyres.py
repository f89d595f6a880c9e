"""Views of LLaVA-OneVision, axis by axis: square crops on a fixed grid of patches, cut, shrunk, ended by newlines.

Every view is a product of its two axes, so each step of the model (tiles side by side, unpadding, bilinear shrinking, a
newline after each row) is a step on one axis. Follows pack_image_features, unpad_image and apply_pooling of
transformers' modeling_llava_onevision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from corehead_hf.families.geometry import GLOBAL, HIRES, NO_PLACE, ONLY, Geometry, concatenate, no_place


@dataclass(frozen=True)
class Crops:
    """What the vision tower sees of one crop.

    Attributes:
        size: pixels of a crop's side; 384 in the released checkpoints.
        side: patches along it; 27.
        pinpoints: the (height, width) in pixels that any-resolution images are fitted into.
        max_tiles: grids of more cells than this many crops have are shrunk; 9.
    """

    size: int
    side: int
    pinpoints: list[tuple[int, int]]
    max_tiles: int

    @property
    def patch(self) -> int:
        """Pixels of a patch's side: 384 // 27 = 14, so the last 6 pixels of a crop are in no patch."""
        return self.size // self.side


@dataclass(frozen=True)
class Axis:
    """What the n positions along one axis of a view show: one patch, or two that are mixed.

    Attributes:
        cells: float64 [n, k, 2], where each patch begins and ends, in native pixels within the medium.
        weights: float64 [n, k], the share of each patch that shows the medium; the rest of 1 shows padding.
    """

    cells: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def cut(self, margin: int) -> Axis:
        """Without the first and last `margin` positions."""
        kept = slice(margin, len(self) - margin)
        return Axis(self.cells[kept], self.weights[kept])

    def shrunk(self, count: int) -> Axis:
        """Bilinear interpolation to `count` positions, as torch's interpolate without aligned corners or antialias.

        Position i reads at (i + 1/2) n / count - 1/2; in whole numbers, so that no rounding moves it to a neighbour.
        """
        n = len(self)
        scaled = np.maximum((2 * np.arange(count) + 1) * n - count, 0)
        low, rest = scaled // (2 * count), scaled % (2 * count) / (2 * count)
        taps = np.stack([low, np.minimum(low + 1, n - 1)], axis=1)
        return Axis(self.cells[taps, 0], self.weights[taps, 0] * np.stack([1 - rest, rest], axis=1))

    def with_newline(self) -> Axis:
        """One more position at the end, which shows nothing."""
        nothing = np.zeros((1, self.weights.shape[1]))
        cells = np.stack([nothing, nothing + 1], axis=-1)
        return Axis(np.concatenate([self.cells, cells]), np.concatenate([self.weights, nothing]))


def axis(
    crops: Crops, native: int, pixels: tuple[int, int], *, tiles: int = 1, padding: int = 0, outside: int = 0
) -> Axis:
    """Patches of `tiles` crops side by side.

    Args:
        native: the medium's length, in its own pixels.
        pixels: as many native pixels became as many pixels of the crops.
        padding: pixels of the crops before the medium.
        outside: native pixels before the medium, where padding came before resizing.
    """
    tile, patch = np.divmod(np.arange(tiles * crops.side), crops.side)
    start = tile * crops.size + patch * crops.patch - padding  # not one pitch: each crop has its unseen strip
    # One division of whole numbers: a border on a whole native pixel is exact, so a box that only touches it shares 0.
    borders = np.stack([start, start + crops.patch], axis=1) * pixels[0] / pixels[1] - outside
    cells = np.clip(borders, 0, native)[:, None]
    weights = (cells[..., 1] - cells[..., 0]) / (borders[:, 1:] - borders[:, :1])
    cells[weights == 0] = 0, 1  # only padding: any place, with no weight
    return Axis(cells, weights)


def product(rows: Axis, columns: Axis, *, view: int, frame: int = 0) -> Geometry:
    """The tokens of a view, row-major."""
    weights = np.einsum("ri,cj->rcij", rows.weights, columns.weights)
    shape = weights.shape
    top, bottom = np.moveaxis(rows.cells, -1, 0)[:, :, None, :, None]
    left, right = np.moveaxis(columns.cells, -1, 0)[:, None, :, None, :]
    edges = [np.broadcast_to(edge, shape) for edge in (left, top, right, bottom)]
    count, mixed = shape[0] * shape[1], shape[2] * shape[3]
    weights = weights.reshape(count, mixed)
    views = np.where(weights.any(axis=1), view, NO_PLACE).astype(np.int8)
    return Geometry(np.stack(edges, axis=-1).reshape(count, mixed, 4), weights, np.full((count, mixed), frame), views)


def squashed(crops: Crops, height: int, width: int) -> tuple[Axis, Axis]:
    """An image stretched onto one crop."""
    return axis(crops, height, (height, crops.size)), axis(crops, width, (width, crops.size))


def padded_to_a_square(crops: Crops, height: int, width: int) -> Geometry:
    """An image among several: centred in a square of its longer side, one crop, and a newline at the end."""
    longest = max(height, width)
    rows = axis(crops, height, (longest, crops.size), outside=(longest - height) // 2)
    columns = axis(crops, width, (longest, crops.size), outside=(longest - width) // 2)
    return concatenate([product(rows, columns, view=ONLY), no_place()])


def any_resolution(crops: Crops, height: int, width: int) -> Geometry:
    """A single image: squashed onto one crop, then once more in tiles, a newline after each row of the tiles' grid.

    The image fills the best pinpoint without distortion, centred; what the padding added is cut off again in whole
    patches, equally on both sides, so a row or column of padding may remain.

    Raises:
        ValueError: the best pinpoint is not made of whole crops.
    """
    from transformers.image_processing_utils import select_best_resolution  # imports the image libraries

    best_height, best_width = select_best_resolution((height, width), crops.pinpoints)
    if best_height % crops.size or best_width % crops.size:
        raise ValueError(
            f"image_grid_pinpoints has {best_height} x {best_width}, best for an image of {height} x {width} pixels, "
            f"which is no multiple of the crop's {crops.size}. Load the processor from the model's own folder."
        )
    scale_y, scale_x = best_height / height, best_width / width
    if scale_x < scale_y:
        new_height, new_width = min(math.ceil(height * scale_x), best_height), best_width
    else:
        new_height, new_width = best_height, min(math.ceil(width * scale_y), best_width)
    down, across = best_height // crops.size, best_width // crops.size
    top, left = (best_height - new_height) // 2, (best_width - new_width) // 2
    rows = axis(crops, height, (height, new_height), tiles=down, padding=top)
    columns = axis(crops, width, (width, new_width), tiles=across, padding=left)
    full_rows, full_columns = down * crops.side, across * crops.side
    if width / height > full_columns / full_rows:
        rows = rows.cut((full_rows - int(round(height * (full_columns / width), 7))) // 2)
    else:
        columns = columns.cut((full_columns - int(round(width * (full_rows / height), 7))) // 2)
    ratio = math.sqrt(len(rows) * len(columns) / (crops.max_tiles * crops.side**2))
    if ratio > 1.1:
        rows, columns = (each.shrunk(int(len(each) // ratio)) for each in (rows, columns))
    tiles = product(rows, columns.with_newline(), view=HIRES)
    return concatenate([product(*squashed(crops, height, width), view=GLOBAL), tiles])


def sampled_video(crops: Crops, num_frames: int, height: int, width: int) -> Geometry:
    """Every frame squashed onto one crop and shrunk to half its patches, rounded up; one newline at the very end."""
    pooled = math.ceil(crops.side / 2)
    rows, columns = (each.shrunk(pooled) for each in squashed(crops, height, width))
    frames = [product(rows, columns, view=ONLY, frame=frame) for frame in range(num_frames)]
    return concatenate([*frames, no_place()])
