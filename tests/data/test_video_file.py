"""Frames far into a video: the very ones that decoding all of it gives, without decoding all of it."""

import random

import av
import numpy as np
import pytest

from corehead_hf.data.video_file import read_frames

FRAMES, GOP = 120, 12
SOUGHT = [
    ("a.mp4", "libx264", {"g": "12", "bf": "3", "sc_threshold": "0"}),
    ("a.mkv", "libx264", {"x264-params": "keyint=12:scenecut=0:open-gop=1:bframes=3:b-pyramid=normal"}),
    ("b.mp4", "libx265", {"x265-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=4:log-level=0"}),
    ("c.webm", "libvpx-vp9", {"g": "12"}),
]
OTHERS = [  # counted, or decoded from a key frame after all
    ("d.mp4", "mpeg4", {"g": "12", "bf": "2", "sc_threshold": "1000000000"}),  # it may hold pictures that are not coded
    ("d.avi", "mpeg4", {"g": "12", "bf": "2", "sc_threshold": "1000000000"}),  # an index of packets, not of frames
    ("e.ts", "libx264", {"g": "12", "bf": "2", "sc_threshold": "0"}),  # no index
    ("f.mpg", "mpeg2video", {"g": "12", "bf": "2", "sc_threshold": "1000000000"}),
    ("h.h264", "libx264", {"g": "12", "sc_threshold": "0"}),  # no times
    ("i.mkv", "libx264", {"x264-params": "keyint=40:scenecut=0:intra-refresh=1"}),  # few true key frames
]


def written(path, codec, options, times=None):
    """A video in which every frame differs from all others: a bar that moves over a changing grey."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            pixels = np.full((48, 64, 3), number * 5 % 256, dtype=np.uint8)
            pixels[:, number * 3 % 64 : number * 3 % 64 + 8] = 255 - number * 7 % 256
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def key_frames(path):
    with av.open(str(path)) as container:
        return sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def from_the_beginning(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def choices(count):
    """Each frame by itself, and frames in company."""
    yield from ([number] for number in range(count))
    for seed in range(12):
        yield sorted(random.Random(seed).sample(range(count), 2 + seed))


@pytest.mark.parametrize("name, codec, options", SOUGHT + OTHERS, ids=[name for name, *_ in SOUGHT + OTHERS])
def test_frames_are_those_that_counting_gives(tmp_path, name, codec, options):
    path = written(tmp_path / name, codec, options)
    frames = from_the_beginning(path)
    for ids in choices(len(frames)):
        np.testing.assert_array_equal(read_frames(path, ids), np.stack([frames[number] for number in ids]))


@pytest.mark.parametrize("name, codec, options", SOUGHT, ids=[name for name, *_ in SOUGHT])
def test_a_late_frame_does_not_need_those_before_its_key_frame(tmp_path, name, codec, options, monkeypatch):
    path = written(tmp_path / name, codec, options)
    assert abs(key_frames(path) - FRAMES // GOP) <= 1
    late = from_the_beginning(path)[100]
    decode, decoded = av.container.InputContainer.decode, []

    class Watched:
        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return getattr(self.container, name)

        def decode(self, stream):
            for frame in decode(self.container, stream):
                decoded.append(frame.pts)
                yield frame

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.container.close()

    opened = av.open
    monkeypatch.setattr(av, "open", lambda *args, **options: Watched(opened(*args, **options)))
    np.testing.assert_array_equal(read_frames(path, [100])[0], late)
    assert 1 <= len(decoded) <= GOP


def test_uneven_times_do_not_move_numbers(tmp_path):
    chance = random.Random(0)
    times = np.cumsum([chance.choice([1, 2, 7]) for _ in range(FRAMES)]).tolist()
    path = written(tmp_path / "a.mp4", "libx264", {"g": "12", "bf": "3", "sc_threshold": "0"}, times)
    frames = from_the_beginning(path)
    assert len(frames) == FRAMES
    for ids in choices(FRAMES):
        np.testing.assert_array_equal(read_frames(path, ids), np.stack([frames[number] for number in ids]))


def test_a_track_that_begins_inside_a_group_is_counted(tmp_path):
    """An edit list hides frames that decoding needs: packets are more than frames."""
    path = written(tmp_path / "whole.mp4", "libx264", {"g": "12", "bf": "0", "sc_threshold": "0"})
    cut = tmp_path / "cut.mp4"
    with av.open(str(path)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for packet in packets:
            packet.pts, packet.dts = packet.pts - packets[5].pts, packet.dts - packets[5].pts
            packet.stream = stream
            target.mux(packet)
    frames = from_the_beginning(cut)
    assert len(frames) == FRAMES - 5
    with av.open(str(cut)) as container:
        assert sum(packet.is_discard for packet in container.demux(video=0)) == 5
    for ids in ([0], [3, 50], [len(frames) - 1]):
        np.testing.assert_array_equal(read_frames(cut, ids), np.stack([frames[number] for number in ids]))
