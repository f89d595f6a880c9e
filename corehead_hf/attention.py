"""The one attention function of the package and the marker class of the modules that use it.

A CoRe-aware attention module keeps its native forward; only that forward's call into transformers' AttentionInterface
arrives here. This file passes the call through the modes that are on, down to the native dense attention. Which modules
are CoRe-aware is decided in patching.py, what a mode does in modes/.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from corehead_hf.attention_call import Answer, AttentionCall, CoReState, Mode

# The AttentionInterface key. It must not contain "sdpa", "flash" or "flex": transformers matches on these substrings.
NAME = "corehead"


class _Passage:
    """Context of one forward; travels through **kwargs, so that threads sharing the module do not meet."""

    def __init__(self, past: int | torch.Tensor) -> None:
        self.past = past
        self.reached = False


class _ConfigView:
    """A read-through config that names our attention function; everything else is the real config's."""

    _attn_implementation = NAME

    def __init__(self, config: Any) -> None:
        self.__dict__["_config"] = config

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_config":
            raise AttributeError(name)
        return getattr(self._config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._config, name, value)


class _NativeView:
    """The module as a dense backend knows it: with the real config, which flash and flex backends read."""

    def __init__(self, module: nn.Module) -> None:
        self.__dict__.update(_module=module, config=module.__dict__["config"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_module":
            raise AttributeError(name)
        return getattr(self._module, name)


class CoReAttention:
    """Marker and mixin in front of a native attention class, e.g. Qwen3VLTextAttention; never instantiated itself.

    Its forward is the native one. Only the `config` that this forward reads names another attention function.
    """

    native_class: ClassVar[type[nn.Module]]
    core_state: CoReState
    layer_idx: int

    @property
    def config(self) -> Any:
        return _ConfigView(self.__dict__["config"])

    @config.setter
    def config(self, value: Any) -> None:
        self.__dict__["config"] = value

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        past: int | torch.Tensor = 0
        if cache is not None and self.core_state.modes:
            # Before the native forward updates the cache: this is the absolute position of the first query row.
            past = cache.get_seq_length(self.layer_idx)
            if isinstance(past, torch.Tensor):
                past = past.clone()  # a static cache counts in place
        passage = _Passage(past)
        output = super().forward(*args, core_passage=passage, **kwargs)  # type: ignore[misc]
        if not passage.reached:
            raise RuntimeError(
                f"{type(self).__name__}.forward did not reach the attention interface: this transformers version no "
                "longer calls it there, so CoRe would be silently off. Use a version that the README lists."
            )
        return output

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.native_class,), self.__dict__.copy()


def _rebuild(native_class: type[nn.Module]) -> nn.Module:
    # torch.load in a process that has not installed CoRe in any model yet.
    AttentionInterface.register(NAME, core_attention)
    module = native_class.__new__(native_class)
    module.__class__ = core_class(native_class)  # type: ignore[arg-type]
    return module


@functools.cache
def core_class(native_class: type[nn.Module]) -> type:
    """The CoRe-aware subclass of a native attention class, e.g. CoReQwen3VLTextAttention."""
    body = {"__module__": __name__, "__doc__": CoReAttention.__doc__, "native_class": native_class}
    return type("CoRe" + native_class.__name__, (CoReAttention, native_class), body)


def swap_class(module: Any, new_class: Any) -> None:
    """Give a live module another class, also where its forward is bound on the instance."""
    old_forward, new_forward = type(module).forward, new_class.forward
    module.__class__ = new_class
    # Output recording of transformers <= 5.0 and accelerate's hooks leave a bound copy of forward on the instance.
    for name in ("forward", "_old_forward"):
        bound = module.__dict__.get(name)
        if isinstance(bound, types.MethodType) and bound.__self__ is module and bound.__func__ is old_forward:
            module.__dict__[name] = types.MethodType(new_forward, module)


def refuse_split_heads(model: nn.Module) -> None:
    """Raise where tensor parallelism gives each device only some heads of a layer, before a mode is turned on.

    Raises:
        RuntimeError: it does; Qwen3-VL's dense text tower, whose plan leaves attention whole, passes.
    """
    size = getattr(model, "tp_size", None) or 1
    if size == 1:
        return
    for module in model.modules():  # a DTensor by itself may be FSDP, which gathers before the forward
        if isinstance(module, CoReAttention) and hasattr(getattr(module.q_proj, "weight", None), "placements"):
            raise RuntimeError(
                f"a CoRe mode was asked of a model whose heads tensor parallelism splits over {size} devices; modes "
                "need whole layers. Load it with device_map instead of tp_plan."
            )


def core_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    core_passage: _Passage | None = None,
    **kwargs: Any,
) -> Answer:
    """The registered attention function: HF's interface in, HF's interface out.

    Args:
        query: [B, Hq, T, D].
        key, value: [B, Hkv, S, D].
        attention_mask: whatever the user's dense backend was given.

    Returns:
        (output [B, T, Hq, D], attention weights or None). With no mode on: the native dense attention, bit-equal.

    Raises:
        RuntimeError: reached past CoReAttention.forward, or the heads of a layer are split over devices.
    """
    if core_passage is None:
        raise RuntimeError(
            "CoRe attention was entered past CoReAttention.forward: an instance still holds the native forward. "
            "Install CoRe after whatever replaced it."
        )
    core_passage.reached = True
    modes = module.core_state.modes
    if not modes:
        return _dense_attention(module, query, key, value, attention_mask, kwargs)
    num_heads = module.__dict__["config"].num_attention_heads
    if query.shape[1] != num_heads:
        raise RuntimeError(
            f"layer {module.layer_idx} got {query.shape[1]} of {num_heads} heads: tensor parallelism splits them over "
            "devices. CoRe modes need whole layers; load with device_map instead of tp_plan."
        )
    call = AttentionCall(module, query, key, value, attention_mask, core_passage.past, kwargs)
    return _chain(modes, call)


def _chain(modes: list[Mode], call: AttentionCall) -> Answer:
    if modes:
        return modes[0].attend(call, functools.partial(_chain, modes[1:]))
    return _dense_attention(call.module, call.query, call.key, call.value, call.attention_mask, call.kwargs)


def _dense_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    kwargs: dict[str, Any],
) -> Answer:
    # Read live: the user may call set_attn_implementation at any time.
    implementation = module.__dict__["config"]._attn_implementation
    if implementation == "eager":
        native_module = sys.modules[module.native_class.__module__]
        return native_module.eager_attention_forward(module, query, key, value, attention_mask, **kwargs)
    native = module if implementation == "sdpa" else _NativeView(module)
    return ALL_ATTENTION_FUNCTIONS[implementation](native, query, key, value, attention_mask, **kwargs)
