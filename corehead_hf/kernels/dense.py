"""Dense causal attention by the fastest kernel that torch has for a device."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# torch prefers flash attention 2 by itself, which cuDNN beats 1.7 to 2.3 times on Hopper
# (huggingface/transformers#48163) and not on Ampere.
_FLASH_FIRST = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, *(b for b in _FLASH_FIRST if b != SDPBackend.CUDNN_ATTENTION)]


def dense_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention of every head, [B, T, Hq, D], by the fastest kernel torch has for the device; T == S."""
    gqa = query.shape[1] != key.shape[1]
    with fastest_dense(query.device):
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=gqa)
    return out.transpose(1, 2)


def fastest_dense(device: torch.device) -> AbstractContextManager[None]:
    """Inside, scaled_dot_product_attention takes the fastest of its kernels that the call allows."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9
    return sdpa_kernel(_CUDNN_FIRST if hopper else _FLASH_FIRST, set_priority=True)
