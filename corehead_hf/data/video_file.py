"""Frames of video files through PyAV, by their number in presentation order.

A frame's number is its place among the times that the file's packets tell. Decoding begins at the last key frame before
a wanted frame, and what comes out must have that frame's very time; where a file does not allow this, its frames are
decoded from the beginning and counted, which is exact for every codec and slow in a long video.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from corehead_hf.data.example import Video
from corehead_hf.data.example_set import RowError

# Share of the frames a file's header tells that must be in it; a download that broke off holds fewer.
WHOLE = 0.95
# Containers that keep an index of their key frames: MP4 and MOV, Matroska and WebM. Others guess where one begins.
INDEXED = ("mp4", "matroska")
# Codecs with packets of their own for frames that are not shown: alternate references, pictures that are not coded.
HIDING = ("vp8", "mpeg4")
ATTACHED_PICTURE = 0x400  # of a stream's disposition: the cover


def sample_evenly(first: int, last: int, count: int) -> tuple[int, ...]:
    """At most `count` frame numbers from first to last, both included: round(linspace(first, last, T)), rising."""
    if not 0 <= first <= last or count < 1:
        raise ValueError(f"{count} frames of {first}..{last} were asked; give 0 <= first <= last and count >= 1.")
    total = min(count, last - first + 1)
    return tuple(int(number) for number in np.rint(np.linspace(first, last, total)))


def frame_times(path: Path) -> np.ndarray:
    """Seconds from the first frame at which each frame is shown, rising, float64 [frames]; reads no pixels."""
    with _opened(path) as (container, stream):
        stamps = [packet.pts for packet in container.demux(stream) if _shown(packet)]
        return _times(path, stamps, stream.time_base)


def _times(path: Path, stamps: Sequence[int], time_base: Any) -> np.ndarray:
    if not stamps:
        raise RowError("corrupt_media", f"the video {path} holds no frames with a time.")
    times = np.sort(np.array(stamps, dtype=np.float64)) * float(time_base)
    return times - times[0]


def _shown(packet: Any) -> bool:
    """Whether a packet has a frame to be shown: an edit list hides those that only others are decoded from."""
    return bool(packet.size) and packet.pts is not None and not packet.is_discard


def frame_rate(path: Path) -> float:
    """Average frames per second."""
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise RowError("corrupt_media", f"the video {path} tells no frame rate.")
        return float(rate)


def read_frames(path: Path, frame_ids: Sequence[int]) -> np.ndarray:
    """The frames with these numbers, in their native size.

    Args:
        frame_ids: numbers from 0, strictly rising.

    Returns:
        uint8 [F, height, width, 3], RGB, as stored: a rotation in the file's metadata is not applied.

    Raises:
        RowError: the file is missing, broken, or ends before the last of these frames.
    """
    ids = list(frame_ids)
    if not ids or ids[0] < 0 or any(later <= earlier for earlier, later in zip(ids, ids[1:], strict=False)):
        raise ValueError(f"frame_ids {ids} were asked of {path}; give numbers from 0, strictly rising.")
    frames = _sought(path, ids)
    if frames is None:
        frames = _counted(path, ids)
    if len(sizes := {frame.shape[1::-1] for frame in frames}) > 1:
        shown = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
        raise RowError("size_changes", f"the frames of {path} that were asked have several sizes: {shown} pixels.")
    return np.stack(frames)


def _index(container: Any, stream: Any) -> tuple[list[int], list[int]] | None:
    """Times of all frames and of the key frames, rising, in ticks; None where packets do not tell them one by one."""
    if not set(INDEXED) & set(container.format.name.split(",")) or stream.codec_context.name in HIDING:
        return None
    stamps, keys = [], []  # not the packets, which hold the whole file
    for packet in container.demux(stream):
        if packet.size:
            if packet.pts is None or packet.is_discard or packet.is_corrupt:
                return None
            stamps.append(packet.pts)
            keys += [packet.pts] if packet.is_keyframe else []
    return None if len(set(stamps)) < len(stamps) else (sorted(stamps), sorted(keys))


def _sought(path: Path, ids: list[int]) -> list[np.ndarray] | None:
    """The frames, each decoded from the key frame before it; None where that is not sure to give them."""
    with _opened(path) as (container, stream):
        stamps, keys = _index(container, stream) or ([], [])
        if ids[-1] >= len(stamps) or not keys or keys[0] > stamps[0]:
            return None  # frames in front of the first key frame may not come out
        stream.thread_type = "AUTO"
        frames: list[np.ndarray] = []
        decoder: Iterator[Any] = iter(())
        reached = keys[0] - 1
        for wanted in (stamps[number] for number in ids):
            key = keys[bisect_right(keys, wanted) - 1]
            if key > reached:
                container.seek(key, stream=stream)
                decoder = container.decode(stream)
                first = next(decoder, None)
                if first is None or not first.key_frame or first.pts is None or first.pts > key:
                    return None
                decoder = itertools.chain([first], decoder)
            frame = next((frame for frame in decoder if frame.pts is None or frame.pts >= wanted), None)
            if frame is None or frame.pts != wanted:
                return None
            frames.append(frame.to_ndarray(format="rgb24"))
            reached = wanted
        return frames


def _counted(path: Path, ids: list[int]) -> list[np.ndarray]:
    """The frames, all before them decoded as well."""
    wanted, frames, decoded = set(ids), [], 0
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if decoded in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            decoded += 1
            if len(frames) == len(ids):
                return frames
    raise RowError("frames_out_of_range", f"frame {ids[len(frames)]} was asked of {path}, which has {decoded} frames.")


def read_video(path: Path, frames: int | Sequence[int]) -> Video:
    """A Video of so many frames, spread evenly over the file, or of the frames with these numbers.

    Raises:
        RowError: as in read_frames; also of a file that is cut off, whose frames would be spread over a part of it.
    """
    if isinstance(frames, int):
        return read_spread(path, lambda times: sample_evenly(0, len(times) - 1, frames))
    return Video(read_frames(path, frames), fps=frame_rate(path), frame_ids=tuple(frames))


def read_spread(path: Path, choose: Callable[[np.ndarray], Sequence[int]]) -> Video:
    """A Video of frames that are chosen by when they are shown.

    Args:
        choose: numbers of frames, given the seconds of all, float64 [frames]: those that the file's packets tell, and
            where some packets show nothing and the last number is not reached, those of the frames that come out.

    Raises:
        RowError: as in read_frames and whole_times.
    """
    ids = tuple(choose(whole_times(path)))
    try:
        pixels = read_frames(path, ids)
    except RowError as error:
        if error.reason != "frames_out_of_range":
            raise
        ids = tuple(choose(_decoded_times(path)))
        pixels = read_frames(path, ids)
    return Video(pixels, fps=frame_rate(path), frame_ids=ids)


def _decoded_times(path: Path) -> np.ndarray:
    """frame_times of the frames that come out of the file, all decoded."""
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        times = [frame.time for frame in container.decode(stream)] or [0.0]
    if None in times:
        return np.arange(len(times)) / frame_rate(path)
    rising = np.sort(np.array(times, dtype=np.float64))
    return rising - rising[0]


def whole_times(path: Path) -> np.ndarray:
    """frame_times of a file whose frames last about as long and are about as many as its header tells, where it does.

    Raises:
        RowError: they last less or are fewer: the file is cut off. Also where it is missing or broken.
    """
    stamps, begin, end, partial = [], 0.0, 0.0, False
    with _opened(path) as (container, stream):
        told, kinds = stream.frames, set(container.format.name.split(","))
        length = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        for packet in container.demux(*[stream] * bool(stream.duration)):  # the file's length may be another stream's
            partial |= packet.is_corrupt and bool(kinds & set(INDEXED))
            if packet.stream.index == stream.index and _shown(packet):
                stamps.append(packet.pts)
            if packet.size and packet.pts is not None:
                begin = min(begin, float(packet.pts * packet.time_base))
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        times = _times(path, stamps, stream.time_base)
    found, seconds = len(times), end - begin
    short = seconds < WHOLE * length - 1  # the last frame's own time may not be told
    few = found < WHOLE * told and not ("mp4" in kinds and seconds >= WHOLE * length)  # an edit list hides frames
    if few or short or partial:
        tells, holds = (f"{told} frames", f"{found}") if few else (f"{length:.1f} s", f"{seconds:.1f} s")
        raise RowError("corrupt_media", f"the video {path} is cut off: its header tells {tells}, it holds {holds}.")
    return times


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading videos needs PyAV: pip install 'corehead-hf[video]'.") from error
    if not path.is_file():
        raise RowError("missing_media", f"the video {path} does not exist.")
    try:
        with av.open(str(path.absolute()), metadata_errors="replace") as container:  # titles may be in any encoding
            streams = [one for one in container.streams.video if one.codec_context and not _is_cover(one)]
            if not streams:
                raise RowError("corrupt_media", f"{path} holds no video.")
            yield container, streams[0]
    except (av.error.FFmpegError, IndexError) as error:  # IndexError: PyAV, of a stream that begins late in the file
        raise RowError("corrupt_media", f"the video {path} cannot be decoded: {error}.") from error


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition.value & ATTACHED_PICTURE)  # a plain Flag in PyAV 15
