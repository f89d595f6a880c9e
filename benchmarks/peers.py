"""Other people's kernels as providers: dense ones to be measured against, sparse ones with the same mask.

A builder raises ImportError where its package is missing. What it returns gives [1, T, Hq, D]; sampled rows are checked
before anything is timed, so a peer that reads its window differently is reported and left out.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.flex_masks import hybrid_block_mask

Call = Callable[[], torch.Tensor]
Around = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer's prefill: query [1, Hq, T, D], key and value [1, Hkv, T, D], heads bool [Hq] on the CPU."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    heads: torch.Tensor
    sink: int
    window: int

    @property
    def n(self) -> int:
        return self.query.shape[2]

    @property
    def group(self) -> int:
        return self.query.shape[1] // self.key.shape[1]

    @property
    def scaling(self) -> float:
        return self.query.shape[3] ** -0.5

    @property
    def qkv(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.query, self.key, self.value


def dense(problem: Problem) -> torch.Tensor:
    gqa = problem.group > 1
    return scaled_dot_product_attention(*problem.qkv, is_causal=True, enable_gqa=gqa).transpose(1, 2)


def dense_providers(device: torch.device, dtype: str) -> dict[str, Around]:
    """What dense attention runs under, by provider name: torch's two fast kernels, or its only one."""
    if device.type != "cuda" or dtype == "float32":
        return {"dense": contextlib.nullcontext}
    return {
        "dense_cudnn": functools.partial(sdpa_kernel, [SDPBackend.CUDNN_ATTENTION]),
        "dense_flash": functools.partial(sdpa_kernel, [SDPBackend.FLASH_ATTENTION]),
    }


def flash_attention_provider(version: str) -> Around:
    """FA3 or FA4 behind SDPA's flash kernel, where their package and torch >= 2.11 are installed."""
    importlib.import_module({"FA3": "flash_attn_interface", "FA4": "flash_attn.cute.interface"}[version])
    if not hasattr(torch.nn.attention, "activate_flash_attention_impl"):
        raise ImportError(f"{version} behind SDPA needs torch 2.11, this is {torch.__version__}")

    @contextlib.contextmanager
    def activated() -> Iterator[None]:
        torch.nn.attention.activate_flash_attention_impl(version)
        try:
            with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
                yield
        finally:
            torch.nn.attention.restore_flash_attention_impl()

    return activated


def flex(problem: Problem) -> Call:
    """Compiled FlexAttention, one launch for all heads; the first call compiles."""
    from torch.nn.attention.flex_attention import flex_attention

    # each length and head set compiles anew; past the limit torch would run it uncompiled, with an n x n matrix
    torch._dynamo.config.recompile_limit = 256
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    mask = hybrid_block_mask(problem.heads, problem.n, problem.sink, problem.window, problem.query.device)
    gqa = problem.group > 1
    return lambda: compiled(*problem.qkv, block_mask=mask, scale=problem.scaling, enable_gqa=gqa).transpose(1, 2)


def block_sparse(problem: Problem) -> Call:
    """Block-Sparse-Attention's token streaming: dense and streaming heads in one launch.

    Source: github.com/mit-han-lab/Block-Sparse-Attention, block_sparse_attn_interface.py. Not run here: it is on no
    package index and builds from source.
    """
    from block_sparse_attn import token_streaming_attn_func

    device, count = problem.query.device, len(problem.heads)
    query, key, value = (x[0].transpose(0, 1) for x in problem.qkv)  # [T, H, D]
    bounds = torch.tensor([0, problem.n], dtype=torch.int32, device=device)
    kinds = torch.where(problem.heads, 0, -1).to(device, torch.int32)
    sizes = torch.tensor([problem.sink, problem.window] * count, dtype=torch.int32, device=device)
    lengths = {"max_seqlen_q_": problem.n, "max_seqlen_k_": problem.n, "softmax_scale": problem.scaling}
    return lambda: token_streaming_attn_func(query, key, value, bounds, bounds, kinds, sizes, **lengths)[None]


def a_shape(problem: Problem) -> Call:
    """MInference's A-shape kernel for the streaming heads, SDPA for the dense ones.

    Its kernel wants K and V repeated to the query heads, which is part of its time. Source:
    github.com/microsoft/MInference, minference/ops/streaming_kernel.py. Not run here: it has no wheel.
    """
    from minference.ops.streaming_kernel import streaming_forward

    device = problem.query.device
    is_dense, streams = (x.nonzero().flatten().to(device) for x in (problem.heads, ~problem.heads))

    def of_heads(heads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kv_heads = heads // problem.group
        return problem.query[:, heads], problem.key[:, kv_heads], problem.value[:, kv_heads]

    def run() -> torch.Tensor:
        output = torch.empty_like(problem.query.transpose(1, 2))
        if len(streams):
            output[:, :, streams] = streaming_forward(*of_heads(streams), problem.sink, problem.window).transpose(1, 2)
        if len(is_dense):
            output[:, :, is_dense] = scaled_dot_product_attention(*of_heads(is_dense), is_causal=True).transpose(1, 2)
        return output

    return run


# name -> builder, and whether it needs CUDA
PEERS: dict[str, tuple[Callable[[Problem], Call], bool]] = {
    "flex": (flex, False),
    "block_sparse": (block_sparse, True),
    "minference_a_shape": (a_shape, True),
}
