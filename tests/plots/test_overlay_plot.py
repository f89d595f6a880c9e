"""Attention rows over pictures: every token exactly where its pixels are."""

import numpy as np
import pytest
import torch
from hand_made import frames, of, one_hot, pages, video

from corehead_hf import Evidence, Example, plots
from corehead_hf.families import Prepared
from corehead_hf.families.geometry import concatenate, grid, no_place, single_cells

pytest.importorskip("matplotlib")


def prepared():
    """Two pages of 2 x 2 tokens of 4 px; tokens 1..8 of a prompt of 10 are visual."""
    page = np.full((8, 8, 3), 200, dtype=np.uint8)
    example = Example("x", (page, page), "Which?", "that", (Evidence(1, (4, 0, 8, 4)),))
    visual = torch.zeros(1, 10, dtype=torch.bool)
    visual[0, 1:9] = True
    nothing = torch.zeros(1, 10, dtype=torch.bool)
    tokens = grid(page.shape, 2, 2)
    return Prepared(
        {}, nothing, nothing, visual, (example,), ((tokens, tokens),), ((np.arange(1, 5), np.arange(5, 9)),)
    )


def test_attention_overlay_paints_tokens_where_they_are():
    row = torch.zeros(10)
    row[6] = 0.5  # visual token 5: page 1, top right
    weak = torch.zeros(10)
    weak[1] = 0.25  # visual token 0: page 0, top left
    figure = plots.attention_overlay(prepared(), {"strong": row, "weak": weak})
    strong, faint = (ax.images[1].get_array() for ax in figure.axes[:2])
    expected = np.zeros((8, 20))
    expected[0:4, 16:20] = 1  # page 1 starts after 8 px and a gap of 4
    assert np.array_equal(strong, expected)
    assert faint[0, 0] == 0.5 and faint.sum() == 8  # same scale for both lines
    assert figure.axes[0].patches[0].get_xy() == (15.5, -0.5)  # the evidence box


def painted(figure):
    """The painted region of the first axes as (top, bottom, left, right), and its value."""
    heat = figure.axes[0].images[1].get_array()
    rows, columns = np.nonzero(heat)
    region = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    assert len(set(heat[rows, columns])) == 1 and len(rows) == (region[1] - region[0]) * (region[3] - region[2])
    return region


def test_attention_on_padding_stays_on_its_own_picture():
    """8 x 4 px padded to a square of 2 x 2 tokens of 4 px, 2 px above and below; another picture stands beside it."""
    page = np.full((4, 8, 3), 200, dtype=np.uint8)
    cells = np.array([[0, -2, 4, 2], [4, -2, 8, 2], [0, 2, 4, 6], [4, 2, 12, 6]])
    tokens = concatenate([single_cells(cells), no_place()])
    case = of([page, page], [tokens, tokens], Evidence(0))
    assert painted(plots.attention_overlay(case, {"first": one_hot(1)})) == (0, 2, 0, 4)
    assert painted(plots.attention_overlay(case, {"over the right edge": one_hot(4)})) == (2, 4, 4, 8)
    assert painted(plots.attention_overlay(case, {"second picture": one_hot(6)})) == (0, 2, 12, 16)
    newline = plots.attention_overlay(case, {"newline": one_hot(5)})
    assert not newline.axes[0].images[1].get_array().any(), "a newline token has no place"


def test_frames_stand_side_by_side_and_a_long_video_is_thinned():
    """Nine frames of one token each: 0, 4 and 8 are shown; a token of two frames is painted on both."""
    tokens = concatenate([grid((8, 8), 1, 1, frame=f) for f in range(9)])
    case = of([video(9)], [tokens], Evidence(0, (0, 0, 4, 4), frames=(4, 5)))
    figure = plots.attention_overlay(case, {"head": one_hot(1 + 4)}, max_frames=3)
    assert painted(figure) == (0, 8, 12, 20)
    assert figure.axes[0].get_title(loc="left") == "head, largest entry 1.000 (3 of 9 frames shown)"
    assert [patch.get_xy() for patch in figure.axes[0].patches] == [(11.5, -0.5)]
    left_out = plots.attention_overlay(case, {"head": one_hot(1 + 3)}, max_frames=3)
    assert not left_out.axes[0].images[1].get_array().any()
    pair = concatenate([grid((8, 8), 1, 1)])
    pair = type(pair)(pair.cells.repeat(2, axis=1), np.full((1, 2), 0.5), np.array([[0, 1]]), pair.views)
    both = plots.attention_overlay(of([video(2)], [pair], Evidence(0)), {"head": one_hot(1)})
    assert both.axes[0].images[1].get_array().sum() == 2 * 64 and both.axes[0].get_title(loc="left").endswith("1.000")


