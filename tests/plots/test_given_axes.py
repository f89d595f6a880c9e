"""Every figure can be drawn into axes of the caller's own figure."""

import numpy as np
import pytest
from gallery import FIGURES, given
from hand_made import LONG, SHORT
from layout_check import problems

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")
pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("name", FIGURES)
def test_given_axes_are_drawn_into_and_their_figure_is_returned(name):
    make, shape, argument = FIGURES[name]
    figure, to = given(*shape, argument)
    panels = list(figure.axes)
    assert make(LONG, **to) is figure
    assert all(ax.has_data() for ax in panels), "one of the given axes is empty"
    assert all(ax.get_title(loc="left") for ax in panels)
    assert problems(figure) == []


@pytest.mark.parametrize("name", FIGURES)
def test_new_axes_show_the_same(name):
    """Images and lines do not depend on whose axes they are in."""
    make, shape, argument = FIGURES[name]
    figure, to = given(*shape, argument)
    make(SHORT, **to)
    own = make(SHORT)
    assert len(own.axes) == len(figure.axes) and own is not figure
    for a, b in zip(own.axes, figure.axes, strict=True):
        for first, second in zip(a.images, b.images, strict=True):
            assert np.array_equal(first.get_array(), second.get_array())
        for first, second in zip(a.lines, b.lines, strict=True):
            assert np.array_equal(first.get_xydata(), second.get_xydata(), equal_nan=True)
