"""Chat messages of a harness as a prompt: texts, pictures and frames where they stood."""

import numpy as np
import pytest
from PIL import Image

from corehead_hf.integrations.conversation import Frames, read_conversation

RED, BLUE = (255, 0, 0), (0, 0, 255)


def read(*content, frames=None, **options):
    return read_conversation(
        [{"role": "user", "content": list(content)}], "task, test 3", frames or Frames(), **options
    )


def text(value):
    return {"type": "text", "text": value}


def image(color, mode="RGB"):
    return {"type": "image", "url": Image.new("RGB", (4, 2), color).convert(mode)}


def test_pictures_keep_their_places_and_pixels():
    found = read(text("first"), image(RED), text("then"), image(BLUE), text("Which?"))
    kinds = [part["type"] for part in found.messages[0]["content"]]
    assert kinds == ["text", "image", "text", "image", "text"]
    assert found.messages[0]["content"][1] == {"type": "image"}
    assert [medium.shape for medium in found.example.media] == [(2, 4, 3)] * 2
    assert (found.example.media[0] == RED).all() and (found.example.media[1] == BLUE).all()
    assert (found.example.question, found.example.id) == ("Which?", "task, test 3")


def test_pictures_of_other_modes_and_in_files(tmp_path):
    assert (read(image((9, 9, 9), "L"), text("?")).example.media[0] == 9).all()
    Image.new("RGB", (4, 2), BLUE).save(tmp_path / "blue.png")
    for path in (str(tmp_path / "blue.png"), f"file://{tmp_path}/blue.png"):
        (medium,) = read({"type": "image", "url": path}, text("?")).example.media
        assert (medium == BLUE).all()


def test_a_system_prompt_is_first_and_only():
    messages = [{"role": "system", "content": "old"}, {"role": "user", "content": "Which?"}]
    kept = read_conversation(messages, "n", Frames())
    assert [part["text"] for message in kept.messages for part in message["content"]] == ["old", "Which?"]
    told = read_conversation(messages, "n", Frames(), "new")
    assert [message["role"] for message in told.messages] == ["system", "user"]
    assert told.messages[0]["content"] == [text("new")]
    assert messages[0]["content"] == "old"


@pytest.mark.parametrize("content", [[], [text(" ")], [image(RED)]], ids=["nothing", "blank", "only a picture"])
def test_a_prompt_without_text_is_refused(content):
    with pytest.raises(ValueError, match="task, test 3: no text"):
        read(*content)


@pytest.mark.parametrize("part", [{"type": "audio", "url": "a.wav"}, {"type": "image", "url": 3}, {"type": "video"}])
def test_other_media_are_refused(part):
    with pytest.raises(ValueError, match=f"task, test 3: {part['type']} given as"):
        read(part, text("?"))


@pytest.mark.parametrize("source", ["http://a.org/b.png", "https://a.org/b.mp4", "data:image/png;base64," + "A" * 999])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_url_is_refused_as_one(source, kind):
    with pytest.raises(ValueError, match="it is a URL - media are read from files") as refusal:
        read({"type": kind, "url": source}, text("?"))
    assert source[:60] in str(refusal.value) and len(str(refusal.value)) < 200


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """20 frames at 10 per second; the number of a frame times ten is its grey."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 8, 6, "bgr0"
        for number in range(20):
            grey = np.full((6, 8, 3), 10 * number, dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("frames", "part", "expected"),
    [
        (Frames(4), {}, (0, 6, 13, 19)),  # rint of 0, 6.33, 12.67, 19
        (Frames(100), {}, tuple(range(20))),
        (Frames(32, fps=2), {}, (0, 6, 13, 19)),  # 2 s at 2 per second
        (Frames(2, fps=2), {}, (0, 19)),
        (Frames(32, fps=0.1), {}, (0,)),
        (Frames(3), {"start_time": 0.5, "end_time": 1.05}, (5, 8, 10)),  # 7.5 to even
        (Frames(2), {"start_time": 1.5}, (15, 19)),
        (Frames(2), {"end_time": 0.25}, (0, 2)),
    ],
)
def test_frames_are_spread_over_the_asked_part(clip, frames, part, expected):
    (video,) = read({"type": "video", "url": str(clip), **part}, text("?"), frames=frames).example.media
    assert (video.frame_ids, video.fps) == (expected, 10)
    assert [int(frame[0, 0, 0]) // 10 for frame in video.frames] == list(expected)


def test_a_part_may_be_named_in_place_of_the_file(clip):
    part = {"type": "video", "url": {"type": "video", "path": str(clip), "video_start": 1.0, "video_end": 1.2}}
    (video,) = read(part, text("?"), frames=Frames(2)).example.media
    assert video.frame_ids == (10, 12)


def test_missing_videos_and_parts_are_told(clip, tmp_path):
    with pytest.raises(ValueError, match="none.mp4 does not exist"):
        read({"type": "video", "url": str(tmp_path / "none.mp4")}, text("?"))
    with pytest.raises(ValueError, match=r"seconds 5.0 to None .* lasts 1.9 s"):
        read({"type": "video", "url": str(clip), "start_time": 5.0}, text("?"))


def test_a_video_that_is_cut_off_is_refused(clip, tmp_path):
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 3])
    for part in ({}, {"end_time": 0.2}):
        with pytest.raises(ValueError, match=r"cut\.mkv is cut off: its header tells 2\.0 s"):
            read({"type": "video", "url": str(cut), **part}, text("?"))
