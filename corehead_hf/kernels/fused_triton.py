"""Triton kernels of fused_ops.py: RMSNorm, q/k norm with rotary positions in one launch, SiLU times up.

Every step rounds to the tensor's dtype where transformers' chain of PyTorch operations rounds; in between is float32.
Sizes of a model are compile-time constants, what grows with the sequence is a plain number: no length compiles anew.
Row offsets are 64-bit. Imported only where Triton is installed; arguments are checked by the caller.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl

_ELEMENTS = 4096  # of one program's tile: at 4 to 8 warps it stays in registers
_MOST_WARPS = 16
# FP fusion is the default up to Triton 3.8; from 3.9 on an unset one warns. No step here depends on it.
_OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}


@triton.jit(do_not_specialize=["num_rows"])
def rms_norm_kernel(
    x, weight, out, num_rows, row_stride, eps,
    H: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS rows of x [num_rows, H] at a time; out is contiguous. COLUMNS is H rounded up to a power of two."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = (row < num_rows)[:, None] & (column < H)[None, :]
    value = tl.load(x + row[:, None] * row_stride + column[None, :], mask=inside, other=0.0)
    wide = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / H + eps)
    normed = (wide * scale[:, None]).to(value.dtype)
    factor = tl.load(weight + column, mask=column < H, other=0.0)[None, :]
    result = factor.to(tl.float32) * normed.to(tl.float32)
    tl.store(out + row[:, None] * H + column[None, :], result.to(value.dtype), mask=inside)


@triton.jit
def _product(a, b):
    """a * b, rounded to their dtype."""
    return (a.to(tl.float32) * b.to(tl.float32)).to(a.dtype)


@triton.jit
def _rotate_rows(
    x, weight, out, cos, sin, block, batch, T, eps, x_b, x_h, x_t, out_b, out_h, out_t, cos_b, cos_t, sin_b, sin_t,
    HEADS: tl.constexpr, HALF: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """ROWS (token, head) pairs of one sequence: each half of the head is a tile, so that rotating moves nothing."""
    row = block * ROWS + tl.arange(0, ROWS)
    token, head = (row // HEADS).to(tl.int64), (row % HEADS).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = (token < T)[:, None] & (column < HALF)[None, :]
    source = x + (batch * x_b + head * x_h + token * x_t)[:, None] + column[None, :]
    first = tl.load(source, mask=inside, other=0.0)
    second = tl.load(source + HALF, mask=inside, other=0.0)
    if NORM:
        a, b = first.to(tl.float32), second.to(tl.float32)
        scale = tl.rsqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / (2 * HALF) + eps)[:, None]
        low = tl.load(weight + column, mask=column < HALF, other=0.0)[None, :]
        high = tl.load(weight + HALF + column, mask=column < HALF, other=0.0)[None, :]
        first = _product((a * scale).to(first.dtype), low)
        second = _product((b * scale).to(second.dtype), high)
    c = cos + (batch * cos_b + token * cos_t)[:, None] + column[None, :]
    s = sin + (batch * sin_b + token * sin_t)[:, None] + column[None, :]
    left = _product(first, tl.load(c, mask=inside, other=0.0)).to(tl.float32)
    left -= _product(second, tl.load(s, mask=inside, other=0.0)).to(tl.float32)
    right = _product(second, tl.load(c + HALF, mask=inside, other=0.0)).to(tl.float32)
    right += _product(first, tl.load(s + HALF, mask=inside, other=0.0)).to(tl.float32)
    target = out + (batch * out_b + head * out_h + token * out_t)[:, None] + column[None, :]
    tl.store(target, left.to(first.dtype), mask=inside)
    tl.store(target + HALF, right.to(first.dtype), mask=inside)


@triton.jit(do_not_specialize=["T"])
def norm_rope_kernel(
    q, k, q_weight, k_weight, q_out, k_out, cos, sin, T, q_eps, k_eps,
    q_b, q_h, q_t, k_b, k_h, k_t, qo_b, qo_h, qo_t, ko_b, ko_h, ko_t, cos_b, cos_t, sin_b, sin_t,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HALF: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    NORM_Q: tl.constexpr, NORM_K: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of query rows, then blocks of key rows; sequences)."""
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    q_blocks = tl.cdiv(T * Q_HEADS, ROWS)
    if block < q_blocks:
        _rotate_rows(
            q, q_weight, q_out, cos, sin, block, batch, T, q_eps, q_b, q_h, q_t, qo_b, qo_h, qo_t,
            cos_b, cos_t, sin_b, sin_t, Q_HEADS, HALF, COLUMNS, ROWS, NORM_Q,
        )  # fmt: skip
    else:
        _rotate_rows(
            k, k_weight, k_out, cos, sin, block - q_blocks, batch, T, k_eps, k_b, k_h, k_t, ko_b, ko_h, ko_t,
            cos_b, cos_t, sin_b, sin_t, K_HEADS, HALF, COLUMNS, ROWS, NORM_K,
        )  # fmt: skip


