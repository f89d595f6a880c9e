"""A board of an example's pictures: images and chosen video frames in lines, and where their pixels went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from corehead_hf.data.example import Box, Example, Video
from corehead_hf.families import Geometry

GAP = 4  # white pixels between pictures
LARGEST = 448  # pixels of a picture's longer side on a board; what is larger is shrunk, what is smaller stays as it is


@dataclass(frozen=True, eq=False)
class Picture:
    """One image or frame.

    Attributes:
        medium: index into Example.media.
        frame: which sampled frame; 0 for an image.
        pixels: uint8 [height, width, 3], native.
    """

    medium: int
    frame: int
    pixels: np.ndarray

    def evidence(self, example: Example) -> list[Box]:
        """The boxes of evidence in it, native pixels; all of the picture where a part has no box."""
        height, width = self.pixels.shape[:2]
        return [
            part.box or (0, 0, width, height)
            for part in example.evidence
            if part.media == self.medium and (part.frames is None or self.frame in part.frames)
        ]


def pictures_of(example: Example, max_frames: int) -> tuple[list[Picture], str]:
    """An example's images and frames in prompt order, and a note of what is left out ("" where nothing is).

    Args:
        max_frames: the most frames of each video; of a longer one the first, the last and evenly chosen ones between.
    """
    if max_frames < 1:
        raise ValueError(f"max_frames={max_frames} was asked; at least 1 frame of a video is shown.")
    pictures, notes = [], []
    for medium, shown in enumerate(example.media):
        if not isinstance(shown, Video):
            pictures.append(Picture(medium, 0, shown))
            continue
        count = len(shown.frames)
        chosen = np.linspace(0, count - 1, min(count, max_frames)).round().astype(int).tolist()
        pictures += [Picture(medium, frame, shown.frames[frame]) for frame in chosen]
        if len(chosen) < count:
            notes.append(f"{len(chosen)} of {count} frames shown")
    return pictures, "; ".join(notes)


@dataclass(frozen=True, eq=False)
class Board:
    """Pictures on one white canvas.

    Attributes:
        canvas: uint8 [H, W, 3].
        pictures: what is on it.
        places: float64 [P, 4], per picture its left and top edge on the canvas, and canvas pixels per native pixel to
            the right and downwards.
        lines: how many lines of pictures there are.
    """

    canvas: np.ndarray
    pictures: list[Picture]
    places: np.ndarray
    lines: int

    def on_canvas(self, picture: int, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] in a picture's native pixels, clipped to the picture, in canvas pixels."""
        height, width = self.pictures[picture].pixels.shape[:2]
        left, top, across, down = self.places[picture]
        inside = np.clip(boxes, 0, [width, height, width, height])
        return inside * [across, down, across, down] + [left, top, left, top]

    def middles(self) -> tuple[np.ndarray, np.ndarray]:
        """Two times float64 [P]: each picture's middle from the left, and that of its line from the top."""
        sizes = [[0, 0, picture.pixels.shape[1], picture.pixels.shape[0]] for picture in self.pictures]
        boxes = np.stack([self.on_canvas(number, np.array(size)) for number, size in enumerate(sizes)])
        left, top, right, bottom = boxes.T
        line_middle = {edge: (edge + bottom[top == edge].max()) / 2 for edge in np.unique(top)}
        return (left + right) / 2, np.array([line_middle[edge] for edge in top])

    def covered(self) -> np.ndarray:
        """bool [H, W]: where pictures are."""
        covered = np.zeros(self.canvas.shape[:2], dtype=bool)
        for number, picture in enumerate(self.pictures):
            height, width = picture.pixels.shape[:2]
            left, top, right, bottom = self.on_canvas(number, np.array([0, 0, width, height])).round().astype(int)
            covered[top:bottom, left:right] = True
        return covered

    def heat(self, geometry: tuple[Geometry, ...], values: list[np.ndarray]) -> np.ndarray:
        """Each canvas pixel's largest value among the tokens that show it: views of the whole do not hide tiles.

        Args:
            values: per medium, float [N], one value per visual token.
        """
        heat = np.zeros(self.canvas.shape[:2])
        for number, picture in enumerate(self.pictures):
            tokens = geometry[picture.medium]
            token, cell = np.nonzero((tokens.weights > 0) & (tokens.frames == picture.frame))
            corners = self.on_canvas(number, tokens.cells[token, cell]).round().astype(int)
            for value, (left, top, right, bottom) in zip(values[picture.medium][token], corners, strict=True):
                region = heat[top:bottom, left:right]
                np.maximum(region, value, out=region)
        return heat


def board_of(pictures: list[Picture], per_line: int) -> Board:
    """Lay pictures out in lines of `per_line`."""
    if per_line < 1:
        raise ValueError(f"per_line={per_line} was asked; a line of pictures holds at least 1.")
    shown = [_at_most(LARGEST, picture.pixels) for picture in pictures]
    lines = [range(start, min(start + per_line, len(shown))) for start in range(0, len(shown), per_line)]
    heights = [max(shown[i].shape[0] for i in line) for line in lines]
    width = max(sum(shown[i].shape[1] for i in line) + GAP * (len(line) - 1) for line in lines)
    canvas = np.full((sum(heights) + GAP * (len(lines) - 1), width, 3), 255, dtype=np.uint8)
    places, top = np.zeros((len(shown), 4)), 0
    for line, line_height in zip(lines, heights, strict=True):
        left = 0
        for i in line:
            height, width = shown[i].shape[:2]
            canvas[top : top + height, left : left + width] = shown[i]
            native = pictures[i].pixels.shape
            places[i] = left, top, width / native[1], height / native[0]
            left += width + GAP
        top += line_height + GAP
    return Board(canvas, pictures, places, len(lines))


def faded(pixels: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3]: light grey, so that what is drawn over it has the only colours."""
    return (pixels.mean(axis=2, keepdims=True) * 0.5 + 127).repeat(3, axis=2).astype(np.uint8)


def _at_most(longest: int, pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    scale = longest / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
