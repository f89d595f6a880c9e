"""Hybrid prefill attention in plain PyTorch: any device, any floating dtype, no mask over the whole sequence.

Queries go in chunks of rows. A streaming head reads, per chunk, only the keys these rows can see: the sinks,
and from the window of the first row up to the last row. The work is linear in T.

    S = 12, sink_size = 2, window_size = 4, chunk of rows 8..10     keys   0 1 2 3 4 5 6 7 8 9 10 11
    read: [0, 2) and [5, 11); the rest is never touched            row 8   1 1 . . . 1 1 1 1
                                                                   row 9   1 1 . . . . 1 1 1 1
                                                                   row 10  1 1 . . . . . 1 1 1 1

A dense head is a streaming head whose window is the whole sequence; where queries and keys are the same
positions it goes to torch's causal kernel in one piece. Arguments are checked by kernels.hybrid_attention.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

# A chunk of C rows reads C + window keys where each row needs only the window: small chunks waste less but
# make more calls. From 4K to 16K on a Xeon (AVX-512, one thread) 256 was best or level with 384, and ahead of
# 512 and more. A GPU wants fewer and larger launches; 1024 has not been tuned on one.
_CPU_CHUNK = 256
_DEVICE_CHUNK = 1024


class _HeadSet(NamedTuple):
    """Query heads and the kv heads they read, equally many per kv head: one attention call."""

    query: slice | torch.Tensor
    key: slice | torch.Tensor


def hybrid_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: torch.Tensor,
    *,
    sink_size: int,
    window_size: int,
    scaling: float,
    first_token: torch.Tensor | None = None,
    chunk_size: int | None = None,
) -> torch.Tensor:
    """Prefill attention of one layer where some heads see everything and the others sink + window.

    Args:
        query: [B, Hq, T, D], the last T of the S positions.
        key: [B, Hkv, S, D]; head h reads kv head h // (Hq // Hkv).
        value: [B, Hkv, S, D].
        heads: bool [Hq], True = dense.
        sink_size: tokens counted from the sequence's first real one, >= 0.
        window_size: tokens, the query itself included, >= 1.
        scaling: factor on the logits.
        first_token: int [B], the left-padding tokens of each sequence; None means none.
        chunk_size: query rows per attention call; None picks one for the device.

    Returns:
        [B, T, Hq, D] in query's dtype; zeros where the query is padding. Differentiable.

    Cost: a streaming head takes O(T * (chunk + window + sink) * D) time, its mask O(chunk * (chunk + window +
        sink)) memory; a dense head takes O(T * S * D) time, its mask O(chunk * S) memory, none if T == S.
        `heads` and `first_token` are read on the host: a device synchronisation if they are not on the CPU.
        Neighbouring sequences with equal padding share their calls, others run one after another.
    Limits: all heads dense is torch's own call, as in the native model; in float32 on CUDA torch has no fused
        kernel for grouped heads and may build a [T, S] matrix there.
    """
    B, Hq, T, D = query.shape
    S = key.shape[2]
    dense: list[bool] = heads.tolist()
    chunk = chunk_size or (_CPU_CHUNK if query.device.type == "cpu" else _DEVICE_CHUNK)
    output = torch.empty(B, T, Hq, D, dtype=query.dtype, device=query.device)
    for batch, first in _sequences(first_token, B):
        padding = min(T, max(0, first - (S - T)))  # query rows before the first real token
        output[batch, :padding] = 0
        if padding == T:
            continue
        real = (
            output[batch, padding:],
            query[batch, :, padding:],
            key[batch, :, first:],
            value[batch, :, first:],
        )
        _fill(*real, dense, sink_size, window_size, scaling, chunk)
    return output


def _sequences(first_token: torch.Tensor | None, B: int) -> list[tuple[slice, int]]:
    """Runs of neighbouring sequences with equal padding, as (slice of the batch, padding tokens)."""
    starts = [0] * B if first_token is None else first_token.tolist()
    runs: list[tuple[slice, int]] = []
    begin = 0
    for first, run in groupby(starts):
        end = begin + len(list(run))
        runs.append((slice(begin, end), first))
        begin = end
    return runs


def _fill(
    output: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dense: list[bool],
    sink: int,
    window: int,
    scaling: float,
    chunk: int,
) -> None:
    """Writes output [B, T, Hq, D] of sequences without padding, from the kernel's own shapes."""
    Hq, Hkv, T, S = query.shape[1], key.shape[1], query.shape[2], key.shape[2]
    if sink + window >= S:  # sink and window meet, even for the last query
        dense = [True] * Hq
    if all(dense) and T == S:
        # the very call of the native model, so that nothing changes by a single bit
        gqa = Hq != Hkv
        full = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=gqa)
        output.copy_(full.transpose(1, 2))
        return
    for subset in _head_sets(dense, Hkv, query.device):
        if T == S:
            q, k, v = query[:, subset.query], key[:, subset.key], value[:, subset.key]
            output[:, :, subset.query] = _attend(q, k, v, None, scaling)
        else:
            _fill_band(output, query, key, value, subset, 0, S, scaling, chunk)
    for subset in _head_sets([not is_dense for is_dense in dense], Hkv, query.device):
        _fill_band(output, query, key, value, subset, sink, window, scaling, chunk)


