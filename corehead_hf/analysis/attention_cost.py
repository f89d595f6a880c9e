"""What the attention of hybrid prefills reads and computes, counted exactly from the prompts' lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from corehead_hf.kernels.cost import dense_pairs, streaming_pairs


@dataclass(frozen=True)
class Cost:
    """What the attention of a prefill reads and computes, all layers together, mean over the prompts.

    Attributes:
        kv_read: key-value entries read, as a share of those of dense attention, (0, 1]. A query reads an entry of a KV
            head where at least one of the query heads that share it sees that position.
        flops: 4 * head_dim for every (query, key) pair that a query head's mask lets through: its two matrix products.
        flops_share: of the FLOPs of dense attention, (0, 1].
    """

    kv_read: float
    flops: float
    flops_share: float


def attention_cost(
    heads: torch.Tensor, lengths: Sequence[int], sink_size: int, window_size: int, num_kv_heads: int, head_dim: int
) -> Cost:
    """What the attention of hybrid prefills costs, counted exactly; mean over the prompts.

    Args:
        heads: bool [L, Hq], the dense ones.
        lengths: tokens of each prompt, without padding.
        sink_size, window_size: tokens of a streaming head; the window includes the query itself.
        num_kv_heads: Hkv; Hq / Hkv query heads in a row share one.
        head_dim: D.
    """
    L, Hq = heads.shape
    grouped = heads.view(L, num_kv_heads, Hq // num_kv_heads)
    query_heads, kv_heads = int(heads.sum()), int(grouped.any(dim=-1).sum())
    dense = sum(dense_pairs(n, n) for n in lengths)
    streaming = sum(streaming_pairs(n, n, sink_size, window_size) for n in lengths)
    pairs = query_heads * dense + (L * Hq - query_heads) * streaming
    entries = kv_heads * dense + (L * num_kv_heads - kv_heads) * streaming
    flops = 4 * head_dim * pairs / len(lengths)
    return Cost(entries / (L * num_kv_heads * dense), flops, pairs / (L * Hq * dense))
