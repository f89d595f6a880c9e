"""What the autotuner runs and how it times it: one layer's random tensors, its kernels as calls, calls in turns."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers.utils import logging as transformers_logging

from corehead_hf.kernels import banded
from corehead_hf.kernels.tiles import Tile

QKV = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Call = Callable[[], Any]
Name = TypeVar("Name", bound=Hashable)
WARM_UPS = 2


@dataclass(frozen=True)
class Layer:
    """The layer that is tuned.

    Args:
        device: where.
        dtype: of its tensors.
        head_dim: D.
        num_heads: Hq.
        num_kv_heads: Hkv.
        sink_size, window_size: of its streaming heads, tokens.
        length: T = S, tokens of the prefill.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    num_heads: int
    num_kv_heads: int
    sink_size: int
    window_size: int
    length: int

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def scaling(self) -> float:
        return self.head_dim**-0.5

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords of a kernel."""
        return {"sink_size": self.sink_size, "window_size": self.window_size, "scaling": self.scaling}

    def heads(self, num_dense: int) -> torch.Tensor:
        """bool [Hq] on the CPU, the first ones dense."""
        return torch.arange(self.num_heads) < num_dense

    def tensors(self, T: int, B: int = 1, cached: int = 0) -> QKV:
        """Random query [B, Hq, T, D], a view of [B, T, Hq, D] as in a model, and key, value [B, Hkv, T + cached, D]."""
        generator = torch.Generator(self.device).manual_seed(0)
        make = functools.partial(torch.randn, generator=generator, device=self.device, dtype=self.dtype)
        query = make(B, T, self.num_heads, self.head_dim).transpose(1, 2)
        key, value = (make(B, self.num_kv_heads, T + cached, self.head_dim) for _ in range(2))
        return query, key, value


def one_launch(tile: Tile | None, layer: Layer, qkv: QKV, num_dense: int, **changed: Any) -> Call:
    """A call of the Triton kernel with a tile, of banded.py without one; `changed` replaces keywords of the layer."""
    settings = {**layer.settings, **changed}
    run: Callable[..., torch.Tensor] = banded.hybrid_attention
    if tile is not None:
        from corehead_hf.kernels import hybrid_prefill

        run, settings = hybrid_prefill.hybrid_attention, {**settings, "tile": tile}
    return functools.partial(run, *qkv, layer.heads(num_dense), **settings)


def two_launches(tile: Tile, layer: Layer, qkv: QKV, **changed: Any) -> Call:
    """A call of two_launches.py with one dense head."""
    from corehead_hf.kernels import two_launches

    run: Callable[..., torch.Tensor] = two_launches.hybrid_attention
    return functools.partial(run, *qkv, layer.heads(1), tile=tile, **{**layer.settings, **changed})


def dense_kernels(layer: Layer, qkv: QKV) -> dict[str, Call]:
    """Calls of torch's causal attention by the name of its kernel; each refuses some dtypes and machines."""
    causal: Callable[..., torch.Tensor] = functools.partial(
        scaled_dot_product_attention, is_causal=True, scale=layer.scaling
    )

    def grouped(backend: SDPBackend | None = None) -> torch.Tensor:
        with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
            return causal(*qkv, enable_gqa=layer.group > 1)

    def repeated() -> torch.Tensor:
        query, key, value = qkv
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):  # it knows no groups
            return causal(query, *(x.repeat_interleave(layer.group, dim=1) for x in (key, value)))

    if layer.device.type != "cuda":
        return {"SDPA": grouped}
    return {
        "SDPA cuDNN": functools.partial(grouped, SDPBackend.CUDNN_ATTENTION),
        "SDPA flash": functools.partial(grouped, SDPBackend.FLASH_ATTENTION),
        "SDPA efficient": repeated,
    }


def interleave(
    calls: dict[Name, Call], device: torch.device, repeats: int, what: str
) -> tuple[dict[Name, float], dict[Name, str]]:
    """Times calls that take turns, in alternating order, after two turns that warm up.

    Args:
        calls: by name.
        device: that they run on.
        repeats: timed turns.
        what: for the progress bar.

    Returns:
        Median milliseconds of each call that ran, and what the others raised.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    problems: dict[Name, str] = {}
    turns = WARM_UPS + repeats
    with transformers_logging.tqdm(total=turns * len(calls), desc=f"timing {what}", unit="call") as progress:
        for turn in range(turns):
            for name in list(times)[:: 1 if turn % 2 else -1]:
                try:
                    ms = milliseconds(calls[name], device)
                except Exception as error:  # out of memory, or a kernel that this torch or this device lacks
                    problems[name] = reason(error)
                    del times[name]
                else:
                    times[name] += [ms] if turn >= WARM_UPS else []
                progress.update()
    return {name: rounded(statistics.median(ms)) for name, ms in times.items()}, problems


def milliseconds(call: Call, device: torch.device) -> float:
    """Of one call on an idle device; what the host needs to start it is part of it."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end)


def reason(problem: BaseException) -> str:
    """One line about an exception."""
    return f"{type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[0]}"


def rounded(number: float) -> float:
    """To four digits, which is more than a timing knows."""
    return float(f"{number:.4g}")
