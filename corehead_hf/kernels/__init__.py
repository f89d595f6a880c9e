"""Hybrid prefill attention: checks the arguments once and hands them to a backend.

A backend is a function of the same keywords; it may trust its arguments. A new backend is one file here and
one row in BACKENDS.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from corehead_hf import reference
from corehead_hf.kernels import banded, cost
from corehead_hf.kernels.dense import dense_attention

logger = logging.getLogger(__name__)


def _reference(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return reference.hybrid_attention(query, *args, **kwargs).to(query.dtype)


def _triton(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: torch.Tensor, **kwargs: Any) -> Any:
    """One launch or two, whichever kernels.cost estimates to be faster here; PyTorch where gradients flow."""
    from corehead_hf.kernels import two_launches

    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        return banded.hybrid_attention(query, key, value, heads, **kwargs)
    B, Hq, T, D = query.shape
    num_dense, sizes = int(heads.sum()), (kwargs["sink_size"], kwargs["window_size"])
    separable = two_launches.separable(query, key, kwargs["first_token"])
    if separable and num_dense == Hq:
        return dense_attention(query, key, value, kwargs["scaling"])
    rates = cost.rates_of(query.device, query.dtype)
    plan = cost.plan(T, key.shape[2], num_dense, Hq, D, *sizes, rates, batch=B, separable=separable)
    run = _two_launches if plan == "two_launches" else _one_launch
    return run(query, key, value, heads, **kwargs)


# triton is imported where it runs: it is missing on some systems, and takes time to load
def _one_launch(*args: Any, **kwargs: Any) -> torch.Tensor:
    from corehead_hf.kernels import hybrid_prefill

    return hybrid_prefill.hybrid_attention(*args, **kwargs)


def _two_launches(*args: Any, **kwargs: Any) -> torch.Tensor:
    from corehead_hf.kernels import two_launches

    return two_launches.hybrid_attention(*args, **kwargs)


BACKENDS: Mapping[str, Callable[..., torch.Tensor]] = {
    "banded": banded.hybrid_attention,
    "reference": _reference,
    "triton": _triton,
    "triton_one_launch": _one_launch,
    "triton_two_launches": _two_launches,
}


def resolve_backend(name: str, device: torch.device | str) -> str:
    """The name of the backend that `hybrid_attention(..., backend=name)` runs on a device.

    Args:
        name: "auto" or a key of BACKENDS: "banded" is PyTorch on any device, "reference" float64, "triton" the fused
            kernel in one or two launches, whichever is estimated to be faster, and the last two force one of them.
        device: where query, key and value are.

    Returns:
        A key of BACKENDS. "auto" is "triton" on CUDA and ROCm, "banded" elsewhere and where triton is missing.

    Raises:
        ValueError: there is no such backend, or it cannot run on the device.
    """
    device = torch.device(device)
    if name == "auto":
        return _best(device.type)
    if name not in BACKENDS:
        raise ValueError(
            f"backend {name!r} was asked for - available: {', '.join(['auto', *sorted(BACKENDS)])} - "
            "choose one of these."
        )
    if name == "reference" and device.type == "mps":
        raise ValueError(
            f"backend 'reference' was asked for on {device} - it computes in float64, missing there - "
            "use 'auto', or move the tensors to the CPU."
        )
    if name.startswith("triton") and not _triton_runs(device.type):
        raise ValueError(
            f"backend {name!r} was asked for on {device} - it needs CUDA or ROCm and triton 3.4 or later, or triton's "
            "interpreter (TRITON_INTERPRET=1 before triton is imported) - use 'auto' or 'banded'."
        )
    return name


@functools.cache
def _best(device_type: str) -> str:
    if device_type == "cuda" and not _triton_runs(device_type):
        logger.warning("triton 3.4 or later is not there: hybrid prefill runs on PyTorch (banded), slower.")
    return "triton" if device_type == "cuda" and _triton_runs(device_type) else "banded"


def _triton_runs(device_type: str) -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    import triton

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 4):  # tensor descriptors came with it
        return False
    return device_type == "cuda" or (device_type == "cpu" and triton.knobs.runtime.interpret)


@torch.compiler.disable  # it reads heads on the host: one clean break a layer, not a dozen in its checks
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
        heads: bool [Hq], True = dense, False = streaming. Keep it on the CPU: it is read on the host, which waits
            for the device if it lies there.
        sink_size: tokens counted from the sequence's first real one, >= 0.
        window_size: tokens, the query itself included, >= 1.
        scaling: factor on the logits, > 0, usually 1 / sqrt(D).
        first_token: int [B] from 0 to S, the left-padding tokens of each sequence; None means none. "banded" reads
            it on the host, the triton backends do not; its range is checked where it lies on the CPU.
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
    if not (math.isfinite(scaling) and scaling > 0):
        raise ValueError(
            f"scaling={scaling} was given - it must be finite and positive - pass a number like 1 / sqrt(head_dim)."
        )
    if first_token is not None:
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
    if first_token.device.type != "cpu":  # reading it would wait for the device
        return
    starts = first_token.tolist()
    if min(starts) < 0 or max(starts) > S:
        raise ValueError(
            f"first_token {starts} was given - a sequence of {S} keys has 0 to {S} padding tokens - "
            "pass the number of left-padding tokens of each sequence."
        )
