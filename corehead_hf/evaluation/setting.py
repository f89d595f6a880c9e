"""Setting: what is done to a model while it answers, as a result keeps it and as a run's fingerprint knows it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from corehead_hf.analysis.result import Heads
from corehead_hf.fusion import is_fused
from corehead_hf.head_map.fields import model_shape
from corehead_hf.modes import AblateHeads, HybridPrefill
from corehead_hf.patching import native_model


@dataclass(frozen=True)
class HybridSetting:
    """Hybrid prefill; see CoReModelMixin.enable_hybrid.

    Attributes:
        heads: the dense ones, (layer, head) each.
        sink_size, window_size: tokens of a streaming head.
        chunked, backend, fuse: as there.
        dense_below: tokens; None is "auto".
    """

    heads: Heads
    sink_size: int
    window_size: int
    chunked: bool
    backend: str
    dense_below: int | None
    fuse: bool


@dataclass(frozen=True)
class AblationSetting:
    """Ablated heads; see modes.AblateHeads.

    Attributes:
        heads: the ablated ones, (layer, head) each.
        variant: "zero", "mean" or "stream".
        sink_size, window_size: tokens an ablated head keeps in "stream", else None.
    """

    heads: Heads
    variant: str
    sink_size: int | None
    window_size: int | None


@dataclass(frozen=True)
class Setting:
    """What was done to the model; nothing where it ran as it came.

    Attributes:
        num_heads: L * Hq.
        hybrid: hybrid prefill, or None.
        ablated: every ablation that was on.
    """

    num_heads: int
    hybrid: HybridSetting | None
    ablated: tuple[AblationSetting, ...]

    @property
    def windows(self) -> tuple[int, ...]:
        """window_size of whatever streams."""
        sizes = [None if self.hybrid is None else self.hybrid.window_size, *(one.window_size for one in self.ablated)]
        return tuple(size for size in sizes if size is not None)

    def __str__(self) -> str:
        parts = []
        if self.hybrid is not None:
            sizes = f"sink {self.hybrid.sink_size} + window {self.hybrid.window_size}"
            parts.append(f"{len(self.hybrid.heads)} of {self.num_heads} heads dense, the others see {sizes}")
        for one in self.ablated:
            parts.append(f"{len(one.heads)} of {self.num_heads} heads ablated ({one.variant})")
        return "; ".join(parts) or "dense"


def setting_of(model: Any) -> Setting:
    """The setting a CoRe-wrapped model is in.

    Raises:
        ValueError: a mode is on that watches instead of changing, or an ablation that is made for one batch only.
    """
    native = native_model(model)
    shape = model_shape(native.config)
    hybrid, ablated = None, []
    for mode in model.core_state.modes:
        if isinstance(mode, HybridPrefill):
            sizes = (mode.sink_size, mode.window_size)
            below = None if mode.dense_below == "auto" else mode.dense_below
            hybrid = HybridSetting(_pairs(mode.heads), *sizes, mode.chunked, mode.backend, below, is_fused(native))
        elif isinstance(mode, AblateHeads) and mode.variant != "visual":
            sizes = (mode.sink_size, mode.window_size) if mode.variant == "stream" else (None, None)  # type: ignore
            ablated.append(AblationSetting(_pairs(mode.heads), mode.variant, *sizes))
        else:
            what = (
                f"{type(mode).__name__} of variant 'visual'" if isinstance(mode, AblateHeads) else type(mode).__name__
            )
            raise ValueError(
                f"an evaluation was asked for while {what} is on - it is made for one prefill, and many follow - leave "
                "the block that turned it on."
            )
    return Setting(shape["num_layers"] * shape["num_heads"], hybrid, tuple(ablated))


def setting_mark(model: Any) -> dict[str, str]:
    """What a run's fingerprint says of the modes that are on: all that answers depend on, as short texts by name."""
    marks: dict[str, str] = {}
    for number, mode in enumerate(model.core_state.modes):
        told = {name: value for name, value in vars(mode).items() if not name.startswith("_")}
        if told.get("dense_below") != "auto":
            told.pop("rates", None)  # of the machine; they decide only where "auto" does
        tensors = {name: _digest(value) for name, value in told.items() if isinstance(value, torch.Tensor)}
        marks[f"mode {number}, {type(mode).__name__}"] = str({**told, **tensors})
    if is_fused(native_model(model)):
        marks["fuse"] = "True"
    return marks


def _pairs(heads: torch.Tensor) -> Heads:
    return tuple((layer, head) for layer, head in heads.nonzero().tolist())


def _digest(values: torch.Tensor) -> str:
    data = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    count = f"{int(values.sum())} of {values.numel()}, " if values.dtype == torch.bool else ""
    return f"{count}sha256 {hashlib.sha256(data).hexdigest()[:16]}"
