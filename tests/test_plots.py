import numpy as np
import pytest
import torch

from corehead_hf import Evidence, Example, HeadMap, plots
from corehead_hf.analysis.ablation import GroupAccuracy
from corehead_hf.families import Prepared
from corehead_hf.families.geometry import grid

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
