"""Video-MME: multiple-choice questions about short, medium and long videos, with or without subtitles.

The prompts are lmms-eval's `videomme` and `videomme_w_subtitle`, which the paper used. Examples have no evidence: they
are answered, not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar

from corehead_hf.data.example import Example, Video
from corehead_hf.data.example_set import Note, Row, RowError, broken
from corehead_hf.data.fields import field, question_of
from corehead_hf.data.files import find
from corehead_hf.data.subtitles import read_subtitles, shown_with
from corehead_hf.data.table_file import table_rows
from corehead_hf.data.video_file import read_video

TASKS = (
    *("Temporal Perception", "Spatial Perception", "Attribute Perception", "Action Recognition"),
    *("Object Recognition", "OCR Problems", "Counting Problem", "Temporal Reasoning"),
    *("Spatial Reasoning", "Action Reasoning", "Object Reasoning", "Information Synopsis"),
)
DURATIONS = ("short", "medium", "long")
PROMPTS = ("default", "qwen3_vl")
INSTRUCTION = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond "
    "with only the letter (A, B, C, or D) of the correct option.\n"
)
SUBTITLES = "This video's subtitles are listed below: \n"
NO_SUBTITLES = "No subtitles available"


@dataclass(frozen=True)
class VideoMME:
    """Video-MME.

    Args:
        path: folder with the published `videomme/*.parquet`, or the same rows as .jsonl or .json.
        duration: give only questions about "short", "medium" or "long" videos; None means all.
        frames: how many are shown, spread evenly over the video.
        prompt: "default", or "qwen3_vl", which lmms-eval takes for that family.
        videos: folder of `<videoID>.mp4` or .mkv, unpacked; None means `data/` in path.
        subtitles: folder of `<videoID>.srt`; those on while a shown frame is are given with the question. None asks
            without subtitles.
    """

    name: ClassVar[str] = "video-mme"
    hub_files: ClassVar[tuple[str, ...]] = ("videomme/*.parquet", "data/*")
    path: Path
    duration: str | None = None
    frames: int = 32
    prompt: str = "default"
    videos: str | Path | None = None
    subtitles: str | Path | None = None

    def __post_init__(self) -> None:
        if self.duration not in (None, *DURATIONS) or self.prompt not in PROMPTS or self.frames < 1:
            raise ValueError(
                f"duration={self.duration!r}, prompt={self.prompt!r}, frames={self.frames} were given; duration is "
                f"None or one of {', '.join(DURATIONS)}, prompt one of {', '.join(PROMPTS)}, frames at least 1."
            )
        self._files()
        for kind, folder in (("videos", self._videos()), ("subtitles", self.subtitles)):
            if folder is not None and not Path(folder).is_dir():
                raise ValueError(
                    f"{folder} is no folder; the {kind} are looked for there. Unpack them, or give {kind}=."
                )

    def iter_rows(self) -> Iterator[Row]:
        """One row per question."""
        read = lru_cache(maxsize=1)(self._clip)  # the three questions about a video follow each other
        for file in self._files():
            for where, _, row in table_rows(file):
                try:
                    if isinstance(row, RowError):
                        raise row
                    identity, duration = field(row, "question_id", str), field(row, "duration", str)
                    if duration not in DURATIONS:
                        raise RowError("bad_row", f"'duration' is {duration!r}; known are {', '.join(DURATIONS)}.")
                except ValueError as error:
                    yield broken(where, error)
                    continue
                if self.duration in (None, duration):
                    yield Row(where, identity, partial(self._example, row, identity, read), row)

    def _files(self) -> list[Path]:
        patterns = ("videomme/*.parquet", "*.parquet", "*.jsonl", "*.json")
        return find(self.path, *patterns, need="questions of Video-MME")

    def _videos(self) -> Path:
        return Path(self.videos or self.path / "data")

    def _clip(self, name: str) -> tuple[Video, str | None]:
        """The shown frames of a video, and the subtitles with them; None where it has none."""
        places = [self._videos() / f"{name}.{suffix}" for suffix in ("mp4", "MP4", "mkv")]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise RowError("missing_media", f"the video {name} is none of {', '.join(map(str, places))}.")
        video = read_video(found, self.frames)
        file = Path(self.subtitles or "") / f"{name}.srt"
        if self.subtitles is None or not file.is_file():
            return video, None
        return video, "\n".join(shown_with(read_subtitles(file), video.frame_ids or (), video.fps))

    def _example(self, row: Mapping[str, Any], identity: str, read: Any, note: Note) -> Example:
        question, task, name = question_of(row, "question"), field(row, "task_type", str), field(row, "videoID", str)
        if task not in TASKS:
            raise RowError("unknown_task", f"the task {task!r} is unknown; known are {', '.join(TASKS)}.")
        options, answer = [str(option) for option in field(row, "options", list)], field(row, "answer", str)
        letters = ascii_uppercase[: len(options)]
        if len(answer) != 1 or answer not in letters:
            raise RowError("bad_row", f"'answer' is {answer!r}; expected a letter of the {len(options)} options.")
        video, subtitles = read(name)
        if self.subtitles is not None and subtitles is None:
            note("no_subtitles", f"there is no {name}.srt; the prompt says so")
        text = self._text(row["question"], "\n".join(options), NO_SUBTITLES if subtitles is None else subtitles)
        about = {key: row.get(key) for key in ("duration", "domain", "sub_category", "videoID")}
        details = {"task": task, "options": options, **about}
        return Example(identity, (video,), question, answer, (), (0, text), details=details)

    def _text(self, question: str, options: str, subtitles: str) -> str:
        before = "" if self.subtitles is None else f"{SUBTITLES}{subtitles}\n"
        if self.prompt == "qwen3_vl":
            return f"{before}Question: {question}\nOptions:\n{options}\nAnswer with the option letter only."
        last = (
            "Answer with the option's letter from the given choices directly." if not before else "The best answer is:"
        )
        return f"{before}{INSTRUCTION}{question}\n{options}\n" + ("\n" if not before else "") + last
