import numpy as np
import pytest

from corehead_hf import Box, Example

PAGE = np.zeros((40, 60, 3), dtype=np.uint8)


def example(**changes):
    fields = {"id": "x", "images": (PAGE,), "question": "Where?", "answer": "here", "evidence": (Box(0, 0, 0, 60, 40),)}
    return Example(**{**fields, **changes})


def test_a_box_may_fill_its_image():
    assert example().evidence[0].right == 60


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"question": "  "}, "empty question"),
        ({"evidence": ()}, "no evidence"),
        ({"evidence": (Box(1, 0, 0, 1, 1),)}, "names image 1 of 1"),
        ({"evidence": (Box(0, 0, 0, 61, 40),)}, "over the edge of a 60 x 40 image"),
        ({"evidence": (Box(0, 0, 0, 60, 40.5),)}, "over the edge"),
        ({"images": (PAGE.astype(np.float32),)}, "float32"),
        ({"images": (PAGE[..., 0],)}, "give uint8"),
    ],
)
def test_bad_examples_are_refused_with_the_reason(changes, reason):
    with pytest.raises(ValueError, match=reason):
        example(**changes)


BAD_EDGES = [(0, 5, 0, 5, 9), (0, 0, 9, 5, 9), (0, -1, 0, 5, 9), (-1, 0, 0, 5, 9), (0, 6, 0, 5, 9)]


@pytest.mark.parametrize("edges", BAD_EDGES)
def test_bad_boxes_are_refused(edges):
    with pytest.raises(ValueError, match="left < right"):
        Box(*edges)
