import logging

import pytest
import torch
from scorers import head_map

from corehead_hf.analysis.groups import GROUPS, count_from_gap, draw_groups


@pytest.mark.parametrize(
    "scores, most, count",
    [
        ([[0.2, 0.19, 0.02, 0.01] + [0.009] * 16], 0.2, 2),  # 0.19 / 0.02 is the largest factor among k = 1..4
        ([[0.2, 0.01] + [0.009] * 18], 0.2, 1),
        ([[0.2, 0.19, 0.18, 0.17, 0.001] + [0.0] * 15], 0.2, 4),
        ([[0.2, 0.19, 0.18, 0.17, 0.001] + [0.0] * 15], 0.1, 2),  # the gap lies beyond: 0.19 / 0.18 > 0.2 / 0.19
    ],
)
def test_count_from_gap_by_hand(scores, most, count):
    assert count_from_gap(head_map(scores), most) == count


def test_count_from_gap_needs_at_least_one_head():
    with pytest.raises(ValueError, match="leaves none"):
        count_from_gap(head_map([[0.2, 0.1]]), 0.1)


def test_every_group_has_as_many_heads_and_random_ones_are_no_top_ones():
    map_ = head_map()
    top = {1: [[0, 2]], 2: [[0, 2], [1, 1]], 3: [[0, 2], [0, 3], [1, 1]]}
    bottom = {1: [[2, 3]], 2: [[2, 2], [2, 3]], 3: [[2, 1], [2, 2], [2, 3]]}
    groups = draw_groups(map_, (3, 0, 1, 2, 2), GROUPS, (5, 6, 6))
    expected = [(name, k, None) for name in ("top", "bottom") for k in (1, 2, 3)]
    expected += [(name, k, seed) for name in ("random", "layer_matched") for k in (1, 2, 3) for seed in (5, 6)]
    assert [(group.name, group.count, group.seed) for group in groups] == expected
    for group in groups:
        heads = group.heads.nonzero().tolist()
        assert len(heads) == group.count
        if group.seed is None:
            assert heads == {"top": top, "bottom": bottom}[group.name][group.count]
            continue
        assert not [head for head in heads if head in top[group.count]]
        if group.name == "layer_matched":
            assert [layer for layer, _ in heads] == [layer for layer, _ in top[group.count]]
    drawn = [group.heads for group in groups if group.seed is not None and group.count == 3]
    assert not torch.equal(drawn[0], drawn[1]), "both seeds draw the same"


def test_no_seed_draws_a_top_head():
    for group in draw_groups(head_map(), (6,), ("random",), range(20)):
        assert not (group.heads & head_map().top(6)).any()


def test_shares_stand_for_counts():
    assert [group.count for group in draw_groups(head_map(), (0.25, 3, 1.0), ("top",), ())] == [3, 12]


def test_where_too_few_heads_are_left_random_groups_are_left_out_and_said_so(caplog):
    """The top 7 hold 3 of the 4 heads of layer 1, and 7 of 12 are more than half of all."""
    with caplog.at_level(logging.WARNING):
        groups = draw_groups(head_map(), (2, 6, 7), GROUPS, (0,))
    found = {(group.name, group.count) for group in groups}
    assert found == {
        *((name, count) for name in ("top", "bottom") for count in (2, 6, 7)),
        *(("random", count) for count in (2, 6)),
        ("layer_matched", 2),
    }
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "random is left out at 7 heads",
        "layer_matched is left out at 6 heads",
        "layer_matched is left out at 7 heads",
    ]


@pytest.mark.parametrize(
    "counts, names, seeds, message",
    [
        ((1,), ("top", "middle"), (0,), "'middle'.*known are top, bottom, random, layer_matched"),
        ((1,), (), (0,), "name at least one"),
        ((0,), ("top",), (0,), "no numbers of heads"),
        ((1,), ("top", "layer_matched"), (), "without a seed"),
        ((13,), ("top",), (0,), "keep=13 of 3 layers x 4 heads.*out of range"),
    ],
)
def test_what_cannot_be_drawn_is_refused(counts, names, seeds, message):
    with pytest.raises(ValueError, match=message):
        draw_groups(head_map(), counts, names, seeds)
