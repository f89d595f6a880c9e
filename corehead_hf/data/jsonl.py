"""One's own annotations: a JSON lines file, one question a line.

    {"id": "a", "media": ["a.jpg", {"video": "b.mp4", "frames": 32}], "question": "Where?", "answer": "there",
     "evidence": [{"media": 0, "box": [8, 0, 40, 24]}, {"media": 1, "frames": [3, 4]}],
     "content": ["See", 0, 1, "Where?"]}

`media` are picture files, or videos of which so many frames are shown, spread evenly, or the frames with these
numbers; paths count from the file's folder. `evidence` is what `Evidence` takes: a medium's number, and a box (left,
top, right, bottom) in its native pixels, or which of its shown frames, or both, or neither. `id`, `answer` and
`content` may be left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from corehead_hf.data.example import Box, Evidence, Example, Media, Video
from corehead_hf.data.example_set import Note, Row, RowError, broken
from corehead_hf.data.fields import clip_box, field, integers, numbers, parse_object, question_of, shown
from corehead_hf.data.files import json_lines
from corehead_hf.data.image_file import read_image
from corehead_hf.data.video_file import read_video

KEYS = ("id", "media", "question", "answer", "evidence", "content")


@dataclass(frozen=True)
class JsonLines:
    """A JSON lines file of one's own.

    Args:
        path: the file.
        exif: turn pictures as their EXIF orientation says; boxes then refer to the turned picture. False: to the stored
            pixels.
    """

    name: ClassVar[str] = "jsonl"
    path: Path
    exif: bool = False

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise ValueError(f"path {str(self.path)!r} was given; the jsonl data set needs one JSON lines file.")

    def iter_rows(self) -> Iterator[Row]:
        """One row a line."""
        for number, text in json_lines(self.path):
            where = f"{self.path.name}:{number}"
            try:
                row = parse_object(text)
                _check_keys(row, KEYS)
                identity = field(row, "id", str) if "id" in row else f"{self.path.stem}-{number}"
            except ValueError as error:
                yield broken(where, error)
                continue
            yield Row(where, identity, partial(self._example, row, identity), row)

    def _example(self, row: Mapping[str, Any], identity: str, note: Note) -> Example:
        question = question_of(row, "question")
        answer = field(row, "answer", str) if "answer" in row else ""
        content = tuple(field(row, "content", list)) if "content" in row else None
        if content is not None and not all(type(part) in (str, int) for part in content):
            raise RowError("bad_row", f"'content' is {shown(row['content'])}; expected texts and numbers of media.")
        items, parts = field(row, "media", list), field(row, "evidence", list) if "evidence" in row else None
        for name, entries in (("media", items), ("evidence", parts)):
            if entries is not None and not entries:
                raise RowError("bad_row", f"{name!r} has 0 entries; give one at least.")
        media = tuple(self._medium(item) for item in items)
        evidence = tuple(_evidence(part, media, note) for part in parts or ())
        return Example(identity, media, question, answer, evidence, content)

    def _medium(self, item: Any) -> Media:
        if isinstance(item, str):
            return read_image(self.path.parent / item, exif=self.exif)
        _check_keys(item, ("video", "frames"))
        frames = field(item, "frames", int, list)
        if isinstance(frames, list):
            frames = integers(frames, "frames")
        return read_video(self.path.parent / field(item, "video", str), frames)


def _evidence(part: Any, media: tuple[Media, ...], note: Note) -> Evidence:
    _check_keys(part, ("media", "box", "frames"))
    number = field(part, "media", int)
    if not 0 <= number < len(media):
        raise RowError("bad_row", f"evidence {shown(part)} names medium {number} of {len(media)}, counted from 0.")
    medium = media[number]
    shape = medium.frames.shape[1:3] if isinstance(medium, Video) else medium.shape[:2]
    return Evidence(number, _box(part, shape, note), _frames(part, medium))


def _box(part: Mapping[str, Any], shape: tuple[int, ...], note: Note) -> Box | None:
    if part.get("box") is None:
        return None
    return clip_box(numbers(part["box"], "box", 4), shape[1], shape[0], note)


def _frames(part: Mapping[str, Any], medium: np.ndarray | Video) -> tuple[int, ...] | None:
    if part.get("frames") is None:
        return None
    frames = integers(part["frames"], "frames")
    count = len(medium.frames) if isinstance(medium, Video) else 0
    if not count:
        raise RowError("bad_row", f"evidence {shown(part)} names frames of an image.")
    if not frames or not all(0 <= frame < count for frame in frames):
        raise RowError(
            "frames_out_of_range",
            f"evidence {shown(part)} names frames outside 0..{count - 1}, the {count} shown frames of its video.",
        )
    return frames


def _check_keys(row: Any, known: tuple[str, ...]) -> None:
    if not isinstance(row, Mapping):
        raise RowError("bad_row", f"{shown(row)} was given; expected an object with {', '.join(known)}.")
    if unknown := [key for key in row if key not in known]:
        raise RowError("bad_row", f"unknown key {', '.join(map(repr, unknown))}; known are {', '.join(known)}.")
