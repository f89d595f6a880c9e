"""VidSTG over VidOR videos: when (and where) something happens; evidence is the frames, or the boxes in them.

`used_segment` (first and last frame, both included) is what the model is shown, `temporal_gt` (its end is not included)
what the text is about. Captions and questions are separate examples; there is no answer text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from corehead_hf.data.example import Evidence, Example, Video
from corehead_hf.data.example_set import Excluded, Note, Row, RowError, broken
from corehead_hf.data.fields import clip_box, field, numbers, question_of, shown
from corehead_hf.data.files import find, json_array
from corehead_hf.data.video_file import frame_times, read_frames, sample_evenly

KINDS = {"captions": ("captions",), "questions": ("questions",), "both": ("captions", "questions")}


@dataclass(frozen=True)
class VidSTG:
    """VidSTG annotations with VidOR's videos, and in tube mode VidOR's trajectories.

    Args:
        path: folder with `<split>_annotations.json`, itself or in `annotations/`.
        split: "train", "val" or "test".
        mode: "frames": evidence is the whole sampled frames inside temporal_gt; "tube": the target's box in them.
        texts: "captions", "questions" or "both".
        max_frames: most frames shown of a segment.
        videos: folder below which `<vid>.mp4` lie; None means `video/` in path.
        vidor: folder below which VidOR's `<vid>.json` lie, for tube mode; None means `annotation/` in path.
    """

    name: ClassVar[str] = "vidstg"
    hub_files: ClassVar[tuple[str, ...]] = ()
    path: Path
    split: str = "test"
    mode: str = "frames"
    texts: str = "both"
    max_frames: int = 128
    videos: str | Path | None = None
    vidor: str | Path | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("frames", "tube") or self.texts not in KINDS or self.max_frames < 1:
            raise ValueError(
                f"mode={self.mode!r}, texts={self.texts!r}, max_frames={self.max_frames} were given; mode is 'frames' "
                f"or 'tube', texts one of {', '.join(KINDS)}, max_frames at least 1."
            )
        self._file()

    def iter_rows(self) -> Iterator[Row]:
        """One row per caption and per question."""
        videos = _by_stem(Path(self.videos or self.path / "video"), "mp4")
        tubes = _by_stem(Path(self.vidor or self.path / "annotation"), "json") if self.mode == "tube" else {}
        file = self._file()
        for number, row in json_array(file):
            where = f"{file.name} row {number}"
            try:
                vid = field(row, "vid", str)
                texts = [(kind, k, text) for kind in KINDS[self.texts] for k, text in enumerate(field(row, kind, list))]
            except ValueError as error:
                yield broken(where, error)
                continue
            clip = cache(partial(self._clip, row, videos.get(vid)))  # one decoding for all texts of the row
            for kind, k, text in texts:
                identity = f"{vid}-{number}-{kind[:-1]}-{k}"
                build = partial(self._example, row, text, identity, clip, tubes.get(vid))
                yield Row(f"{where} {kind[:-1]} {k}", identity, build, (row, text))

    def _file(self) -> Path:
        name = f"{self.split}_annotations.json"
        return find(self.path, name, f"annotations/{name}", need=f"annotations of split {self.split!r}")[0]

    def _clip(self, row: Mapping[str, Any], file: Path | None) -> tuple[Video, tuple[tuple[str, str], ...]]:
        """The sampled frames of a row's segment, numbered as the annotations do, and notes on what was changed."""
        if file is None:
            raise RowError("missing_media", f"there is no {row['vid']}.mp4 below {self.videos or self.path / 'video'}.")
        count, fps = field(row, "frame_count", int), numbers([row.get("fps")], "fps", 1)[0]
        first, last = _span(row, "used_segment")
        if not 0 <= first <= last < count:
            raise RowError("bad_segment", f"'used_segment' is {first}..{last} of {count} frames, both ends included.")
        ids, times, notes = sample_evenly(first, last, self.max_frames), frame_times(file), []
        stored: Sequence[int] = ids
        if abs(len(times) - count) > 1:
            stored = [int(np.abs(times - number / fps).argmin()) for number in ids]
            notes.append(("frames_by_time", f"{file.name} has {len(times)} frames, not {count}; mapped by time"))
        pairs: dict[int, int] = {}
        for number, frame in zip(ids, stored, strict=True):
            pairs.setdefault(min(frame, len(times) - 1), number)
        if len(pairs) < len(ids):
            notes.append(("frames_missing", f"{len(ids) - len(pairs)} of {len(ids)} frames are not in {file.name}"))
        frames = read_frames(file, list(pairs))
        return Video(frames, fps=fps, frame_ids=tuple(pairs.values())), tuple(notes)

    def _example(
        self, row: Mapping[str, Any], text: Any, identity: str, clip: Any, tube: Path | None, note: Note
    ) -> Example:
        question, target = question_of(text, "description"), field(text, "target_id", int)
        begin, end = _span(row, "temporal_gt")
        video, notes = clip()
        for reason, what in notes:
            note(reason, what)
        if target not in {field(entry, "tid", int) for entry in field(row, "subject/objects", list)}:
            note("dangling_tid", f"target_id {target} is not among the row's subject/objects")
        inside = tuple(i for i, number in enumerate(video.frame_ids or ()) if begin <= number < end)
        if not inside:
            raise Excluded("no_sampled_frame", f"no sampled frame lies in temporal_gt {begin}..{end} (end excluded).")
        example = Example(identity, (video,), question, "", (Evidence(0, frames=inside),))
        return example if self.mode == "frames" else replace(example, evidence=_tube(row, tube, target, example, note))


def _tube(row: Mapping[str, Any], file: Path | None, target: int, example: Example, note: Note) -> tuple[Evidence, ...]:
    """The target's box in each evidence frame that has one."""
    if file is None:
        raise RowError("missing_annotation", f"there is no VidOR annotation {row['vid']}.json.")
    trajectories = field(json.loads(file.read_text(encoding="utf-8")), "trajectories", list)
    video, inside = example.videos[0], example.evidence[0].frames or ()
    height, width = video.frames.shape[1:3]
    if (row.get("width"), row.get("height")) != (width, height):
        raise RowError(
            "video_size",
            f"the video has {width} x {height} pixels, its annotation says {row.get('width')} x {row.get('height')}.",
        )
    parts = []
    for i in inside:
        number = (video.frame_ids or ())[i]
        if number >= len(trajectories):
            raise RowError("bad_row", f"{file.name} has {len(trajectories)} frames; frame {number} was asked.")
        for entry in trajectories[number]:
            if field(entry, "tid", int) == target:
                sides = field(entry, "bbox", dict)
                box = numbers([sides.get(side) for side in ("xmin", "ymin", "xmax", "ymax")], "bbox", 4)
                parts.append(Evidence(0, clip_box(box, width, height, note), (i,)))
    if not parts:
        raise RowError("dangling_tid", f"target_id {target} has no box in the evidence frames of {file.name}.")
    if len(parts) < len(inside):
        note("frames_without_box", f"{len(inside) - len(parts)} of {len(inside)} evidence frames have no box")
    return tuple(parts)


def _span(row: Mapping[str, Any], key: str) -> tuple[int, int]:
    span = field(row, key, dict)
    begin, end = field(span, "begin_fid", int), field(span, "end_fid", int)
    if begin > end:
        raise RowError("bad_segment", f"{key!r} is {shown(span)}; it ends before it begins.")
    return begin, end


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Files below a folder by their name without suffix."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; .{suffix} files of VidOR are looked for there.")
    return {file.stem: file for file in folder.rglob(f"*.{suffix}")}
