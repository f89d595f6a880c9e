"""Costs by hand, and against masks written out from the definition, pair by pair."""

import pytest
import torch

from corehead_hf.analysis.attention_cost import Cost, attention_cost

ONE_OF_FOUR = torch.tensor([[True, False, False, False]])


def written_out(heads, lengths, sink, window, num_kv_heads, head_dim):
    """Cost from boolean masks: each query head's, and the union over those that share a KV head."""
    L, Hq = heads.shape
    group, flops, whole, entries, all_entries = Hq // num_kv_heads, 0, 0, 0, 0
    for n in lengths:
        i, j = torch.arange(n)[:, None], torch.arange(n)[None]
        causal = j <= i
        streaming = causal & ((j < sink) | (i - j < window))
        for layer in heads.tolist():
            masks = torch.stack([causal if dense else streaming for dense in layer])
            flops += 4 * head_dim * int(masks.sum())
            whole += 4 * head_dim * Hq * int(causal.sum())
            entries += int(masks.view(num_kv_heads, group, n, n).any(dim=1).sum())
            all_entries += num_kv_heads * int(causal.sum())
    return Cost(entries / all_entries, flops / len(lengths), flops / whole)


def test_by_hand():
    """Five tokens, sink 1, window 2: queries see 1, 2, 3, 3, 3 keys, 12 pairs of 15; one of four heads is dense."""
    cost = attention_cost(ONE_OF_FOUR, [5], 1, 2, num_kv_heads=2, head_dim=8)
    assert cost.flops == 4 * 8 * (15 + 3 * 12)
    assert cost.flops_share == pytest.approx(51 / 60)
    assert cost.kv_read == pytest.approx((15 + 12) / 30)  # the dense head's neighbour reads nothing that it does not
    alone = attention_cost(ONE_OF_FOUR, [5], 1, 2, num_kv_heads=4, head_dim=8)
    assert alone.kv_read == pytest.approx(51 / 60)


@pytest.mark.parametrize("sink, window", [(0, 1), (0, 4), (3, 1), (2, 7), (5, 30), (40, 2)])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_the_same_as_masks_written_out(sink, window, num_kv_heads):
    heads = torch.rand(3, 4, generator=torch.Generator().manual_seed(sink + window)) < 0.3
    sizes = (sink, window, num_kv_heads, 16)
    found, expected = (how(heads, [2, 9, 23], *sizes) for how in (attention_cost, written_out))
    assert found == Cost(*map(pytest.approx, (expected.kv_read, expected.flops, expected.flops_share)))


@pytest.mark.parametrize("heads, window", [(torch.ones(2, 4, dtype=torch.bool), 1), (torch.zeros(2, 4) > 0, 9)])
def test_dense_heads_and_prompts_within_the_window_cost_what_dense_attention_does(heads, window):
    cost = attention_cost(heads, [9], 0, window, num_kv_heads=2, head_dim=8)
    assert cost == Cost(1.0, 4 * 8 * 2 * 4 * 45, 1.0)


def test_prompts_count_by_their_pairs_and_flops_are_their_mean():
    """3 and 5 tokens, window 1: 3 of 6 and 5 of 15 pairs."""
    cost = attention_cost(torch.zeros(1, 2) > 0, [3, 5], 0, 1, num_kv_heads=1, head_dim=1)
    assert cost == Cost(pytest.approx(8 / 21), 4 * 2 * 8 / 2, pytest.approx(8 / 21))
