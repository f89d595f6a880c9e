"""The hybrid mask for FlexAttention, its block lists written down directly.

create_block_mask evaluates the mask at all n * n positions (7 s at 16K on a CPU, out of memory at 128K); here a block's
kind follows from its corners. tests/benchmarks/test_flex_masks.py compares the two.
"""

from __future__ import annotations

import torch
from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128


def hybrid_block_mask(heads: torch.Tensor, n: int, sink: int, window: int, device: torch.device) -> BlockMask:
    """One mask for all heads of a prefill.

    Args:
        heads: bool [Hq], True = dense.
        n: tokens.
        sink, window: tokens a streaming head sees; the window includes the query itself.

    Returns:
        A BlockMask with [1, Hq, n / 128, n / 128] blocks.
    """
    dense = heads.to(device)

    def mask_mod(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (j <= i) & (dense[h] | (j > i - window) | (j < sink))

    kinds = {True: _lists(n, n, 0, device), False: _lists(n, window, sink, device)}
    per_head = [kinds[is_dense] for is_dense in heads.tolist()]
    lists = [torch.stack(each)[None] for each in zip(*per_head, strict=True)]
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=BLOCK, mask_mod=mask_mod, seq_lengths=(n, n))


def _lists(n: int, window: int, sink: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Number and indices of each row's partial blocks, then of its full ones."""
    first = torch.arange(0, n, BLOCK, device=device)
    last = first + BLOCK - 1
    i0, i1, j0, j1 = first[:, None], last[:, None].clamp(max=n - 1), first[None], last[None].clamp(max=n - 1)
    touched = (j0 <= i1) & ((j1 > i0 - window) | (j0 < sink))
    # every key from the sink's end on must be inside the window of the block's last query
    full = (j1 <= i0) & ((j1 < sink) | (j0.clamp(min=sink) > i1 - window))
    full &= (last[:, None] < n) & (last[None] < n)  # blocks that reach past n are never full
    return (*_sorted(touched & ~full), *_sorted(full))


def _sorted(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.argsort(blocks.to(torch.int8), dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32), order.to(torch.int32)
