"""A harness's chat messages as a prompt of the model: what its chat template takes, and the media in prompt order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from corehead_hf.data.example import Example, Media, Video
from corehead_hf.data.example_set import RowError
from corehead_hf.data.image_file import read_image
from corehead_hf.data.video_file import frame_rate, read_spread, sample_evenly


@dataclass(frozen=True, eq=False)
class Conversation:
    """One prompt.

    Attributes:
        messages: what apply_chat_template takes: roles, texts, and where an image or a video stands.
        example: the media, in the order in which the messages show them; its question is the last text.
    """

    messages: list[dict[str, Any]]
    example: Example


@dataclass(frozen=True)
class Frames:
    """Which frames of a video file the model sees.

    Args:
        most: spread evenly over the file, or over the asked part of it.
        fps: frames per second to take instead, at most `most`; None takes `most` whatever the length.
    """

    most: int = 32
    fps: float | None = None

    def read(self, path: str, start: float | None = None, end: float | None = None) -> Video:
        """A video, or its part from `start` to `end` seconds.

        Raises:
            ValueError: the file is missing, broken or cut off, or no frame is shown between start and end (RowError).
        """
        file = _file(path)
        return read_spread(file, lambda times: self._choose(file, times, start, end))

    def _choose(self, file: Path, times: np.ndarray, start: float | None, end: float | None) -> tuple[int, ...]:
        shown = np.flatnonzero((times >= (start or 0.0)) & (times <= (math.inf if end is None else end)))
        if not len(shown):
            raise RowError(
                "frames_out_of_range",
                f"seconds {start} to {end} of {file} were asked for - it lasts {times[-1]:.1f} s - no frame is there.",
            )
        most = self.most if self.fps is None else math.floor(len(shown) / frame_rate(file) * self.fps)
        return sample_evenly(int(shown[0]), int(shown[-1]), max(1, min(self.most, most)))


def read_conversation(
    messages: Sequence[Mapping[str, Any]], name: str, frames: Frames, system_prompt: str | None = None
) -> Conversation:
    """Decode the media of chat messages as lmms-eval writes them.

    Args:
        messages: {"role": str, "content": a string, or a list of {"type": "text", "text": ...}, {"type": "image",
            "url": PIL image or file} and {"type": "video", "url": file}, which may have start_time and end_time}.
        name: of the prompt, for messages.
        frames: of videos.
        system_prompt: takes the place of the messages' own system message, or goes before them.

    Raises:
        ValueError: audio, another type of content, no text at all, or media that cannot be read.
    """
    written, media, texts = [], list[Media](), list[str]()
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                media.append(_medium(part, name, frames))
        # An item without its picture: the template must only say where one stands.
        places = [dict(part) if part["type"] == "text" else {"type": part["type"]} for part in parts]
        written.append({"role": message["role"], "content": places})
    asked = next((text for text in reversed(texts) if text.strip()), None)
    if asked is None:
        raise ValueError(f"{name}: no text in the prompt - there is nothing to answer - see the task's doc_to_text.")
    if system_prompt is not None:
        written = [message for message in written if message["role"] != "system"]
        written.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
    return Conversation(written, Example(id=name, media=tuple(media), question=asked, answer="", evidence=()))


def _medium(part: Mapping[str, Any], name: str, frames: Frames) -> Media:
    kind, source = part["type"], part.get("url")
    if kind == "image" and isinstance(source, Image.Image):
        return np.array(source.convert("RGB"))
    if kind == "image" and isinstance(source, str):
        return read_image(_file(source), exif=True)
    if kind == "video" and isinstance(source, Mapping):  # lmms-eval's way to name a part of a file
        path = source.get("url") or source.get("path") or source.get("video")
        if isinstance(path, str):
            return frames.read(path, source.get("video_start"), source.get("video_end"))
    if kind == "video" and isinstance(source, str):
        return frames.read(source, part.get("start_time"), part.get("end_time"))
    raise ValueError(
        f"{name}: {kind} given as {type(source).__name__} - these models take text, images (PIL or a file) and videos "
        "(a file) - choose another task."
    )


def _file(source: str) -> Path:
    if source.startswith(("http://", "https://", "data:")):
        shown = source if len(source) <= 80 else f"{source[:80]}..."
        raise RowError("missing_media", f"{shown} was given - it is a URL - media are read from files: download it.")
    return Path(source.removeprefix("file://"))
