import numpy as np
import pytest

from corehead_hf import Evidence, Example, Video

PAGE = np.zeros((40, 60, 3), dtype=np.uint8)
CLIP = Video(np.zeros((3, 20, 30, 3), dtype=np.uint8), fps=25, frame_ids=(0, 10, 20))


def example(**changes):
    everything = (Evidence(0, (0, 0, 60, 40)),)
    fields = {"id": "x", "media": (PAGE,), "question": "Where?", "answer": "here", "evidence": everything}
    return Example(**{**fields, **changes})


def test_a_box_may_fill_its_image():
    assert example().evidence[0].box == (0, 0, 60, 40)
    assert example().turn == (0, "Where?")


def test_images_and_videos_keep_their_numbers():
    mixed = example(media=(PAGE, CLIP, PAGE), content=("Look:", 0, 1, "and", 2, "Tell me. Where? Briefly."))
    assert len(mixed.images) == 2 and mixed.videos == (CLIP,)
    assert mixed.turn == ("Look:", 0, 1, "and", 2, "Tell me. Where? Briefly.")
    example(media=(PAGE, CLIP), evidence=(Evidence(1, (0, 0, 30, 20), frames=(0, 2)), Evidence(1), Evidence(0)))


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"question": "  "}, "empty question"),
        ({"evidence": (Evidence(1),)}, "names medium 1 of 1"),
        ({"evidence": (Evidence(0, (0, 0, 61, 40)),)}, "over the edge of 60 x 40 pixels"),
        ({"evidence": (Evidence(0, (0, 0, 60, 40.5)),)}, "over the edge"),
        ({"evidence": (Evidence(0, frames=(0,)),)}, "names frames of an image"),
        ({"media": (CLIP,), "evidence": (Evidence(0, frames=(3,)),)}, "names frames of a video with 3"),
        ({"media": (CLIP,)}, "over the edge of 30 x 20"),
        ({"media": (PAGE.astype(np.float32),)}, "float32"),
        ({"media": (PAGE[..., 0],)}, "give uint8"),
        ({"content": ("Where?",)}, r"shows media \[\]; it must show 1"),
        ({"media": (PAGE, PAGE), "content": (1, 0, "Where?")}, r"shows media \[1, 0\]"),
        ({"content": (0, "Where?", "Answer:")}, "not in the last text"),
        ({"content": (0,)}, "not in the last text"),
    ],
)
def test_bad_examples_are_refused_with_the_reason(changes, reason):
    with pytest.raises(ValueError, match=reason):
        example(**changes)


@pytest.mark.parametrize("box", [(5, 0, 5, 9), (0, 9, 5, 9), (-1, 0, 5, 9), (6, 0, 5, 9), (0, -1, 5, 9)])
def test_bad_boxes_are_refused(box):
    with pytest.raises(ValueError, match="left < right"):
        Evidence(0, box)


@pytest.mark.parametrize("arguments", [{"media": -1}, {"media": 0, "frames": ()}, {"media": 0, "frames": (-1,)}])
def test_bad_evidence_is_refused(arguments):
    with pytest.raises(ValueError, match="evidence"):
        Evidence(**arguments)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"frames": CLIP.frames.astype(float)}, "float64"),
        ({"frames": PAGE}, r"\(40, 60, 3\)"),
        ({"frames": CLIP.frames[:0]}, "give uint8"),
        ({"fps": 0}, "fps=0"),
        ({"frame_ids": (0, 1)}, "3 frames and frame_ids"),
        ({"frame_ids": (0, 2, 2)}, "strictly rising"),
    ],
)
def test_bad_videos_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        Video(**{"frames": CLIP.frames, "fps": 25, **arguments})


def test_frames_are_numbered_from_zero_where_nothing_is_said():
    assert Video(CLIP.frames, fps=25).frame_ids == (0, 1, 2)
