"""What the kernels' tests share: problems with known answers, and how good a result must be."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from corehead_hf import reference

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CPU_AND_GPU = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def case(T, S, Hkv=2, G=4, B=2, D=16, dtype=torch.float32, device="cpu", dense=(1,)):
    generator = torch.Generator().manual_seed(T * 1009 + S)
    shapes = ((B, G * Hkv, T, D), (B, Hkv, S, D), (B, Hkv, S, D))
    query, key, value = (torch.randn(s, generator=generator).to(device, dtype) for s in shapes)
    heads = torch.zeros(G * Hkv, dtype=torch.bool)
    heads[list(dense)] = True
    return SimpleNamespace(query=query, key=key, value=value, heads=heads, scaling=D**-0.5)


def run(attend, c, sink, window, first_token=None, **kwargs):
    settings = {"sink_size": sink, "window_size": window, "scaling": c.scaling, "first_token": first_token}
    return attend(c.query, c.key, c.value, c.heads, **settings, **kwargs)


def masked_torch(c, sink, window, first_token=None):
    """torch in the same dtype, with the whole mask; keys repeated, or its CUDA kernel for masks stays out."""
    T, S, G = c.query.shape[2], c.key.shape[2], c.query.shape[1] // c.key.shape[1]
    mask = reference.hybrid_mask(c.heads, T, S, sink, window, first_token).to(c.query.device)
    key, value = c.key.repeat_interleave(G, dim=1), c.value.repeat_interleave(G, dim=1)
    out = scaled_dot_product_attention(c.query, key, value, attn_mask=mask, scale=c.scaling)
    return torch.where(mask.any(dim=-1, keepdim=True), out, 0).transpose(1, 2)


def error(result, truth):
    """Root mean square of the worst head of [B, T, Hq, D].

    The worst element would be luck: it differs by 2.4 between torch's own calls for the same rows, all at once or 32
    at a time.
    """
    return (result.double() - truth).square().mean(dim=(1, 3)).sqrt().max()


def assert_as_good_as_torch(result, c, sink, window, first_token=None):
    """The error against float64 is at most twice that of torch in the same dtype."""
    truth = run(reference.hybrid_attention, c, sink, window, first_token)
    assert result.dtype == c.query.dtype
    assert result.shape == truth.shape
    assert error(result, truth) <= 2 * error(masked_torch(c, sink, window, first_token), truth)


def causal_torch(c):
    settings = {"is_causal": True, "scale": c.scaling, "enable_gqa": c.query.shape[1] != c.key.shape[1]}
    return scaled_dot_product_attention(c.query, c.key, c.value, **settings).transpose(1, 2)
