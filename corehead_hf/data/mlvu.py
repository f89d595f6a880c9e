"""MLVU: multiple-choice questions about long videos, in the official packaging and in lmms-eval's.

The prompt is lmms-eval's `mlvu_dev`, which the paper used: its rows name the options in the question, to which those of
the official rows are added as the benchmark writes them. Examples have no evidence: they are answered, not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar

from corehead_hf.data.example import Example
from corehead_hf.data.example_set import Excluded, Note, Row, RowError, broken
from corehead_hf.data.fields import field, question_of, shown
from corehead_hf.data.files import find
from corehead_hf.data.table_file import table_rows
from corehead_hf.data.video_file import read_video

TASKS = ("topic_reasoning", "anomaly_reco", "needle", "ego", "plotQA", "order", "count")
NAMES = {"findNeedle": "needle"}  # question_type of the official files, where it is not the task's name
OPEN_ENDED = ("subPlot", "summary", "sub_scene")  # there are no options; the benchmark has a judge model score them
INSTRUCTION = "\nOnly give the best option.\nBest option: ("


@dataclass(frozen=True)
class MLVU:
    """MLVU's development set.

    Args:
        path: folder with the official `json/*.json`, itself or in `MLVU/`, or with the rows of `sy1998/MLVU_dev` as
            parquet, .jsonl or .json.
        tasks: give only these; None means all seven.
        frames: how many are shown, spread evenly over the video.
        videos: folder of the videos, unpacked; None means `video/` beside `json/`, or path. A video lies there by its
            name, or in a folder named after its task or its annotation file.
    """

    name: ClassVar[str] = "mlvu"
    hub_files: ClassVar[tuple[str, ...]] = ("MLVU/json/*.json", "MLVU/video/*", "*.parquet")
    path: Path
    tasks: str | Sequence[str] | None = None
    frames: int = 32
    videos: str | Path | None = None

    def __post_init__(self) -> None:
        if unknown := [task for task in self._wanted() if task not in TASKS]:
            raise ValueError(f"tasks={', '.join(map(str, unknown))} were asked; known are {', '.join(TASKS)}.")
        if self.frames < 1:
            raise ValueError(f"frames={self.frames} was given; show at least 1.")
        if not self._video_folder(self._files()[0]).is_dir():
            raise ValueError(
                f"{self._video_folder(self._files()[0])} is no folder; the videos are looked for there. Unpack them, "
                "or give videos=."
            )

    def iter_rows(self) -> Iterator[Row]:
        """One row per question of the wanted tasks; rows whose task cannot be told are given too."""
        wanted, read = self._wanted(), lru_cache(maxsize=1)(read_video)  # questions about a video follow each other
        before = 0  # rows of the data set in the files before; the official ones are one a task, each counted by itself
        for file in self._files():
            count = before
            for where, number, row in table_rows(file):
                number, count = before + number, count + 1
                try:
                    if isinstance(row, RowError):
                        raise row
                    task = _task_of(row)
                except ValueError as error:
                    yield broken(where, error)
                    continue
                if task in wanted:
                    build = partial(self._example, row, task, file, number, read)
                    yield Row(where, f"{task}-{number}", build, row)
                elif task in OPEN_ENDED and self.tasks is None:
                    yield Row(where, f"{task}-{number}", partial(_open_ended, task))
            before = 0 if file.parent.name == "json" else count

    def _wanted(self) -> tuple[str, ...]:
        if self.tasks is None:
            return TASKS
        return (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks)

    def _files(self) -> list[Path]:
        patterns = ("MLVU/json/*.json", "json/*.json", "*.parquet", "*/*.parquet", "*.jsonl", "*.json")
        return find(self.path, *patterns, need="annotations of MLVU")

    def _video_folder(self, file: Path) -> Path:
        if self.videos is not None:
            return Path(self.videos)
        return file.parent.parent / "video" if file.parent.name == "json" else self.path

    def _video(self, name: str, task: str, file: Path) -> Path:
        folder = self._video_folder(file)
        places = [folder / name, folder / file.stem / name, folder / task / name]
        for place in places:
            if place.is_file():
                return place
        raise RowError("missing_media", f"the video {name} is none of {', '.join(map(str, places))}.")

    def _example(self, row: Mapping[str, Any], task: str, file: Path, number: int, read: Any, note: Note) -> Example:
        question, options = question_of(row, "question"), [str(text) for text in field(row, "candidates", list)]
        if not 2 <= len(options) <= len(ascii_uppercase):
            raise RowError("bad_row", f"'candidates' is {shown(options)}; expected from 2 to 26 options.")
        answer = _letter(row, options)
        official = "video" in row
        text, name = row["question"], field(row, "video" if official else "video_name", str)
        if official or not all(option in text for option in options):
            letters = ascii_uppercase[: len(options)]
            text = "\n".join([text, *(f"({x}) {option}" for x, option in zip(letters, options, strict=True))])
            if not official:
                note("options_added", f"the question {shown(row['question'])} does not name the options")
        video = read(self._video(name, task, file), self.frames)
        details = {"task": task, "options": options, "video": name}
        return Example(f"{task}-{number}", (video,), question, answer, (), (0, text + INSTRUCTION), details=details)


def _task_of(row: Any) -> str:
    """The task of a row by the name the paper's tables use."""
    kind = field(row, "question_type" if isinstance(row, Mapping) and "question_type" in row else "task_type", str)
    task = NAMES.get(kind, kind)
    if task not in TASKS + OPEN_ENDED:
        raise RowError("unknown_task", f"the task {kind!r} is unknown; known are {', '.join(TASKS + OPEN_ENDED)}.")
    return task


def _letter(row: Mapping[str, Any], options: Sequence[str]) -> str:
    """The letter of the right option: official rows name its text, lmms-eval's the letter."""
    answer = str(field(row, "answer", str, int, float))
    if "video" in row and answer in options:
        return ascii_uppercase[options.index(answer)]
    if answer and answer in ascii_uppercase[: len(options)]:
        return answer
    if answer in options:
        return ascii_uppercase[options.index(answer)]
    raise RowError("bad_row", f"'answer' is {answer!r}; expected one of {shown(options)}, or its letter.")


def _open_ended(task: str, note: Note) -> Example:
    raise Excluded("open_ended", f"{task} has no options; its answers need a judge model.")
