"""One annotated example: media, a question about them, and where the answer stands.

Decides the words every data set and every family share; says nothing about files or tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Video:
    """The sampled frames of a video.

    Args:
        frames: uint8 [F, height, width, 3], RGB; the model sees exactly these, nothing is sampled again.
        fps: frames per second of the file they were taken from.
        frame_ids: which frame of that file each one is, strictly rising; None means 0, 1, 2, ...
    """

    frames: np.ndarray
    fps: float
    frame_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3 or not len(self.frames):
            raise ValueError(
                f"a video of {self.frames.dtype} {self.frames.shape} was given; give uint8 [frames, height, width, 3]."
            )
        if not self.fps > 0:
            raise ValueError(f"a video with fps={self.fps} was given; give the frames per second of its file.")
        ids = tuple(range(len(self.frames))) if self.frame_ids is None else self.frame_ids
        if len(ids) != len(self.frames) or any(later <= earlier for earlier, later in zip(ids, ids[1:], strict=False)):
            raise ValueError(
                f"a video with {len(self.frames)} frames and frame_ids {list(ids)} was given; give one number per "
                "frame, strictly rising."
            )
        object.__setattr__(self, "frame_ids", ids)


Media: TypeAlias = "np.ndarray | Video"


@dataclass(frozen=True)
class Evidence:
    """A part of one medium that holds the answer; an example's evidence is the union of its parts.

    Args:
        media: index into Example.media.
        box: (left, top, right, bottom) in native pixels, half-open: x in [left, right), y in [top, bottom); None means
            all of the image or of the frames.
        frames: of a video, which of its sampled frames (0 is the first of Video.frames); None means all.
    """

    media: int
    box: Box | None = None
    frames: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.media < 0:
            raise ValueError(f"evidence needs media >= 0; got {self!r}.")
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (0 <= left < right and 0 <= top < bottom):
                raise ValueError(
                    f"an evidence box needs 0 <= left < right and 0 <= top < bottom; got {self!r}. "
                    "Boxes are (left, top, right, bottom) in native pixels."
                )
        if self.frames is not None and (not self.frames or min(self.frames) < 0):
            raise ValueError(f"evidence frames are numbers from 0, at least one; got {self!r}. None means all frames.")


@dataclass(frozen=True, eq=False)
class Example:
    """A question about images or videos.

    Args:
        id: unique in its data set.
        media: images, uint8 arrays [height, width, 3], RGB, and Videos, in prompt order.
        question: the question's text, without instructions or media.
        answer: the expected answer.
        evidence: the parts that hold the answer; none where an example is only answered, not measured.
        content: the user's turn as the prompt has it: strings, and the numbers 0, 1, ... of the media in order; the
            question stands in the last string. None means all media, then the question.
        answer_prefix: what the answer begins with: it ends the prompt, behind the head of the assistant's turn.
        details: what a benchmark scores and groups by besides the answer, such as task or answer format: JSON values.
    """

    id: str
    media: tuple[Media, ...]
    question: str
    answer: str
    evidence: tuple[Evidence, ...]
    content: tuple[str | int, ...] | None = None
    answer_prefix: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError(f"example {self.id!r} has an empty question; the question rows would be undefined.")
        for i, medium in enumerate(self.media):
            if not isinstance(medium, Video) and (medium.dtype != np.uint8 or medium.ndim != 3 or medium.shape[2] != 3):
                raise ValueError(
                    f"example {self.id!r}: image {i} is {medium.dtype} {medium.shape}; give uint8 [height, width, 3]."
                )
        for part in self.evidence:
            self._check_evidence(part)
        if self.content is not None:
            self._check_content(self.content)

    @property
    def images(self) -> tuple[np.ndarray, ...]:
        """The images among the media, in order."""
        return tuple(medium for medium in self.media if not isinstance(medium, Video))

    @property
    def videos(self) -> tuple[Video, ...]:
        """The videos among the media, in order."""
        return tuple(medium for medium in self.media if isinstance(medium, Video))

    @property
    def turn(self) -> tuple[str | int, ...]:
        """The user's turn: strings, and numbers of media."""
        return (*range(len(self.media)), self.question) if self.content is None else self.content

    def _check_evidence(self, part: Evidence) -> None:
        if part.media >= len(self.media):
            raise ValueError(f"example {self.id!r}: {part!r} names medium {part.media} of {len(self.media)}.")
        medium = self.media[part.media]
        height, width = (medium.frames if isinstance(medium, Video) else medium).shape[-3:-1]
        if part.box is not None and (part.box[2] > width or part.box[3] > height):
            raise ValueError(f"example {self.id!r}: {part!r} reaches over the edge of {width} x {height} pixels.")
        if part.frames is not None:
            count = len(medium.frames) if isinstance(medium, Video) else 0
            if max(part.frames) >= count:
                what = f"a video with {count}" if count else "an image"
                raise ValueError(f"example {self.id!r}: {part!r} names frames of {what}.")

    def _check_content(self, content: tuple[str | int, ...]) -> None:
        numbers = [part for part in content if isinstance(part, int)]
        texts = [part for part in content if isinstance(part, str)]
        if numbers != list(range(len(self.media))):
            raise ValueError(
                f"example {self.id!r}: its content shows media {numbers}; it must show {len(self.media)} media once "
                "each, in order."
            )
        if not texts or self.question not in texts[-1]:
            raise ValueError(
                f"example {self.id!r}: the question {self.question!r} is not in the last text of its content."
            )
