"""One annotated example: media, a question about them, and where the answer stands.

Decides the words every data set and every family share; says nothing about files or tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """A half-open rectangle of one image: x in [left, right), y in [top, bottom), in native pixels of image `image`."""

    image: int
    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if self.image < 0 or not (0 <= self.left < self.right and 0 <= self.top < self.bottom):
            raise ValueError(
                f"a box needs image >= 0, 0 <= left < right and 0 <= top < bottom; got {self!r}. "
                "Boxes are (image, left, top, right, bottom) in native pixels."
            )


@dataclass(frozen=True, eq=False)
class Example:
    """A question about one or several images.

    Args:
        id: unique in its data set.
        images: uint8 arrays [height, width, 3], RGB, in prompt order.
        question: the question's text, without instructions or media.
        answer: the expected answer.
        evidence: boxes of the region that holds the answer, at least one.
    """

    id: str
    images: tuple[np.ndarray, ...]
    question: str
    answer: str
    evidence: tuple[Box, ...]

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError(f"example {self.id!r} has an empty question; the question rows would be undefined.")
        if not self.evidence:
            raise ValueError(f"example {self.id!r} has no evidence; its RAM would be undefined.")
        for i, image in enumerate(self.images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"example {self.id!r}: image {i} is {image.dtype} {image.shape}; give uint8 [height, width, 3]."
                )
        for box in self.evidence:
            if box.image >= len(self.images):
                raise ValueError(f"example {self.id!r}: {box!r} names image {box.image} of {len(self.images)}.")
            height, width = self.images[box.image].shape[:2]
            if box.right > width or box.bottom > height:
                raise ValueError(f"example {self.id!r}: {box!r} reaches over the edge of a {width} x {height} image.")
