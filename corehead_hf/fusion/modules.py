"""The classes that stand in front of native ones in a fused model: norms, gated MLPs, attentions.

They differ from the native forward only in which kernels run. Where gradients are needed, under torch.compile and
where somebody watches a module that a fused kernel would skip (a hook on q_norm, on the activation), native code runs.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AttentionInterface

from corehead_hf.attention import NAME, CoReAttention, core_attention, core_class
from corehead_hf.kernels import fused_ops

# The global name by which a native attention forward finds rotary positions, and its calls of the head norms.
ROPE = "apply_rotary_pos_emb"
_JOINED = {"q_norm": "core_unnormed", "k_norm": "core_unnormed"}


class FusedNorm:
    """In front of a native RMSNorm class: one kernel instead of a chain in float32."""

    prefix: ClassVar[str] = "Fused"
    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if fused_ops.needs_native(hidden_states, self.weight) or not _alike(hidden_states, self.weight):
            return super().forward(hidden_states)  # type: ignore[misc]
        return fused_ops.rms_norm(hidden_states, self.weight, self.variance_epsilon)


class FusedMLP:
    """In front of a native gated MLP class with SiLU; the three projections are called as the modules they are."""

    prefix: ClassVar[str] = "Fused"
    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _is_watched(self.act_fn):
            return super().forward(x)  # type: ignore[misc]
        return self.down_proj(fused_ops.silu_mul(self.gate_proj(x), self.up_proj(x)))


class FusedAttention(CoReAttention):
    """In front of a native attention class: head norms and rotary positions are one kernel.

    The native forward's own code runs, with other meanings of three names: the global `apply_rotary_pos_emb` is our
    kernel, and `self.q_norm`, `self.k_norm` hand their input on, because the kernel norms as well.
    """

    prefix: ClassVar[str] = "CoRe"

    def _native_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any]:
        hidden = args[0] if args else kwargs["hidden_states"]
        # transformers 4.57 still renames `past_key_value` in a wrapper, which running the code itself would skip.
        if fused_ops.needs_native(hidden) or not fused_ops.triton_runs(hidden.device) or "past_key_value" in kwargs:
            return super()._native_forward(args, kwargs)
        native = inspect.unwrap(self.native_class.forward)
        norms = self._norms_to_join(hidden)
        names = {**native.__globals__, ROPE: functools.partial(_norm_and_rotate, norms)}
        code = _code_with_joined_norms(native.__code__) if norms else native.__code__
        forward = types.FunctionType(code, names, native.__name__, native.__defaults__, native.__closure__)
        forward.__kwdefaults__ = native.__kwdefaults__
        return forward

    def core_unnormed(self, states: torch.Tensor) -> torch.Tensor:
        return states

    def _norms_to_join(self, hidden: torch.Tensor) -> tuple[Any, ...]:
        norms: tuple[Any, ...] = tuple(getattr(self, name, None) for name in _JOINED)
        if not all(isinstance(norm, FusedNorm) for norm in norms):
            return ()
        fits = all(not _is_watched(norm) and _alike(hidden, norm.weight) for norm in norms)
        return norms if fits else ()


def _norm_and_rotate(norms: tuple[Any, ...], query: Any, key: Any, cos: Any, sin: Any) -> Any:
    if not norms:
        return fused_ops.norm_rope(query, key, cos, sin)
    q_norm, k_norm = norms
    weights, eps = (q_norm.weight, k_norm.weight), (q_norm.variance_epsilon, k_norm.variance_epsilon)
    return fused_ops.norm_rope(query, key, cos, sin, *weights, *eps)


@functools.cache
def _code_with_joined_norms(code: types.CodeType) -> types.CodeType:
    return code.replace(co_names=tuple(_JOINED.get(name, name) for name in code.co_names))


@functools.cache
def fused_class(mixin: Any, native_class: type[nn.Module]) -> Any:
    """The class of a fused module; its `fused_from` is the one it had before.

    Args:
        mixin: FusedNorm, FusedMLP, FusedAttention or LastLayer.
        native_class: of the module; of an attention the one that its CoRe-aware class stands in front of.
    """
    attention = mixin is FusedAttention
    body = {
        "__module__": native_class.__module__,
        "__doc__": mixin.__doc__,
        "__reduce_ex__": lambda self, protocol: (_rebuild, (mixin, native_class), self.__getstate__()),
        "fused_from": core_class(native_class) if attention else native_class,  # type: ignore[arg-type]
    }
    if attention:
        body["native_class"] = native_class
    return type(mixin.prefix + native_class.__name__, (mixin, native_class), body)


def _rebuild(mixin: Any, native_class: type[nn.Module]) -> nn.Module:
    # torch.load in a process that has not installed CoRe in any model yet.
    AttentionInterface.register(NAME, core_attention)
    module = native_class.__new__(native_class)
    module.__class__ = fused_class(mixin, native_class)  # type: ignore[arg-type]
    return module


def _alike(hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    return hidden.dtype == weight.dtype and hidden.device == weight.device


def _is_watched(module: nn.Module) -> bool:
    """Whether a hook, or accelerate's stand-in for forward, expects this module to be called."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "_hf_hook" in module.__dict__
