"""Hybrid prefill attention as one Triton launch per layer: dense heads causal, the others sink + window.

A dense head is a streaming head whose window is the whole sequence: both run the same instructions, only the bounds of
the loop over key blocks differ. Which head is dense travels in a tensor, so no head set and no length compiles anew.

    key blocks of one tile of a streaming head, S = first real key ... last

        [sink][sink]   .   .   .   [edge][    ][    ][diag]
        whole blocks  never read   window's     causal
        unmasked                   left edge    edge: masked

Tiles are launched longest first on a plain grid: the hardware hands the next tile to whichever multiprocessor is free.
In a list-scheduling simulation (132 multiprocessors, 8K to 128K tokens, 1 or 2 dense heads) this order takes at most
1.005 of the ideal time, head after head 1.04, dense heads before the others without overlap 1.23.

Key blocks are counted from each sequence's first real token: left padding costs nothing and needs no mask, and sinks
are always the first blocks. Offsets that grow with the sequence are 64-bit scalars; those inside a block are 32-bit.
"""

from __future__ import annotations

import contextlib
import functools
import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from corehead_hf.kernels import tiles
from corehead_hf.kernels.tiles import Tile

_LOG2_E = math.log2(math.e)
# What changes from call to call. Triton would otherwise compile again where a number is 1 or a multiple of 16, or an
# address is one of 16 bytes: head_order starts in the middle of its tensor where only streaming heads are launched.
_VARYING = ["head_order", "first_token", "B", "T", "S", "num_dense", "num_heads", "window", "sink"]
_FAR = 1 << 30  # further than any token: a larger window or sink would become a 64-bit argument, and compile anew


