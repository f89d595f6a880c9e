"""Subtitles of a video (.srt), and which of them are on while given frames are shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corehead_hf.data.example_set import RowError

TIMES = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+)\s*-->\s*(\d+):(\d+):(\d+)[,.](\d+)")
FONT = re.compile(r"<font[^>]*>(.*?)</font>")


@dataclass(frozen=True)
class Subtitle:
    """A text on screen from `start` until before `end`, in seconds."""

    start: float
    end: float
    text: str


def read_subtitles(path: Path) -> list[Subtitle]:
    """The subtitles of a .srt file in its order, without mark-up.

    Raises:
        RowError: the file is not one.
    """
    try:
        blocks = path.read_text(encoding="utf-8-sig").strip().split("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RowError("bad_subtitles", f"the subtitles {path} cannot be read: {error}.") from error
    found = []
    for block in blocks:
        lines = block.strip().split("\n")
        if len(lines) < 3:  # no text, or none at all
            continue
        times = TIMES.match(lines[1])
        if times is None:
            raise RowError("bad_subtitles", f"{path} has {lines[1]!r} where the times of a subtitle are expected.")
        hours, minutes, seconds, thousandths, *last = map(int, times.groups())
        start = hours * 3600 + minutes * 60 + seconds + thousandths / 1000
        end = last[0] * 3600 + last[1] * 60 + last[2] + last[3] / 1000
        found.append(Subtitle(start, end, _plain(" ".join(lines[2:]))))
    return found


def shown_with(subtitles: Sequence[Subtitle], frame_ids: Sequence[int], fps: float) -> list[str]:
    """Texts that are on while one of the frames is shown, each once, in order.

    Args:
        subtitles: of the video.
        frame_ids: numbers of frames in its file.
        fps: of the file; times become frames by rounding down, as in lmms-eval.
    """
    spans = [(int(one.start * fps), int(one.end * fps), one.text) for one in subtitles]
    return [text for first, end, text in spans if text and any(first <= frame < end for frame in frame_ids)]


def _plain(text: str) -> str:
    """The text of the first <font>, as lmms-eval takes it, or of all where there is none."""
    found = FONT.search(text)
    return re.sub(r"<[^>]+>", "", found[1] if found else text).strip()