def _head_sets(chosen: list[bool], Hkv: int, device: torch.device) -> list[_HeadSet]:
    """Splits the chosen query heads into at most G calls that waste nothing.

    Any subset of a group's heads may be chosen. kv heads with equally many chosen heads form one rectangular
    [kv head, chosen head] call: with few dense heads, one for the untouched groups and one or two more.
    """
    group = len(chosen) // Hkv
    members = [[h for h in range(g * group, (g + 1) * group) if chosen[h]] for g in range(Hkv)]
    sets = []
    for size in range(1, group + 1):
        kv_heads = [g for g in range(Hkv) if len(members[g]) == size]
        if kv_heads:
            query_heads = [h for g in kv_heads for h in members[g]]
            sets.append(_HeadSet(_index(query_heads, device), _index(kv_heads, device)))
    return sets


def _index(heads: list[int], device: torch.device) -> slice | torch.Tensor:
    """A slice (a view, no copy) where the heads are neighbours, else an index tensor."""
    if heads[-1] - heads[0] == len(heads) - 1:
        return slice(heads[0], heads[-1] + 1)
    return torch.tensor(heads, device=device)


def _fill_band(
    output: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    subset: _HeadSet,
    sink: int,
    window: int,
    scaling: float,
    chunk: int,
) -> None:
    """Writes the heads of `subset` chunk by chunk, reading only sinks and window; shapes as in _fill."""
    T, S = query.shape[2], key.shape[2]
    mask, mask_of = None, None
    for start in range(0, T, chunk):
        stop = min(T, start + chunk)
        p0, p1 = start + S - T, stop + S - T
        low = max(0, p0 - window + 1)
        # a window that reaches the sinks makes one piece with them
        sinks, low = (sink, low) if sink < low else (0, 0)
        if mask_of != (stop - start, p0 - low, sinks):  # all chunks past the first few share one mask
            mask = _chunk_mask(p0, p1, low, sinks, sink, window, query)
            mask_of = (stop - start, p0 - low, sinks)
        q = query[:, subset.query, start:stop]
        k, v = (_visible(x, subset.key, sinks, low, p1) for x in (key, value))
        output[:, start:stop, subset.query] = _attend(q, k, v, mask, scaling)


def _visible(tensor: torch.Tensor, heads: slice | torch.Tensor, sinks: int, low: int, high: int) -> torch.Tensor:
    """Positions [0, sinks) and [low, high) of some heads of [B, Hkv, S, D]; nothing else is copied."""
    window = tensor[:, heads, low:high]
    return torch.cat((tensor[:, heads, :sinks], window), dim=2) if sinks else window


def _chunk_mask(p0: int, p1: int, low: int, sinks: int, sink: int, window: int, like: torch.Tensor) -> torch.Tensor:
    """Additive mask [p1 - p0, sinks + p1 - low] of queries [p0, p1) over keys [0, sinks) and [low, p1).

    Additive, because torch turns a bool mask into this form on every call, and this one is used many times.
    """
    i = torch.arange(p0, p1, device=like.device)[:, None]
    j = torch.cat((torch.arange(sinks, device=like.device), torch.arange(low, p1, device=like.device)))
    hidden = (j > i) | ((j <= i - window) & (j >= sink))
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Attention of [B, H, T, D] on [B, kv, K, D] as [B, T, H, D]; a mask of None means causal with T == K.

    The kv heads become the batch and each is shared by a stride of 0, not by enable_gqa: on CUDA the fused
    kernel that takes a mask knows no grouped heads, so torch would build the scores; it accepts the stride
    (https://github.com/pytorch/pytorch/pull/191085).
    """
    B, H, T, D = query.shape
    kv_heads = key.shape[1]
    group = H // kv_heads
    q = query.reshape(B * kv_heads, group, T, D)
    k, v = (x.reshape(B * kv_heads, 1, x.shape[2], D).expand(-1, group, -1, -1) for x in (key, value))
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return out.reshape(B, kv_heads, group, T, D).permute(0, 3, 1, 2, 4).reshape(B, T, H, D)