@triton.jit
def _place(
    head_order, first_token, B, T, S, num_dense, num_heads, window, sink,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PADDED: tl.constexpr, SINK_CUT: tl.constexpr,
):  # fmt: skip
    """Program id -> what its tile computes. Positions count from the sequence's first real token.

    Returns head, batch, first query row, its position, window, first key, keys, then the block numbers and counts
    that _unmasked_block and _masked_block turn into key blocks. Without branches: the pass that specialises warps on
    Hopper gives up on an if with an else.
    """
    pid = tl.program_id(0)
    rows = tl.cdiv(T, BLOCK_M)
    dense = pid < num_dense * B * rows
    dense_heads = tl.maximum(num_dense, 1)
    streaming_heads = tl.maximum(num_heads - num_dense, 1)
    # Dense: the head is the fastest index, rows longest first. Streaming tiles are equally long; neighbours in
    # head_order share a kv head, so consecutive programs find their keys in the L2 cache.
    t = pid - num_dense * B * rows
    slot = tl.where(dense, pid % dense_heads, num_dense + t % streaming_heads)
    r = tl.where(dense, pid // dense_heads, t // streaming_heads)
    b = tl.where(dense, r % B, r // rows)
    m0 = (rows - 1 - tl.where(dense, r // B, r % rows)) * BLOCK_M
    h = tl.load(head_order + slot)
    start = 0
    if PADDED:
        start = tl.minimum(tl.maximum(tl.load(first_token + b), 0), S)
    n = S - start
    width = tl.where(dense, n, tl.minimum(window, n))
    p0 = m0 + S - T - start
    first = tl.maximum(p0, 0)
    last = tl.minimum(p0 + BLOCK_M, n) - 1
    end = tl.where((p0 + BLOCK_M > 0) & (n > 0), last // BLOCK_N + 1, 0)  # one past the last key block
    diagonal = tl.minimum(first // BLOCK_N, end)  # first block that the causal edge may cut
    sinks = tl.minimum(sink // BLOCK_N, end)  # whole sink blocks [0, sinks)
    low = tl.maximum(tl.minimum(tl.maximum(first - width + 1, 0) // BLOCK_N, end), sinks)  # window: [low, end)
    full = tl.minimum(tl.maximum(tl.cdiv(tl.maximum(last - width + 1, 0), BLOCK_N), low), end)  # no left edge from here
    free_sinks = tl.minimum(sinks, diagonal)
    num_free = free_sinks + tl.maximum(diagonal - full, 0)
    # Masked blocks in this order, as running sums: sinks on the diagonal, the sink block that its own end cuts,
    # the window's left edge, the causal edge.
    upto_sinks = sinks - free_sinks
    upto_cut = upto_sinks
    if SINK_CUT:
        upto_cut = upto_sinks + tl.where((sinks == sink // BLOCK_N) & (sinks < low), 1, 0)
    upto_edge = upto_cut + full - low
    causal = tl.maximum(full, diagonal)
    num_masked = upto_edge + end - causal
    return (
        h, b, m0, p0, width, start, n,
        sinks, low, full, causal, free_sinks, num_free, upto_sinks, upto_cut, upto_edge, num_masked,
    )  # fmt: skip


@triton.jit
def _unmasked_block(j, free_sinks, full):
    return tl.where(j < free_sinks, j, full + j - free_sinks)


@triton.jit
def _masked_block(j, sinks, low, causal, free_sinks, upto_sinks, upto_cut, upto_edge):
    edges = tl.where(j < upto_edge, low + j - upto_cut, causal + j - upto_edge)
    return tl.where(j < upto_sinks, free_sinks + j, tl.where(j < upto_cut, sinks, edges))


@triton.jit
def _mask(logits, block, positions, columns, width, sinks, sink,
          BLOCK_N: tl.constexpr, SINK_CUT: tl.constexpr, PTX: tl.constexpr):  # fmt: skip
    """A key is seen if 0 <= age < width, age = query position - key position; in a whole sink block at any age."""
    bound = tl.where(block < sinks, 2147483647, width)
    age = (positions - block * BLOCK_N)[:, None] - columns[None, :]
    if SINK_CUT:
        seen = (age >= 0) & ((age < bound) | (columns[None, :] < sink - block * BLOCK_N))
        logits = tl.where(seen, logits, float("-inf"))
    elif PTX:
        # The next line in PTX: up to Triton 3.8 LLVM packs the predicates into bit masks and unpacks them again,
        # 919 instructions per 128x128 step on sm_90 against 690 (486 without a mask).
        logits = tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.lt.u32 p, $2, $3; selp.f32 $0, $1, 0fFF800000, p; }",
            "=f,f,r,r", [logits, age, bound], dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        logits = tl.where(age.to(tl.uint32) < bound.to(tl.uint32), logits, float("-inf"))  # both edges at once
    return logits


@triton.jit
def _accumulate(acc, total, peak, logits, v, scale, PRECISION: tl.constexpr):
    """One step of the online softmax, in base 2."""
    # peak starts at a large negative number, not at -inf: a row without any key so far gives 0, never NaN
    new_peak = tl.maximum(peak, tl.max(logits, 1) * scale)
    p = tl.math.exp2(logits * scale - new_peak[:, None])
    decay = tl.math.exp2(peak - new_peak)
    total = total * decay + tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)
    return acc, total, new_peak


@triton.jit
def _store(Out, acc, total, b, h, m0, T, stride_ob: tl.int64, stride_ot, stride_oh: tl.int64,
           D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    # the rows of padding saw no key: 0 / 1
    out = acc * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    base = Out + b.to(tl.int64) * stride_ob + m0.to(tl.int64) * stride_ot + h * stride_oh
    inside = (rows[:, None] < T - m0) & (columns[None, :] < D)
    tl.store(base + rows[:, None] * stride_ot + columns[None, :], out.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def _load_block(X, base, stride, offsets, b, kv_head, start, n0, inside,
                D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
                DESCRIPTORS: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Keys or values [BLOCK_N, BLOCK_D] from position start + n0; what lies past the end reads as zero."""
    if DESCRIPTORS:
        return X.load([b, kv_head, start + n0, 0]).reshape(BLOCK_N, BLOCK_D)
    elif MASKED or D != BLOCK_D:
        return tl.load(base + n0.to(tl.int64) * stride + offsets, mask=inside, other=0.0)
    else:
        return tl.load(base + n0.to(tl.int64) * stride + offsets)


@triton.jit(do_not_specialize=_VARYING)
def hybrid_prefill_kernel(
    Q, K, V, Out, head_order, first_token,
    stride_qb: tl.int64, stride_qh: tl.int64, stride_qt, stride_kb: tl.int64, stride_kh: tl.int64, stride_kt,
    stride_vb: tl.int64, stride_vh: tl.int64, stride_vt, stride_ob: tl.int64, stride_ot, stride_oh: tl.int64,
    B, T, S, num_dense, num_heads, window, sink, scale,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr, DESCRIPTORS: tl.constexpr, PADDED: tl.constexpr, SINK_CUT: tl.constexpr,
    PRECISION: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Two loops: key blocks that every row of the tile sees whole, then those that an edge cuts. Every target."""
    (h, b, m0, p0, width, start, n, sinks, low, full, causal,
     free_sinks, num_free, upto_sinks, upto_cut, upto_edge, num_masked) = _place(
        head_order, first_token, B, T, S, num_dense, num_heads, window, sink, BLOCK_M, BLOCK_N, PADDED, SINK_CUT
    )  # fmt: skip
    kv_head = h // GROUP
    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    if DESCRIPTORS:
        q = Q.load([b, h, m0, 0]).reshape(BLOCK_M, BLOCK_D)
    else:
        base = Q + b.to(tl.int64) * stride_qb + h * stride_qh + m0.to(tl.int64) * stride_qt
        real = (rows[:, None] < T - m0) & (dims[None, :] < D)
        q = tl.load(base + rows[:, None] * stride_qt + dims[None, :], mask=real, other=0.0)
    first_key = (start + b * 0).to(tl.int64)  # start is a constant without padding
    k_base = K + b.to(tl.int64) * stride_kb + kv_head * stride_kh + first_key * stride_kt if not DESCRIPTORS else 0
    v_base = V + b.to(tl.int64) * stride_vb + kv_head * stride_vh + first_key * stride_vt if not DESCRIPTORS else 0
    k_offsets = columns[:, None] * stride_kt + dims[None, :]
    v_offsets = columns[:, None] * stride_vt + dims[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    peak = tl.full([BLOCK_M], -1.0e30, tl.float32)
    whole = dims[None, :] < D
    for j in tl.range(0, num_free, num_stages=STAGES):
        n0 = _unmasked_block(j, free_sinks, full) * BLOCK_N
        k = _load_block(
            K, k_base, stride_kt, k_offsets, b, kv_head, start, n0, whole, D, BLOCK_N, BLOCK_D, DESCRIPTORS, False
        )
        v = _load_block(
            V, v_base, stride_vt, v_offsets, b, kv_head, start, n0, whole, D, BLOCK_N, BLOCK_D, DESCRIPTORS, False
        )
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        acc, total, peak = _accumulate(acc, total, peak, logits, v, scale, PRECISION)
    for j in tl.range(0, num_masked, num_stages=STAGES):
        block = _masked_block(j, sinks, low, causal, free_sinks, upto_sinks, upto_cut, upto_edge)
        n0 = block * BLOCK_N
        inside = (columns[:, None] < n - n0) & (dims[None, :] < D)
        k = _load_block(
            K, k_base, stride_kt, k_offsets, b, kv_head, start, n0, inside, D, BLOCK_N, BLOCK_D, DESCRIPTORS, True
        )
        v = _load_block(
            V, v_base, stride_vt, v_offsets, b, kv_head, start, n0, inside, D, BLOCK_N, BLOCK_D, DESCRIPTORS, True
        )
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        logits = _mask(logits, block, p0 + rows, columns, width, sinks, sink, BLOCK_N, SINK_CUT, PTX)
        acc, total, peak = _accumulate(acc, total, peak, logits, v, scale, PRECISION)
    _store(Out, acc, total, b, h, m0, T, stride_ob, stride_ot, stride_oh, D, BLOCK_M, BLOCK_D)


@triton.jit(do_not_specialize=_VARYING)
def hybrid_prefill_warp_specialized_kernel(
    Q, K, V, Out, head_order, first_token,
    stride_qb: tl.int64, stride_qh: tl.int64, stride_qt, stride_kb: tl.int64, stride_kh: tl.int64, stride_kt,
    stride_vb: tl.int64, stride_vh: tl.int64, stride_vt, stride_ob: tl.int64, stride_ot, stride_oh: tl.int64,
    B, T, S, num_dense, num_heads, window, sink, scale,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr, DESCRIPTORS: tl.constexpr, PADDED: tl.constexpr, SINK_CUT: tl.constexpr,
    PRECISION: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """One loop, every block masked: with 4 warps on sm_90 it becomes one loading and two computing warp groups.

    Two loops crash Triton's pass (triton-lang/triton#9728). Q comes through a descriptor made here: the pass splits
    BLOCK_M over two groups and must rewrite the box of Q, which it cannot in one made by the host - Triton 3.6 and
    older then load wrong bytes without a word.
    """
    (h, b, m0, p0, width, start, n, sinks, low, full, causal,
     free_sinks, num_free, upto_sinks, upto_cut, upto_edge, num_masked) = _place(
        head_order, first_token, B, T, S, num_dense, num_heads, window, sink, BLOCK_M, BLOCK_N, PADDED, SINK_CUT
    )  # fmt: skip
    kv_head = h // GROUP
    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_N)
    queries = tl.make_tensor_descriptor(
        Q + b.to(tl.int64) * stride_qb + h * stride_qh, [T, D], [stride_qt, 1], [BLOCK_M, BLOCK_D]
    )
    q = queries.load([m0, 0])
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    peak = tl.full([BLOCK_M], -1.0e30, tl.float32)
    for j in tl.range(0, num_free + num_masked, num_stages=STAGES, warp_specialize=True):
        block = tl.where(
            j < num_free,
            _unmasked_block(j, free_sinks, full),
            _masked_block(j - num_free, sinks, low, causal, free_sinks, upto_sinks, upto_cut, upto_edge),
        )
        k = K.load([b, kv_head, start + block * BLOCK_N, 0]).reshape(BLOCK_N, BLOCK_D)
        v = V.load([b, kv_head, start + block * BLOCK_N, 0]).reshape(BLOCK_N, BLOCK_D)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        logits = _mask(logits, block, p0 + rows, columns, width, sinks, sink, BLOCK_N, SINK_CUT, PTX)
        acc, total, peak = _accumulate(acc, total, peak, logits, v, scale, PRECISION)
    _store(Out, acc, total, b, h, m0, T, stride_ob, stride_ot, stride_oh, D, BLOCK_M, BLOCK_D)


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
    tile: Tile | None = None,
    output: torch.Tensor | None = None,
    streaming_only: bool = False,
) -> torch.Tensor:
    """Prefill attention of one layer where some heads see everything and the others sink + window, in one launch.

    Args:
        query: [B, Hq, T, D], the last T of the S positions; float16, bfloat16 or float32; D from 16 to 256. It, key
            and value are read where they lie, at any strides, if D is contiguous; else they are copied first.
        key: [B, Hkv, S, D]; head h reads kv head h // (Hq // Hkv).
        value: [B, Hkv, S, D].
        heads: bool [Hq] on the CPU, True = dense.
        sink_size: tokens counted from the sequence's first real one, >= 0.
        window_size: tokens, the query itself included, >= 1.
        scaling: factor on the logits, > 0.
        first_token: int [B], the left-padding tokens of each sequence; None means none. It is not read on the host.
        tile: how the work is cut; None takes what fits the device, see tiles.py.
        output: [B, T, Hq, D] to write into, D contiguous; None makes one.
        streaming_only: leave the dense heads of `output` as they are; something else computes them.

    Returns:
        [B, T, Hq, D] in query's dtype; zeros where the query is padding.

    Raises:
        ValueError: dtype or head_dim is not supported.
        RuntimeError: a gradient would be needed: there is no backward pass.

    Cost: O(T * S * D) time for a dense head, O(T * (window + sink) * D) for a streaming one; no memory besides the
        output. No host synchronisation; a CUDA graph captures it after one call outside.
    """
    B, Hq, T, D = query.shape
    if query.dtype not in (torch.float16, torch.bfloat16, torch.float32) or not 16 <= D <= 256:
        raise ValueError(
            f"the triton kernel was asked for {query.dtype} with head_dim {D} - it takes float16, bfloat16 and float32 "
            "with head_dim 16 to 256 - use backend='banded'."
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        raise RuntimeError(
            "the triton kernel was asked for where gradients flow - it has no backward pass - use backend 'auto', "
            "'triton' or 'banded', or torch.no_grad()."
        )
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    if output is None:
        output = torch.empty(B, T, Hq, D, dtype=query.dtype, device=query.device)
    num_dense = int(heads.sum())
    order = _head_order(tuple(heads.tolist()), query.device)
    if streaming_only:
        order, num_heads, num_dense = order[num_dense:], Hq - num_dense, 0
    else:
        num_heads = Hq
    if num_heads == 0:
        return output
    if first_token is not None:
        first_token = first_token.to(query.device, torch.int32)
    sizes = (min(window_size, _FAR), min(sink_size, _FAR))
    numbers = (B, T, key.shape[2], num_dense, num_heads, *sizes, scaling * _LOG2_E)
    tensors = (query, key, value, output, order, first_token)
    if tile is not None:
        _launch(tensors, numbers, tile)
        return output
    describable = all(_describable(x) for x in (query, key, value))
    for tile in tiles.candidates(query.device, query.dtype, D, descriptors=describable):
        try:
            _launch(tensors, numbers, tile)
            return output
        except triton.runtime.errors.OutOfResources as error:  # the estimate was too low: never offer it again
            tiles.reject(query.device, query.dtype, D, tile, error)
    raise RuntimeError(f"no tile of the table fits {query.device} for {query.dtype} and head_dim {D}; see tiles.py.")


def _launch(tensors: tuple, numbers: tuple, tile: Tile) -> None:
    query, key, value, output, order, first_token = tensors
    B, T, _, _, num_heads, _, sink_size, _ = numbers
    Hq, D = query.shape[1], query.shape[3]
    block_d = triton.next_power_of_2(D)
    strides = [*query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *output.stride()[:3]]
    blocks = (tile.block_m, tile.block_n, tile.block_n)
    q, k, v = query, key, value
    if tile.descriptors:
        q, k, v = (_descriptor(x, rows, block_d) for x, rows in zip((query, key, value), blocks, strict=True))
    kernel = hybrid_prefill_kernel
    if tile.warp_specialize:
        kernel, q = hybrid_prefill_warp_specialized_kernel, query
        # the descriptor made on the device lives in a little global memory
        triton.set_allocator(lambda size, align, stream: torch.empty(size, dtype=torch.int8, device=query.device))
    nvidia = query.is_cuda and torch.version.hip is None
    # Triton launches on the current device, which in a model spread over several need not be the tensors'.
    with torch.cuda.device(query.device) if query.is_cuda else contextlib.nullcontext():
        kernel[(B * num_heads * triton.cdiv(T, tile.block_m),)](
            q, k, v, output, order, order if first_token is None else first_token, *strides, *numbers,
            GROUP=Hq // key.shape[1], D=D, BLOCK_D=block_d, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n,
            STAGES=tile.num_stages, DESCRIPTORS=tile.descriptors, PADDED=first_token is not None,
            SINK_CUT=sink_size % tile.block_n != 0, PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
            PTX=nvidia, num_warps=tile.num_warps, num_stages=tile.num_stages,
            enable_fp_fusion=True,  # Triton 3.10 turns it off by default
        )  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _head_order(heads: tuple[bool, ...], device: torch.device) -> torch.Tensor:
    """int32 [Hq] on the device: the dense heads, then the others. One per head set, so that calls copy nothing."""
    order = sorted(range(len(heads)), key=lambda h: not heads[h])
    return torch.tensor(order, dtype=torch.int32, device=device)


def _describable(tensor: torch.Tensor) -> bool:
    """Whether the hardware's descriptors can address it: 16-byte steps, and D a power of two, the width of a box."""
    size, D = tensor.element_size(), tensor.shape[3]
    steps = [stride for stride, length in zip(tensor.stride()[:3], tensor.shape[:3], strict=True) if length > 1]
    return D & (D - 1) == 0 and tensor.data_ptr() % 16 == 0 and all(step * size % 16 == 0 for step in steps)


def _descriptor(tensor: torch.Tensor, rows: int, width: int) -> TensorDescriptor:
    """Boxes [1, 1, rows, D] of [B, H, N, D] at any strides; rows past N read as zero, never as the next head's."""
    # a dimension of length 1 may carry any stride, but the hardware checks it
    strides = [s if n > 1 else width for s, n in zip(tensor.stride()[:3], tensor.shape[:3], strict=True)]
    return TensorDescriptor(tensor, list(tensor.shape), [*strides, 1], [1, 1, rows, width])