@triton.jit(do_not_specialize=["num_steps"])
def silu_mul_kernel(gate, up, out, num_steps, STEP: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK of num_steps * STEP elements. The step tells the compiler that the mask never cuts a wide load."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < num_steps.to(tl.int64) * STEP
    value = tl.load(gate + index, mask=inside, other=0.0)
    wide = value.to(tl.float32)
    activated = (wide / (1.0 + tl.exp(-wide))).to(value.dtype)
    tl.store(out + index, _product(activated, tl.load(up + index, mask=inside, other=0.0)), mask=inside)


# Under TRITON_INTERPRET=1, set before Triton is imported, kernels are Python functions that run on any device.
INTERPRETED = not isinstance(silu_mul_kernel, triton.runtime.JITFunction)
# The interpreter cuts bfloat16 off where a GPU rounds.
DTYPES = (torch.float32, torch.float16) if INTERPRETED else (torch.float32, torch.float16, torch.bfloat16)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """As fused_ops.rms_norm. x [..., H] of one dtype and device with weight."""
    H = x.shape[-1]
    rows = x.reshape(-1, H)
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    columns = triton.next_power_of_2(H)
    block = max(_ELEMENTS // 4 // columns, 1)
    grid = (triton.cdiv(len(rows), block),)
    with _on(x):
        rms_norm_kernel[grid](
            rows, weight, out, len(rows), rows.stride(0), eps,
            H=H, COLUMNS=columns, ROWS=block, num_warps=_warps(block * columns), **_OPTIONS,
        )  # fmt: skip
    return out


def norm_rope(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    weights: tuple[torch.Tensor | None, torch.Tensor | None],
    eps: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """As fused_ops.norm_rope: query [B, Hq, T, D], key [B, Hkv, T, D], the last stride 1 everywhere."""
    B, Hq, T, D = query.shape
    Hkv = key.shape[1]
    q_out, k_out = torch.empty_like(query), torch.empty_like(key)
    columns = triton.next_power_of_2(D // 2)
    rows = max(_ELEMENTS // (2 * columns), 1)
    grid = (triton.cdiv(T * Hq, rows) + triton.cdiv(T * Hkv, rows), B)
    tables = [step for table in (cos, sin) for step in (table.stride(0) if table.shape[0] > 1 else 0, table.stride(1))]
    q_weight, k_weight = (cos if weight is None else weight for weight in weights)  # a pointer that is never read
    strides = [step for x in (query, key, q_out, k_out) for step in x.stride()[:3]]
    with _on(query):
        norm_rope_kernel[grid](
            query, key, q_weight, k_weight, q_out, k_out, cos, sin, T, *eps, *strides, *tables,
            Q_HEADS=Hq, K_HEADS=Hkv, HALF=D // 2, COLUMNS=columns, ROWS=rows,
            NORM_Q=weights[0] is not None, NORM_K=weights[1] is not None, num_warps=8, **_OPTIONS,
        )  # fmt: skip
    return q_out, k_out


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """As fused_ops.silu_mul: two tensors of one shape and dtype."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    count, block = gate.numel(), _ELEMENTS // 2
    step = 16 if count % 16 == 0 else 1
    with _on(gate):
        silu_mul_kernel[(triton.cdiv(count, block),)](
            gate, up, out, count // step, STEP=step, BLOCK=block, num_warps=4, **_OPTIONS
        )
    return out


def _warps(elements: int) -> int:
    return min(max(elements // 512, 4), _MOST_WARPS)


def _on(x: torch.Tensor) -> Any:
    # Triton launches on the current device, which in a model spread over several need not be the tensor's.
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
