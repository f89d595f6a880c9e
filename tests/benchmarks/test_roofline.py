"""Counts against brute force and against the real model's own weights."""

import pytest
import torch

from benchmarks import backbone, roofline
from benchmarks.roofline import (
    Ceilings,
    attention_flops,
    elementwise_bytes,
    linear_flops,
    prefill_flops,
    prefill_seconds,
)
from benchmarks.shapes import SHAPES
from corehead_hf import reference

TINY, BIG = SHAPES["tiny"], SHAPES["Qwen3-VL-8B"]


@pytest.mark.parametrize("n, sink, window", [(1, 0, 1), (7, 2, 3), (40, 16, 8), (40, 8, 40), (64, 100, 5), (33, 0, 4)])
def test_attention_flops_count_the_mask(n, sink, window):
    heads = torch.tensor([True, False, False])
    pairs = int(reference.hybrid_mask(heads, n, n, sink, window).sum())
    assert attention_flops(3, 1, 16, n, sink, window) == 4 * 16 * pairs


def test_attention_flops_by_hand():
    # five queries: a dense head sees 1 + 2 + 3 + 4 + 5 keys, one with sink 1 and window 2 sees 1 + 2 + 3 + 3 + 3
    assert attention_flops(2, 1, 1, 5, 1, 2) == 4 * (15 + 12)


def test_linear_flops_are_two_per_weight_and_token():
    model = backbone.build(TINY, torch.device("cpu"), "float32")
    weights = sum(p.numel() for layer in model.model.language_model.layers for p in layer.parameters() if p.dim() == 2)
    assert linear_flops(TINY, 10) == 2 * 10 * weights
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2) - weights
    vision = sum(p.numel() for p in model.model.visual.parameters() if p.dim() == 2)
    assert TINY.parameters - TINY.layers * TINY.layer_parameters == matrices - vision


def test_published_sizes():
    """Parameters without the vision tower, in billions."""
    sizes = {name: shape.parameters / 1e9 for name, shape in SHAPES.items()}
    expected = {"Qwen3-VL-8B": 8.19, "Qwen3-VL-32B": 32.76, "LLaVA-OneVision-7B": 7.61, "InternVL3.5-8B": 8.19}
    for name, size in expected.items():  # of Qwen3-8B, Qwen3-32B and Qwen2-7B, from their model cards
        assert sizes[name] == pytest.approx(size, rel=0.005)


def test_targets_of_the_issue():
    """FLOP ratio 12.3 at 128K and prefill bounds of 2.74 and 1.87, 8B, keep 5 %, window 2048."""
    heads, kept = 1152, 58
    dense = attention_flops(heads, heads, 128, 131072, 128, 2048)
    assert dense / attention_flops(heads, kept, 128, 131072, 128, 2048) == pytest.approx(12.3, abs=0.06)
    for n, bound in ((131072, 2.74), (65536, 1.87)):
        dense = prefill_seconds(BIG, n, heads, 128, 2048, Ceilings())
        hybrid = prefill_seconds(BIG, n, kept, 128, 2048, Ceilings(), block=(128, 128))
        assert dense / hybrid == pytest.approx(bound, abs=0.015)


def test_time_by_hand():
    """One head, one token: no rate may be left out, and each is used once."""
    flops = linear_flops(TINY, 4)
    pairs = 4 * TINY.head_dim * TINY.layers * TINY.heads * 10  # 1 + 2 + 3 + 4 keys
    assert prefill_flops(TINY, 4, TINY.layers * TINY.heads, 0, 1) == flops + pairs
    rates = Ceilings(linear=2e-12, dense=5e-12, streaming=1, memory=10e-12)
    expected = flops / 2 + pairs / 5 + elementwise_bytes(TINY, 4, fused=False) / 10
    assert prefill_seconds(TINY, 4, TINY.layers * TINY.heads, 0, 1, rates) == pytest.approx(expected)


def test_fusing_moves_fewer_bytes():
    eager, fused = (elementwise_bytes(BIG, 1, fusing) // BIG.layers for fusing in (False, True))
    # hidden 4096, q 4096, k 1024, intermediate 12288
    assert eager == 36 * (2 * 4096 + 5120) + 12 * 4096 + 16 * 5120 + 8 * 1024 + 4 * 4096 + 10 * 12288
    assert fused == 16 * 4096 + 4 * 5120 + 6 * 12288


def test_command(capsys):
    assert roofline.main(["--keep", "0.05"]) == 0
    assert "58 of 1152 heads" in capsys.readouterr().out
