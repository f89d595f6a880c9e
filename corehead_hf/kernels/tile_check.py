"""Whether a tile computes the right thing on this machine: against float64, in every variant the kernel compiles to.

Tiles that specialise warps may be wrong without a word, or never end. `check_apart` runs them in a process of its own,
which ends by itself when its time is up.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import subprocess
import sys
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from corehead_hf import reference
from corehead_hf.kernels.tiles import Tile
from corehead_hf.kernels.trial import Layer, one_launch, reason

# (padding and cached keys, a sink that ends inside a key block): each pair is another compiled kernel
VARIANTS = tuple(itertools.product((False, True), repeat=2))
_TOKENS, _CACHED, _WINDOW = 512, 64, 160
_GRACE = 5  # seconds that a process gets to end by itself


def check(tile: Tile, layer: Layer, padded: bool = False, cut: bool = False) -> str | None:
    """Runs a tile on 512 random tokens of two kv heads; the error may be twice that of torch in the same dtype.

    Error = root mean square of the worst head, against float64.

    Args:
        tile: what to check.
        layer: its device, dtype, head_dim and group size are used.
        padded: two sequences, one of them padded, after cached keys.
        cut: a sink that ends inside a key block.

    Returns:
        None, or why the tile is not to be used: what it raised, or how far off it was.
    """
    from corehead_hf.kernels import hybrid_prefill

    sink = tile.block_n + (tile.block_n // 2 if cut else 0)
    case = _case(layer, sink, padded)
    B, Hq, T, D = case.query.shape
    output = torch.full((B, T, Hq, D), float("nan"), dtype=layer.dtype, device=layer.device)
    try:
        hybrid_prefill.hybrid_attention(
            case.query, case.key, case.value, case.heads, sink_size=sink, window_size=_WINDOW, scaling=layer.scaling,
            first_token=case.first_token, tile=tile, output=output,
        )  # fmt: skip
        error = _error(output, case.truth)
    except Exception as problem:  # whatever a compiler or a driver raises
        return reason(problem)
    if error <= case.allowed:
        return None
    return f"wrong: its error is {error:.1e}, {case.allowed:.1e} is allowed (padded={padded}, sink_size={sink})"


def check_all(tile: Tile, layer: Layer) -> str | None:
    """`check` in every variant, then once at the layer's own length; as `check` returns."""
    for padded, cut in VARIANTS:
        if problem := check(tile, layer, padded, cut):
            return problem
    try:
        result = one_launch(tile, layer, layer.tensors(layer.length), 1)()
        return None if bool(result.isfinite().all()) else f"wrong: not finite at {layer.length} tokens"
    except Exception as problem:
        return reason(problem)


_CHILD = """
import os, pickle, sys, threading
sys.path[:] = pickle.load(sys.stdin.buffer)
watch = threading.Timer(pickle.load(sys.stdin.buffer), os._exit, [3])
watch.daemon = True
watch.start()
tile, layer = pickle.load(sys.stdin.buffer)
from corehead_hf.kernels.tile_check import check_all
sys.exit(check_all(tile, layer))
"""


def check_apart(tile: Tile, layer: Layer, seconds: float) -> str | None:
    """`check_all` in a process of its own, which is ended after `seconds`; as `check` returns."""
    task = b"".join(pickle.dumps(part) for part in (sys.path, seconds, (tile, layer)))
    try:
        child = subprocess.run(
            [sys.executable, "-c", _CHILD], input=task, capture_output=True, timeout=seconds + _GRACE
        )
    except subprocess.TimeoutExpired:
        return _too_long(seconds)
    if child.returncode == 0:
        return None
    if child.returncode == 3:
        return _too_long(seconds)
    said = child.stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"its process ended with status {child.returncode}"


@dataclass(frozen=True, eq=False)
class _Case:
    """Arguments of the kernel, the truth [B, T, Hq, D] in float64, and the error that is allowed."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    heads: torch.Tensor
    first_token: torch.Tensor | None
    truth: torch.Tensor
    allowed: float


@functools.lru_cache(maxsize=16)  # the tiles of a table have few block_n
def _case(layer: Layer, sink: int, padded: bool) -> _Case:
    small = Layer(layer.device, layer.dtype, layer.head_dim, 2 * layer.group, 2, sink, _WINDOW, _TOKENS)
    query, key, value = small.tensors(_TOKENS, 1 + padded, _CACHED * padded)
    heads = small.heads(1)
    first_token = torch.tensor([_CACHED + 13, 0]) if padded else None
    truth = reference.hybrid_attention(query, key, value, heads, **small.settings, first_token=first_token)
    mask = reference.hybrid_mask(heads, _TOKENS, key.shape[2], sink, _WINDOW, first_token).to(layer.device)
    keys, values = (x.repeat_interleave(layer.group, dim=1) for x in (key, value))
    torchs = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=layer.scaling)
    torchs = torch.where(mask.any(dim=-1, keepdim=True), torchs, 0).transpose(1, 2)
    return _Case(query, key, value, heads, first_token, truth, 2 * _error(torchs, truth))


def _error(result: torch.Tensor, truth: torch.Tensor) -> float:
    return float((result.double() - truth).square().mean(dim=(1, 3)).sqrt().max())


def _too_long(seconds: float) -> str:
    return f"not done after {seconds:g} s, it may hang"