def test_long_rows_of_pictures_wrap():
    """Five pages of 8 px, two to a line: the fifth begins the third line."""
    page = np.full((8, 8, 3), 200, dtype=np.uint8)
    case = of([page] * 5, [grid(page.shape, 1, 1)] * 5, Evidence(4, (2, 4, 8, 8)))
    figure = plots.attention_overlay(case, {"head": one_hot(5)}, per_line=2)
    assert figure.axes[0].images[0].get_array().shape == (3 * 8 + 2 * 4, 2 * 8 + 4, 3)
    assert painted(figure) == (24, 32, 0, 8)
    veil = figure.axes[0].images[1].get_alpha() > 0
    assert veil.sum() == 5 * 64 and veil[24:, :8].all() and not veil[24:, 8:].any(), "the gaps are no picture"
    (box,) = figure.axes[0].patches
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((1.5, 27.5), 6, 4)


def test_large_pictures_are_shrunk_with_everything_on_them():
    """896 px become 448: the token at the bottom right, 448 px, becomes 224."""
    page = np.full((896, 448, 3), 200, dtype=np.uint8)
    figure = plots.attention_overlay(of([page], [grid(page.shape, 2, 1)], Evidence(0)), {"head": one_hot(2)})
    assert painted(figure) == (224, 448, 0, 224)


@pytest.mark.parametrize("options", [{"max_frames": 0}, {"per_line": 0}])
def test_pictures_that_cannot_be_shown_are_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        plots.attention_overlay(prepared(), {"head": torch.zeros(10)}, **options)


def test_side_by_side_the_labels_are_columns():
    case, rows = pages(1)
    below, beside = plots.attention_overlay(case, rows), plots.attention_overlay(case, rows, side_by_side=True)
    for first, second in zip(below.axes[:2], beside.axes[:2], strict=True):
        assert np.array_equal(first.images[1].get_array(), second.images[1].get_array())
    places = [ax.get_subplotspec() for ax in beside.axes[:2]]
    assert [(p.rowspan.start, p.colspan.start) for p in places] == [(0, 0), (0, 1)]
    assert [ax.get_subplotspec().rowspan.start for ax in below.axes[:2]] == [0, 1]
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in beside.axes[:2]]
    assert titles[0].startswith("top head (22, 5), largest entry 0.2")
    assert titles[1].startswith("bottom head (3, 30), largest entry 0.0")


def test_side_by_side_wraps_many_pictures_to_nearly_square():
    """Seven pages of 96 x 72 px: three to a line, three lines."""
    case, rows = pages(7)
    canvas = plots.attention_overlay(case, rows, side_by_side=True).axes[0].images[0].get_array()
    assert canvas.shape == (3 * 96 + 2 * 4, 3 * 72 + 2 * 4, 3)
    wide = plots.attention_overlay(case, rows, side_by_side=True, per_line=7).axes[0].images[0].get_array()
    assert wide.shape == (96, 7 * 72 + 6 * 4, 3)


def test_the_scale_beside_the_pictures_is_that_of_the_entries():
    row = torch.zeros(10)
    row[6] = 0.5
    figure = plots.attention_overlay(prepared(), {"strong": row, "weak": row / 4})
    scale = figure.axes[2]
    assert scale.get_ylim() == (0, 0.5) and "boxed: evidence" in scale.get_ylabel().replace("\n", " ")
    assert figure.get_suptitle() == "Which?  (answer: that)"
    dark = plots.attention_overlay(prepared(), {"nothing": torch.zeros(10)})
    assert dark.axes[1].get_ylim() == (0, 1) and not dark.axes[0].images[1].get_array().any()


def ticks(axis):
    return dict(zip(axis.get_ticklocs().tolist(), [label.get_text() for label in axis.get_ticklabels()], strict=True))


def test_pictures_are_numbered_below_or_beside_their_lines():
    ax = plots.attention_overlay(prepared(), {"head": one_hot(1, 10)}).axes[0]
    assert ticks(ax.xaxis) == {4.0: "0", 16.0: "1"} and ax.get_xlabel() == "image"
    case, rows = frames(8)
    ax = plots.attention_overlay(case, rows, max_frames=5, per_line=2).axes[0]  # frames 0, 2, 4, 5, 7 of 36 px
    assert ticks(ax.yaxis) == {18.0: "0 to 2", 58.0: "4 to 5", 98.0: "7"} and ax.get_ylabel() == "frame"
    one = plots.attention_overlay(*pages(1)).axes[0]
    assert not ticks(one.xaxis) and not ticks(one.yaxis)
    tokens = grid((8, 8), 1, 1)
    mixed = of([np.zeros((8, 8, 3), np.uint8), video(2)], [tokens, tokens], Evidence(0))
    ax = plots.attention_overlay(mixed, {"head": one_hot(1)}).axes[0]
    assert list(ticks(ax.xaxis).values()) == ["0", "1, frame 0", "1, frame 1"] and ax.get_xlabel() == "medium"


def test_attention_overlay_draws_into_given_axes():
    figure, axes = plots.new_figure(2, 2, size=(6, 6))
    row = one_hot(1, 10)
    assert plots.attention_overlay(prepared(), {"a": row, "b": row}, axes=axes[:, 1]) is figure
    assert not axes[0, 0].images and len(axes[1, 1].images) == 2 and figure.get_suptitle() == ""
    with pytest.raises(ValueError, match="4 axes were given for 2 x 1 panels"):
        plots.attention_overlay(prepared(), {"a": row, "b": row}, axes=axes)
