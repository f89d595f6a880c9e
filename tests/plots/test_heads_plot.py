import numpy as np
import pytest
import torch
from hand_made import head_map, large_map, vision_map

from corehead_hf import plots

pytest.importorskip("matplotlib")
SCORES = torch.tensor([[0.1, 0.4], [0.0, 0.2], [0.3, 0.05]])


def test_head_heatmap_shows_the_scores_and_frames_the_marked_heads():
    figure = plots.head_heatmap(head_map(SCORES), mark=head_map(SCORES).top(2))
    ax = figure.axes[0]
    assert np.array_equal(ax.images[0].get_array(), SCORES.numpy())
    assert [patch.get_xy() for patch in ax.patches] == [(0.5, -0.5), (-0.5, 1.5)]  # heads (0, 1) and (2, 0)
    assert ax.get_title(loc="left").split("\n") == ["RAM of every head", "tiny, hand, 5 examples, 2 heads framed"]
    assert ax.images[0].get_clim() == (0, pytest.approx(0.4)) and ax.images[0].origin == "lower"
    assert figure.axes[1].get_ylabel().replace("\n", " ") == "RAM (share of attention on the evidence)"
    plain = plots.head_heatmap(head_map(SCORES)).axes[0]
    assert not plain.patches and "framed" not in plain.get_title(loc="left")


def test_layers_and_heads_have_whole_numbers_from_zero():
    ax = plots.head_heatmap(large_map()).axes[0]
    assert ax.get_xticks().tolist() == [*range(0, 32, 4)] and ax.get_yticks().tolist() == [*range(0, 36, 4)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("query head", "layer")


def test_a_map_of_vision_heads_is_called_so():
    figure = plots.head_heatmap(vision_map(layers=3, heads=4))
    assert figure.axes[0].get_title(loc="left").startswith("Vision-head score")
    assert "all visual tokens" in figure.axes[1].get_ylabel().replace("\n", " ")


def test_a_map_of_nothing_but_zeros_is_dark():
    image = plots.head_heatmap(head_map(torch.zeros(2, 2))).axes[0].images[0]
    assert image.norm(0.0) == 0 and image.get_clim() == (0, 1)


def test_core_heads_stand_above_vision_heads_on_one_scale_a_row():
    core = {"a": head_map(SCORES), "b": head_map(SCORES / 2)}
    vision = {"a": head_map(SCORES * 2), "b": head_map(SCORES.flip(0))}
    figure, axes = plots.new_figure(2, 2, size=(8, 8))
    assert plots.head_heatmaps(core, vision, keep=2, axes=axes) is figure
    shown = np.array([[ax.images[0].get_array() for ax in line] for line in axes])
    assert np.array_equal(shown[0], [SCORES.numpy(), SCORES.numpy() / 2])
    assert np.array_equal(shown[1], [SCORES.numpy() * 2, SCORES.numpy()[::-1]])
    limits = [[ax.images[0].get_clim() for ax in line] for line in axes]
    assert limits == [[(0, pytest.approx(0.4))] * 2, [(0, pytest.approx(0.8))] * 2]
    frames = [[patch.get_xy() for patch in ax.patches] for ax in axes.ravel()]
    assert frames == [[(0.5, -0.5), (-0.5, 1.5)]] * 3 + [[(-0.5, -0.5), (0.5, 1.5)]], "not each map's own top heads"
    headlines = [ax.get_title(loc="left").replace("\n", " ") for ax in axes.ravel()]
    assert headlines[0].startswith("a: CoRe heads") and headlines[3].startswith("b: vision heads")
    assert all(headline.endswith("top 2 framed") for headline in headlines)
    assert len(figure.axes) == 4 + 2, "one colour bar a row"


def test_maps_of_several_sizes_side_by_side():
    """Families differ in layers and heads."""
    figure = plots.head_heatmaps({"a": large_map(layers=4, heads=12), "b": large_map(layers=6, heads=8)}, keep=0.1)
    assert [ax.images[0].get_array().shape for ax in figure.axes[:2]] == [(4, 12), (6, 8)]
    assert [len(ax.patches) for ax in figure.axes[:2]] == [5, 5]  # 10 % of 48


def test_maps_that_do_not_go_together_are_refused():
    a = head_map(SCORES)
    with pytest.raises(ValueError, match="at least one"):
        plots.head_heatmaps({})
    with pytest.raises(ValueError, match=r"vision heads of \['b'\] were given for CoRe heads of \['a'\]"):
        plots.head_heatmaps({"a": a}, {"b": a})
    with pytest.raises(ValueError, match="1 axes were given for 1 x 2 panels"):
        plots.head_heatmaps({"a": a, "b": a}, axes=plots.new_figure(size=(2, 2))[1])
