"""Visual tokens as grids over pictures."""

import numpy as np
import pytest
from hand_made import of, video

from corehead_hf import Evidence, plots
from corehead_hf.families.geometry import GLOBAL, HIRES, concatenate, grid, no_place, single_cells

pytest.importorskip("matplotlib")


def tiled():
    """8 x 4 px: two tiles of 2 x 2 tokens, two newlines, the whole on 1 x 2 tokens; three tokens are marked."""
    page = np.full((4, 8, 3), 200, dtype=np.uint8)
    left = grid((4, 4), 2, 2, view=HIRES)
    right = single_cells(left.cells[:, 0] + [4, 0, 4, 0], view=HIRES)
    geometry = concatenate([left, right, no_place(2), grid(page.shape, 1, 2, view=GLOBAL)])
    return of([page], [geometry], Evidence(0, (3, 0, 5, 2)), marked=(2, 5, 11))


def shown(ax):
    """(left, top, right, bottom) of the filled tokens and of all tokens of a panel."""
    filled, outlines = ([path.vertices for path in collection.get_paths()] for collection in ax.collections)
    return [[(*v.min(axis=0).tolist(), *v.max(axis=0).tolist()) for v in group] for group in (filled, outlines)]


def test_token_overlay_has_a_panel_per_view_and_fills_what_counts():
    figure = plots.token_overlay(tiled())
    tiles, whole = figure.axes
    filled, outlines = shown(tiles)
    assert filled == [(2, 0, 4, 2), (4, 0, 6, 2)] and len(outlines) == 8
    assert outlines[:3] == [(0, 0, 2, 2), (2, 0, 4, 2), (0, 2, 2, 4)] and outlines[7] == (6, 2, 8, 4)
    assert shown(whole) == [[(0, 0, 4, 4)], [(0, 0, 4, 4), (4, 0, 8, 4)]]
    assert tiles.get_title(loc="left") == "high-resolution view: 8 tokens, 2 marked"
    assert whole.get_title(loc="left") == "view of the whole: 2 tokens and 2 newlines, 1 marked"
    assert figure.get_suptitle() == "12 visual tokens, 3 marked"
    for ax in figure.axes:
        (box,) = ax.patches
        assert (box.get_xy(), box.get_width(), box.get_height()) == ((3, 0), 2, 2)
    colors = tiles.collections[1].get_edgecolor()
    assert len(np.unique(colors, axis=0)) == 8, "the colours do not tell the tokens' order"


def test_token_overlay_shows_padding_mixed_cells_and_frames():
    mixed = grid((8, 8), 1, 1)
    cells = np.array([[[-4.0, 0, 4, 4], [4, 0, 8, 4], [0, 0, 99, 99]]])
    mixed = type(mixed)(cells, np.array([[0.5, 0.5, 0]]), np.zeros((1, 3), dtype=int), mixed.views)
    moving = concatenate([grid((8, 8), 1, 1, frame=f) for f in range(3)])
    media = [np.zeros((8, 8, 3), dtype=np.uint8), video(3)]
    case = of(media, [mixed, moving], Evidence(1, frames=(2,)), marked=(4,))
    figure = plots.token_overlay(case, max_frames=2, per_line=2)
    image, first, last, unused = figure.axes
    assert shown(image) == [[], [(-4, 0, 8, 4)]], "a cell of weight 0 is drawn"
    assert image.get_xlim() == (-4, 8) and image.get_ylim() == (8, 0), "the token on padding is cut off"
    assert [ax.get_title(loc="left") for ax in (image, first, last)] == [
        "medium 0, only view: 1 tokens, 0 marked",
        "medium 1, frame 0: 1 tokens, 0 marked",
        "medium 1, frame 2: 1 tokens, 1 marked",
    ]
    assert shown(last)[0] == [(0, 0, 8, 8)] and len(last.patches) == 1 and not first.patches
    assert figure.get_suptitle() == "4 visual tokens, 1 marked (2 of 3 frames shown)" and not unused.axison


def test_token_overlay_draws_into_given_axes():
    figure, axes = plots.new_figure(1, 3, size=(6, 2))
    assert plots.token_overlay(tiled(), axes=axes[0]) is figure and not axes[0, 2].axison
    with pytest.raises(ValueError, match="1 axes were given for 2 panels"):
        plots.token_overlay(tiled(), axes=axes[0, :1])


def test_token_overlay_says_what_its_colours_mean():
    figure = plots.token_overlay(tiled())
    legend = figure.get_supxlabel().replace("\n", " ")
    assert all(word in legend for word in ("Boxed: evidence", "Filled: tokens marked", "first token", "yellow = last"))
    filled = figure.axes[0].collections[0].get_facecolor()[0, :3]
    box = figure.axes[0].patches[0].get_edgecolor()[:3]
    assert abs(float(np.dot(filled, [0.299, 0.587, 0.114]) - np.dot(box, [0.299, 0.587, 0.114]))) > 0.05
