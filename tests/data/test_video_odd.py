"""Sound files that are not plain, and broken ones: each frame is the one that decoding from the beginning gives."""

import enum
import struct
from types import SimpleNamespace

import av
import numpy as np
import pytest
from formats import encoded
from test_video_file import from_the_beginning, written

from corehead_hf.data.example_set import RowError
from corehead_hf.data.video_file import _is_cover, frame_times, read_frames, read_video, whole_times
from corehead_hf.integrations.conversation import Frames

H264 = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3:b-pyramid=normal"}
H265 = {"x265-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=4:log-level=0"}
CLOSED = {"g": "12", "bf": "0", "sc_threshold": "0"}
PLAIN = {"g": "12", "bf": "0", "sc_threshold": "1000000000"}


def rewritten(source, target, first=0, shift=0, change=None):
    """The packets of a video from number `first` on, `shift` frames earlier, some of them changed."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        back = sorted(packet.pts for packet in packets)[shift] if shift else 0
        for number, packet in enumerate(packets[first:], first):
            content = change(number, bytes(packet)) if change else bytes(packet)
            made = av.Packet(content)
            made.pts, made.dts, made.time_base = packet.pts - back, packet.dts - back, packet.time_base
            made.is_keyframe, made.stream = packet.is_keyframe, stream
            new.mux(made)
    return target


def keys(path):
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [number for number, packet in enumerate(packets) if packet.is_keyframe]


def hidden(number, content):
    """VP8: every sixth frame is an alternate reference, never shown."""
    return bytes([content[0] & ~0x10]) + content[1:] if number % 6 == 4 else content


def not_coded(number, content):
    """MPEG-4, ten frames a second: some frames repeat the one before: type P, no new second, time, not coded."""
    bits = f"0101{number % 10:04b}10" + "011111"
    return b"\0\0\1\xb6" + int(bits, 2).to_bytes(2, "big") if number % 12 in (4, 5, 9) else content


def odd(folder, kind, suffix):
    if kind == "trimmed":
        return rewritten(written(folder / "a.mp4", "libx264", CLOSED), folder / "b.mp4", shift=5)
    if kind == "trimmed by a third":
        return rewritten(written(folder / "a.mp4", "libx264", CLOSED), folder / "b.mp4", shift=40)
    if kind in ("h264", "h265", "h264 inside a group", "h265 inside a group"):
        codec, options = ("libx264", H264) if "h264" in kind else ("libx265", H265)
        whole = written(folder / f"a.{suffix}", codec, options)
        return rewritten(whole, folder / f"b.{suffix}", first=keys(whole)[2] - 6 * ("inside" in kind))
    codec, change = ("libvpx", hidden) if kind == "vp8" else ("mpeg4", not_coded)
    whole = written(folder / f"a.{suffix}", codec, {"g": "12"} if kind == "vp8" else PLAIN)
    return rewritten(whole, folder / f"b.{suffix}", change=change)


@pytest.mark.parametrize(
    "kind, suffix",
    [
        ("trimmed", "mp4"),
        ("trimmed by a third", "mp4"),
        ("h264", "mkv"),
        ("h265", "mkv"),
        ("h264 inside a group", "mkv"),
        ("h265 inside a group", "mp4"),
        ("vp8", "webm"),
        ("mpeg4", "mp4"),
        ("mpeg4", "avi"),
    ],
)
def test_packets_that_show_nothing_do_not_move_frames(tmp_path, kind, suffix):
    path = odd(tmp_path, kind, suffix)
    frames = from_the_beginning(path)
    assert 60 < len(frames) < 120
    assert "trimmed" not in kind or len(frame_times(path)) == len(frames)
    for number in range(0, len(frames), 7):
        np.testing.assert_array_equal(read_frames(path, [number])[0], frames[number])
    video = read_video(path, 8)
    assert video.frame_ids[-1] == len(frames) - 1
    np.testing.assert_array_equal(video.frames, np.stack([frames[number] for number in video.frame_ids]))
    asked = Frames(8).read(str(path))
    assert asked.frame_ids == video.frame_ids
    np.testing.assert_array_equal(asked.frames, video.frames)


@pytest.mark.parametrize("kind, suffix", [("h264", "mkv"), ("h265 inside a group", "mp4"), ("mpeg4", "mp4")])
def test_a_part_to_the_end_is_counted_in_frames_that_come_out(tmp_path, kind, suffix):
    path = odd(tmp_path, kind, suffix)
    with av.open(str(path)) as container:
        times = np.array([frame.time for frame in container.decode(video=0)])
    assert len(times) < len(frame_times(path))
    late = np.flatnonzero(times - times[0] >= 5.0)
    video = Frames(3).read(str(path), start=5.0)
    assert (video.frame_ids[0], video.frame_ids[-1]) == (late[0], late[-1])
    np.testing.assert_array_equal(video.frames[0], from_the_beginning(path)[late[0]])


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_title_may_be_in_any_encoding(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXXXXXX"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert content.count(b"XXXXXXXX") == 1
    path.write_bytes(content.replace(b"XXXXXXXX", "电影片段".encode("gbk")))
    assert len(read_video(path, 4).frames) == 1


def test_a_cover_in_front_of_the_video_is_not_the_video(tmp_path):
    def box(kind, *parts):
        return struct.pack(">I", 8 + len(b"".join(parts))) + kind + b"".join(parts)

    path = written(tmp_path / "a.mp4", "libx264", CLOSED)
    content = path.read_bytes()
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    cover = box(b"covr", box(b"data", struct.pack(">II", 13, 0), encoded(200, 100)))
    extra = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", cover)))
    moov, header = content.index(b"moov") - 4, content.index(b"mvhd") - 4
    (size,), (length,) = struct.unpack_from(">I", content, moov), struct.unpack_from(">I", content, header)
    parts = content[:moov], struct.pack(">I", size + len(extra)), content[moov + 4 : header + length]
    path.write_bytes(b"".join(parts) + extra + content[header + length :])
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
    assert read_video(path, 8).frames.shape == (8, 48, 64, 3)


@pytest.mark.parametrize("kind", [enum.Flag, enum.IntFlag])  # PyAV 15's and 18's
def test_a_cover_is_told_by_its_disposition(kind):
    disposition = kind("Disposition", {"default": 1, "attached_pic": 0x400})
    for found, cover in ((disposition(0), False), (disposition(1), False), (disposition(0x401), True)):
        assert _is_cover(SimpleNamespace(disposition=found)) is cover


@pytest.mark.parametrize("name, codec", [("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
def test_matroska_that_is_cut_off_is_refused(tmp_path, name, codec):
    path = written(tmp_path / name, codec, {"g": "12"})
    assert read_video(path, 4).frame_ids == (0, 40, 79, 119)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (lambda: read_video(path, 4), lambda: Frames(4).read(str(path)), lambda: whole_times(path)):
        with pytest.raises(RowError, match=r"is cut off: its header tells 12\.0 s, it holds \d\.\d s"):
            read()


def test_a_size_that_changes_is_named(tmp_path):
    parts = []
    for number, size in enumerate(((64, 48), (32, 24))):
        path = tmp_path / f"{number}.webm"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libvpx-vp9", rate=10)
            (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
            for _ in range(12):
                frame = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with av.open(str(path)) as container:
            parts.append([packet for packet in container.demux(video=0) if packet.size])
    with av.open(str(tmp_path / "0.webm")) as first, av.open(str(tmp_path / "a.webm"), "w") as target:
        stream = target.add_stream_from_template(first.streams.video[0])
        for number, packet in enumerate(parts[0] + parts[1]):
            packet.pts = packet.dts = 100 * number
            packet.stream = stream
            target.mux(packet)
    with pytest.raises(RowError, match=r"a\.webm that were asked have several sizes: 32 x 24, 64 x 48"):
        read_video(tmp_path / "a.webm", 4)
    assert read_frames(tmp_path / "a.webm", [20]).shape == (1, 24, 32, 3)
