"""Vision heads against CoRe heads: counted by hand, the hypergeometric tail by binomials, scipy, and a real model."""

import logging
from math import comb
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hand import hand_map

from corehead_hf import AutoCoReModel, load_processor, measure
from corehead_hf.analysis import vision_heads
from corehead_hf.data import glyphs

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts" / "glyphs-qwen3-vl"
RISING = np.arange(1, 21).reshape(4, 5) / 100


def vision_map(scores, **changes):
    return hand_map(scores, view_rule="all visual tokens", **changes)


def test_overlap_by_hand():
    """Top quarter: heads 15..19 of 20 by RAM; by vision heads 13, 14, 17, 18 and 0."""
    vision = np.full(20, 0.1) + np.arange(20) / 1000
    vision[[13, 14, 17, 18, 0]] = 0.9, 0.8, 0.7, 0.6, 0.5
    found = vision_heads(hand_map(RISING), vision_map(vision.reshape(4, 5)), share=0.25)
    assert (found.model, found.dataset, found.share) == ("tiny", "hand", 0.25)
    assert (found.count, found.overlap, found.expected) == (5, 2, 25 / 20)
    assert found.shared == ((3, 3), (3, 2)), "best CoRe head first"
    assert found.jaccard == pytest.approx(2 / 8)
    at_least_two = sum(comb(5, i) * comb(15, 5 - i) for i in range(2, 6)) / comb(20, 5)
    assert found.p_value == pytest.approx(at_least_two)
    assert found.spearman == pytest.approx(scipy.stats.spearmanr(RISING.ravel(), vision)[0])
    assert found.core.dtype == np.float64 and found.core[3, 4] == np.float32(0.2)


def test_a_map_against_itself_and_against_its_opposite():
    same = vision_heads(hand_map(RISING), vision_map(RISING), share=0.1)
    assert (same.overlap, same.jaccard, same.shared) == (2, 1.0, ((3, 4), (3, 3)))
    assert same.spearman == pytest.approx(1) and same.p_value == pytest.approx(1 / comb(20, 2))
    opposite = vision_heads(hand_map(RISING), vision_map(0.5 - RISING), share=0.1)
    assert (opposite.overlap, opposite.jaccard, opposite.shared, opposite.p_value) == (0, 0.0, (), 1.0)
    assert opposite.spearman == pytest.approx(-1)


def test_table():
    found = vision_heads(hand_map(RISING), vision_map(0.5 - RISING), share=0.1)
    table = found.to_pandas()
    assert len(table) == 20
    row = table[(table.layer == 3) & (table["head"] == 4)].iloc[0]
    assert row.core == np.float32(0.2) and row.vision == np.float32(0.3) and row.core_top and not row.vision_top
    assert table.index[table.core_top].tolist() == [18, 19] and table.index[table.vision_top].tolist() == [0, 1]


def test_ties_are_cut_as_head_maps_cut_them():
    core, vision = hand_map(np.r_[0.9, [0.5] * 19].reshape(4, 5)), vision_map(np.r_[[0.5] * 19, 0.9].reshape(4, 5))
    found = vision_heads(core, vision, share=0.1)
    table = found.to_pandas()
    assert table.core_top.tolist() == core.top(0.1).flatten().tolist()
    assert table.vision_top.tolist() == vision.top(0.1).flatten().tolist()
    assert found.shared == ((0, 0),)


@pytest.mark.parametrize(
    "core, vision, message",
    [
        (hand_map(RISING), hand_map(RISING), "vision was given with view_rule 'all views' .* target='visual'"),
        (
            vision_map(RISING),
            vision_map(RISING),
            "core was given with view_rule 'all visual tokens' .* target='evidence'",
        ),
        (hand_map(RISING), vision_map(RISING.reshape(5, 4)), r"\[4, 5\] heads, was given beside vision .* \[5, 4\]"),
        (hand_map(RISING), vision_map(RISING, base_model_name_or_path="x"), "core of 'tiny', .* vision of 'x'"),
        (hand_map(RISING), vision_map(RISING * 0), "vision was given - all its heads score alike"),
    ],
)
def test_maps_that_do_not_compare_are_refused(core, vision, message):
    with pytest.raises(ValueError, match=message):
        vision_heads(core, vision)


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match="keep=5.0 of 4 layers"):
        vision_heads(hand_map(RISING), vision_map(RISING), share=5)


def test_other_data_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        vision_heads(hand_map(RISING), vision_map(RISING, dataset="other"))
    assert "the CoRe map is of data set 'hand', the vision map of 'other'" in caplog.text


def test_heads_that_retrieve_are_not_those_that_look_at_the_picture():
    model, processor = AutoCoReModel.from_pretrained(HUB, dtype=torch.float32), load_processor(HUB)
    examples = list(glyphs.generate(12, seed=5, pages=3))
    core, vision = (measure(model, processor, examples, dataset="glyphs", target=t) for t in ("evidence", "visual"))
    found = vision_heads(core, vision, share=0.05)
    assert found.overlap == 0 and found.count == 2
    assert (found.vision >= found.core - 1e-6).all(), "the evidence is a part of the visual tokens"
    assert vision.chance > 10 * core.chance
