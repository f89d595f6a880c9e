import numpy as np
import pytest
import torch

from corehead_hf import Evidence, Example, HeadMap, Video, plots
from corehead_hf.analysis.ablation import GroupAccuracy
from corehead_hf.families import Prepared
from corehead_hf.families.geometry import GLOBAL, HIRES, concatenate, grid, no_place, single_cells

pytest.importorskip("matplotlib")

SCORES = torch.tensor([[0.1, 0.4], [0.0, 0.2], [0.3, 0.05]])


VERSIONS = dict.fromkeys(("torch", "transformers", "corehead_hf"), "1")


def head_map():
    return HeadMap(
        scores=SCORES, count=torch.full((3,), 5), spread=torch.zeros(3, 2), base_model_name_or_path="tiny",
        base_model_revision=None, model_type="qwen3_vl", num_layers=3, num_heads=2, num_kv_heads=1, head_dim=8,
        dataset="hand", num_examples=5, question_rule="all", view_rule="all", versions=VERSIONS,
    )  # fmt: skip


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


def test_head_heatmap_shows_the_scores_and_frames_the_marked_heads():
    figure = plots.head_heatmap(head_map(), mark=head_map().top(2))
    ax = figure.axes[0]
    assert np.array_equal(ax.images[0].get_array(), SCORES.numpy())
    assert [patch.get_xy() for patch in ax.patches] == [(0.5, -0.5), (-0.5, 1.5)]  # heads (0, 1) and (2, 0)


def test_ablation_curve_starts_at_dense_and_plots_each_group():
    points = [GroupAccuracy(2, 0.5, 0.9, (0.8, 1.0)), GroupAccuracy(4, 0.1, 0.85, (0.7, 0.9))]
    ax = plots.ablation_curve(points, dense=0.95).axes[0]
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert lines["top heads by RAM"] == [0.95, 0.5, 0.1]
    assert lines["bottom heads by RAM"] == [0.95, 0.9, 0.85]
    assert lines["random heads"] == pytest.approx([0.95, 0.9, 0.8])
    assert ax.lines[0].get_xdata().tolist() == [0, 2, 4]


def test_attention_overlay_paints_tokens_where_they_are():
    row = torch.zeros(10)
    row[6] = 0.5  # visual token 5: page 1, top right
    weak = torch.zeros(10)
    weak[1] = 0.25  # visual token 0: page 0, top left
    figure = plots.attention_overlay(prepared(), {"strong": row, "weak": weak})
    strong, faint = (ax.images[1].get_array() for ax in figure.axes)
    expected = np.zeros((8, 20))
    expected[0:4, 16:20] = 1  # page 1 starts after 8 px and a gap of 4
    assert np.array_equal(strong, expected)
    assert faint[0, 0] == 0.5 and faint.sum() == 8  # same scale for both lines
    assert figure.axes[0].patches[0].get_xy() == (15.5, -0.5)  # the evidence box


def of(media, geometry, *evidence, marked=(), length=40):
    """A Prepared whose visual tokens follow column 0, medium after medium."""
    sizes = [len(tokens) for tokens in geometry]
    columns = np.split(np.arange(1, 1 + sum(sizes)), np.cumsum(sizes)[:-1])
    visual, counted = torch.zeros(1, length, dtype=torch.bool), torch.zeros(1, length, dtype=torch.bool)
    visual[0, 1 : 1 + sum(sizes)] = True
    counted[0, list(marked)] = True
    example = Example("x", tuple(media), "Which?", "that", evidence)
    return Prepared({}, visual & False, counted, visual, (example,), (tuple(geometry),), (tuple(columns),))


def frame(count, side=8):
    return Video(np.full((count, side, side, 3), 200, dtype=np.uint8), fps=25)


def one_hot(column, length=40):
    row = torch.zeros(length)
    row[column] = 1.0
    return row


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
    case = of([frame(9)], [tokens], Evidence(0, (0, 0, 4, 4), frames=(4, 5)))
    figure = plots.attention_overlay(case, {"head": one_hot(1 + 4)}, max_frames=3)
    assert painted(figure) == (0, 8, 12, 20)
    assert figure.axes[0].get_title(loc="left") == "head, largest entry 1.000 (3 of 9 frames shown)"
    assert [patch.get_xy() for patch in figure.axes[0].patches] == [(11.5, -0.5)]
    left_out = plots.attention_overlay(case, {"head": one_hot(1 + 3)}, max_frames=3)
    assert not left_out.axes[0].images[1].get_array().any()
    pair = concatenate([grid((8, 8), 1, 1)])
    pair = type(pair)(pair.cells.repeat(2, axis=1), np.full((1, 2), 0.5), np.array([[0, 1]]), pair.views)
    both = plots.attention_overlay(of([frame(2)], [pair], Evidence(0)), {"head": one_hot(1)})
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
    media = [np.zeros((8, 8, 3), dtype=np.uint8), frame(3)]
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
