"""Hybrid prefill attention: checks the arguments once and hands them to a backend.

A backend is a function of the same keywords; it may trust its arguments. A new backend is one file here and
one row in BACKENDS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from corehead_hf import reference
from corehead_hf.kernels import banded


def _reference(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return reference.hybrid_attention(query, *args, **kwargs).to(query.dtype)


BACKENDS: Mapping[str, Callable[..., torch.Tensor]] = {
    "banded": banded.hybrid_attention,
    "reference": _reference,
}


def resolve_backend(name: str, device: torch.device | str) -> str:
    """The name of the backend that `hybrid_attention(..., backend=name)` runs on a device.

    Args:
        name: "auto" or a key of BACKENDS.
        device: where query, key and value are.

    Returns:
        A key of BACKENDS.

    Raises:
        ValueError: there is no such backend, or it cannot run on the device.
    """
    if name == "auto":
        return "banded"
    if name not in BACKENDS:
        raise ValueError(
            f"backend {name!r} was asked for - available: {', '.join(['auto', *sorted(BACKENDS)])} - "
            "choose one of these."
        )
    if name == "reference" and torch.device(device).type == "mps":
        raise ValueError(
            f"backend 'reference' was asked for on {device} - it computes in float64, missing there - "
            "use 'auto', or move the tensors to the CPU."
        )
    return name


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
    backend: str = "auto",
) -> torch.Tensor:
    """Prefill attention of one layer where some heads see everything and the others sink + window.

        query t stands at p = S - T + t and attends key j if  first_token <= j <= p  and, in a streaming head,
        also  (j - first_token < sink_size  or  p - window_size < j)

    Args:
        query: [B, Hq, T, D], after RoPE, the last T of the S positions; any strides.
        key: [B, Hkv, S, D], after RoPE; head h reads kv head h // (Hq // Hkv).
        value: [B, Hkv, S, D].
        heads: bool [Hq], True = dense, False = streaming. Keep it on the CPU: "banded" reads it on the host,
            which waits for the device if it lies there.
        sink_size: tokens counted from the sequence's first real one, >= 0.
        window_size: tokens, the query itself included, >= 1.
        scaling: factor on the logits, usually 1 / sqrt(D).
        first_token: int [B], the left-padding tokens of each sequence, on the CPU for the same reason; None
            means none.
        backend: "auto" or a key of BACKENDS.

    Returns:
        [B, T, Hq, D] in query's dtype; zeros where the query itself is padding.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes, devices, sizes or the backend do not fit.

    Source: arXiv 2606.05843, the hybrid prefill. Reference form: reference.hybrid_attention.
    """
    run = BACKENDS[resolve_backend(backend, query.device)]
    _check_tensors(query, key, value)
    _check_heads(heads, query.shape[1])
    check_sizes(sink_size, window_size)
    if not math.isfinite(scaling):
        raise ValueError(
            f"scaling={scaling} was given - logits must be finite - pass a number like 1 / sqrt(head_dim)."
        )
    if first_token is not None:
        first_token = first_token.cpu()
        _check_first_token(first_token, query.shape[0], key.shape[2])
    return run(
        query,
        key,
        value,
        heads,
        sink_size=sink_size,
        window_size=window_size,
        scaling=scaling,
        first_token=first_token,
    )


def _check_tensors(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    q, k, v = (tuple(x.shape) for x in (query, key, value))
    shapes = f"query {q}, key {k} and value {v} were given"
    if not len(q) == len(k) == len(v) == 4:
        raise ValueError(f"{shapes} - all need four dimensions - pass [B, Hq, T, D] and [B, Hkv, S, D] twice.")
    if k != v or (q[0], q[3]) != (k[0], k[3]):
        raise ValueError(
            f"{shapes} - batch and head_dim are shared, and key and value have one shape - "
            "pass [B, Hq, T, D] and [B, Hkv, S, D] twice."
        )
    if 0 in q + k:
        raise ValueError(f"{shapes} - attention over nothing is undefined - leave out calls with an empty dimension.")
    if q[1] % k[1]:
        raise ValueError(
            f"{shapes} - {q[1]} query heads cannot be shared out over {k[1]} kv heads - "
            "pass a multiple; are dimensions 1 and 2 swapped?"
        )
    if q[2] > k[2]:
        raise ValueError(
            f"{shapes} - the {q[2]} queries are the last of the {k[2]} key positions - "
            "pass at least as many keys; with a cache, all keys including the cached ones."
        )
    dtypes, devices = [{getattr(x, name) for x in (query, key, value)} for name in ("dtype", "device")]
    if len(dtypes) > 1 or not query.is_floating_point():
        raise TypeError(
            f"query, key and value of {query.dtype}, {key.dtype} and {value.dtype} were given - "
            "one floating dtype is needed - convert them."
        )
    if len(devices) > 1:
        raise ValueError(
            f"query, key and value on {query.device}, {key.device} and {value.device} were given - "
            "one device is needed - move them."
        )


def _check_heads(heads: torch.Tensor, Hq: int) -> None:
    if heads.dtype != torch.bool:
        raise TypeError(f"heads of {heads.dtype} were given - True = dense, False = streaming - pass bool [{Hq}].")
    if tuple(heads.shape) != (Hq,):
        raise ValueError(
            f"heads of shape {tuple(heads.shape)} were given - query has {Hq} heads - pass one layer's bool [{Hq}]."
        )


def check_sizes(sink_size: int, window_size: int) -> None:
    """Raises TypeError or ValueError unless sink_size >= 0 and window_size >= 1 are ints."""
    for name, size, least in (("sink_size", sink_size, 0), ("window_size", window_size, 1)):
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{name}={size!r} was given - it counts tokens - pass an int of at least {least}.")
        if size < least:
            raise ValueError(
                f"{name}={size} was given - "
                + ("a query is in its own window" if least else "it counts tokens")
                + f" - pass at least {least}."
            )


def _check_first_token(first_token: torch.Tensor, B: int, S: int) -> None:
    if first_token.is_floating_point() or first_token.is_complex() or first_token.dtype == torch.bool:
        raise TypeError(
            f"first_token of {first_token.dtype} was given - it counts padding tokens - pass an integer tensor [{B}]."
        )
    if tuple(first_token.shape) != (B,):
        raise ValueError(
            f"first_token of shape {tuple(first_token.shape)} was given - the batch has {B} sequences - pass [{B}]."
        )
    starts = first_token.tolist()
    if min(starts) < 0 or max(starts) > S:
        raise ValueError(
            f"first_token {starts} was given - a sequence of {S} keys has 0 to {S} padding tokens - "
            "pass the number of left-padding tokens of each sequence."
        )
