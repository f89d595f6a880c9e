"""Hybrid prefill attention as two launches side by side: torch's best kernel for the dense heads, ours for the rest.

The dense heads go first, on a stream of their own; the streaming heads' short tiles then fill what they leave idle.
cost.plan says when this pays: for long prompts, where the library's kernel is much faster than our dense tiles.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from corehead_hf.kernels import hybrid_prefill
from corehead_hf.kernels.dense import dense_attention


def separable(query: torch.Tensor, key: torch.Tensor, first_token: torch.Tensor | None) -> bool:
    """Whether the dense heads can be given to torch's causal kernel: no padding, no cached keys, no graph capture."""
    capturing = query.is_cuda and torch.cuda.is_current_stream_capturing()
    return first_token is None and query.shape[2] == key.shape[2] and not capturing


def hybrid_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: torch.Tensor,
    *,
    scaling: float,
    first_token: torch.Tensor | None = None,
    **sizes: Any,
) -> torch.Tensor:
    """As hybrid_prefill.hybrid_attention, with the dense heads in a kernel of their own; T == S and no padding.

    Raises:
        ValueError: there is padding, or a cache in front.
    """
    if first_token is not None or query.shape[2] != key.shape[2]:
        raise ValueError(
            "backend 'triton_two_launches' was asked with padding or with cached keys - torch's causal kernel takes "
            "neither - use 'triton', which then makes one launch."
        )
    B, Hq, T, D = query.shape
    group = Hq // key.shape[1]
    output = torch.empty(B, T, Hq, D, dtype=query.dtype, device=query.device)
    main, side = _streams(query.device)
    if side is not None:
        side.wait_stream(main)
    with torch.cuda.stream(side):  # nothing happens on a CPU
        for h in [h for h, dense in enumerate(heads.tolist()) if dense]:
            # One head a call: cuDNN then has one plan per length, whatever the number of dense heads.
            kv = slice(h // group, h // group + 1)
            output[:, :, h] = dense_attention(query[:, h : h + 1], key[:, kv], value[:, kv], scaling)[:, :, 0]
    hybrid_prefill.hybrid_attention(
        query, key, value, heads, scaling=scaling, **sizes, output=output, streaming_only=True
    )
    if side is not None:
        main.wait_stream(side)
    return output


def _streams(device: torch.device) -> tuple[Any, Any]:
    """The stream in use and the one beside it; None twice on a CPU."""
    return (torch.cuda.current_stream(device), _side_stream(device)) if device.type == "cuda" else (None, None)


@functools.lru_cache(maxsize=64)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
