"""What a decoder layer computes between its matrix products and attention: each one kernel, and its PyTorch form.

transformers runs every line of these formulas as a kernel of its own and moves the tensors through memory each time.
The Triton forms (fused_triton.py) read and write once and round where the chain of PyTorch operations rounds.

They are forward only. Where gradients are needed, under torch.compile (which fuses by itself), where Triton does not
run and for layouts the kernels do not take, the PyTorch form runs: the same formula, operation by operation. The one
exception is rms_norm without Triton, which is torch.nn.functional.rms_norm: it stays in float32 until after the
weight, so in half precision it rounds once where the chain rounds twice.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

_WIDEST_NORM = 32768  # columns of one program's tile


@functools.cache
def _triton() -> Any:
    try:
        from corehead_hf.kernels import fused_triton
    except ImportError:  # Triton is optional, and has no wheels on some systems
        return None
    return fused_triton


def triton_runs(device: torch.device | str) -> bool:
    """Whether the Triton forms run on a device: CUDA and ROCm, or any device in Triton's interpreter."""
    kernels = _triton()
    return kernels is not None and (kernels.INTERPRETED or torch.device(device).type == "cuda")


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm over the last dimension, as in Llama, Qwen2 and Qwen3.

        weight * (x / sqrt(mean(x^2) + eps)) with the mean and the quotient in float32, rounded before the weight

    Args:
        x: [..., H] floating; any strides.
        weight: [H] of x's dtype.
        eps: added to the mean square.

    Returns:
        [..., H] of x's dtype, contiguous.
    """
    if not needs_native(x, weight) and _fits(x, weight) and x.numel() and x.shape[-1] <= _WIDEST_NORM:
        return _triton().rms_norm(x, weight, eps)
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)


def norm_rope(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_weight: torch.Tensor | None = None,
    k_weight: torch.Tensor | None = None,
    q_eps: float = 1e-6,
    k_eps: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm of every head where a weight is given, then rotary positions, of queries and keys in one launch.

        x cos + rotate_half(x) sin,   rotate_half([a, b]) = [-b, a]

    Args:
        query: [B, Hq, T, D], usually the transposed view of a projection; Hq may be 0.
        key: [B, Hkv, T, D].
        cos, sin: [B or 1, T, D].
        q_weight, k_weight: [D] or None.
        q_eps, k_eps: added to the mean squares.

    Returns:
        (query, key) rotated, each in the memory order of its input.
    """
    weights = [weight for weight in (q_weight, k_weight) if weight is not None]
    if not needs_native(query, key, cos, sin, *weights) and _fits(query, key, cos, sin, *weights):
        if key.numel() and key.shape[-1] % 2 == 0 and cos.shape == sin.shape == (cos.shape[0], *key.shape[2:]):
            if all(x.stride(-1) == 1 for x in (query, key, cos, sin, *weights)):
                return _triton().norm_rope(query, key, cos, sin, (q_weight, k_weight), (q_eps, k_eps))
    if q_weight is not None:
        query = _rms_norm_chain(query, q_weight, q_eps)
    if k_weight is not None:
        key = _rms_norm_chain(key, k_weight, k_eps)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return query * cos + _rotate_half(query) * sin, key * cos + _rotate_half(key) * sin


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate), rounded, times up.

    Args:
        gate, up: one shape and dtype.

    Returns:
        The same shape and dtype.
    """
    if not needs_native(gate, up) and _fits(gate, up) and gate.numel() and gate.shape == up.shape:
        return _triton().silu_mul(gate, up)
    return torch.nn.functional.silu(gate) * up


def needs_native(*tensors: torch.Tensor) -> bool:
    """Whether a call must run the PyTorch operations: gradients are needed, or torch.compile is tracing it."""
    if torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _fits(*tensors: torch.Tensor) -> bool:
    first = tensors[0]
    if not triton_runs(first.device) or first.dtype not in _triton().DTYPES:
        return False
    return all(x.dtype == first.dtype and x.device == first.device for x in tensors)


def _rms_norm_chain(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)
