"""The one attention function of the package and the marker class of the modules that use it.

A CoRe-aware attention module keeps its native forward; only that forward's call into transformers' AttentionInterface
arrives here, while a mode is on. This file passes the call through the modes, down to the native dense attention.
Which modules are CoRe-aware is decided in patching.py, what a mode does in modes/.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from corehead_hf.attention_call import Answer, AttentionCall, CoReState, Mode

# The AttentionInterface key. It must not contain "sdpa", "flash" or "flex": transformers matches on these substrings.
NAME = "corehead"


class ModesOfCall:
    """The modes that were on when the text model was called; travels through **kwargs down to every layer's call."""

    def __init__(self, modes: list[Mode]) -> None:
        self.modes = modes


class _Passage:
    """One call of a module; travels through **kwargs, so that threads sharing the module do not meet."""

    def __init__(self, modes: list[Mode]) -> None:
        self.modes = modes
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


class _ModuleView:
    """What a native forward takes for `self` while a mode is on: the module, with a config that leads to us.

    Attributes:
        module: what everything else is read from and written to.
        past: AttentionCall.past.
        passage: of the call.
    """

    def __init__(self, module: Any, past: int | torch.Tensor, passage: _Passage) -> None:
        self.__dict__.update(module=module, past=past, passage=passage, config=_ConfigView(module.config))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "module":
            raise AttributeError(name)
        return getattr(self.module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.module, name, value)


class CoReAttention:
    """Marker and mixin in front of a native attention class, e.g. Qwen3VLTextAttention; never instantiated itself.

    Its forward is the native one. While a mode is on, that runs on a view of the module whose config names our
    attention function; the module itself and its config are the native ones at all times.
    """

    native_class: ClassVar[type[nn.Module]]
    core_state: CoReState
    config: Any
    layer_idx: int

    def __call__(self, *args: Any, core_modes: ModesOfCall | None = None, **kwargs: Any) -> Any:
        kwargs.pop("core_passage", None)  # a hook kept the arguments of another call
        modes = self.core_state.modes if core_modes is None else core_modes.modes
        if not modes:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        passage = _Passage(modes)
        output = super().__call__(*args, core_passage=passage, **kwargs)  # type: ignore[misc]
        if not passage.reached:
            raise RuntimeError(
                f"layer {self.layer_idx} answered without the attention interface, past the modes that are on. Either "
                "its forward was replaced by one that does not call CoRe's, or a hook dropped `core_passage` from its "
                "keyword arguments: take that out. Or this transformers version no longer calls the interface there: "
                "use a version that the README lists."
            )
        return output

    def forward(self, *args: Any, core_passage: _Passage | None = None, **kwargs: Any) -> Any:
        forward = self._native_forward(args, kwargs)
        if core_passage is None:
            if not self.core_state.modes:
                return forward(self, *args, **kwargs)
            core_passage = _Passage(self.core_state.modes)
        cache = kwargs.get("past_key_values", kwargs.get("past_key_value"))  # its name in transformers 4.57
        # Before the native forward updates the cache: this is the absolute position of the first query row.
        past: int | torch.Tensor = 0 if cache is None else cache.get_seq_length(self.layer_idx)
        if isinstance(past, torch.Tensor):
            past = past.clone()  # a static cache counts in place
        return forward(_ModuleView(self, past, core_passage), *args, **kwargs)

    def _native_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any]:
        """The function that answers a call with these arguments; its first one is the module or a view of it."""
        return self.native_class.forward

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.native_class,), self.__getstate__()  # type: ignore[attr-defined]


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


def refuse_covered(modules: Iterable[nn.Module]) -> None:
    """Raise where another class stands in front of CoRe's, before classes are swapped, which would lose it.

    Raises:
        RuntimeError: it does: FSDP's, where a wrapped model was sharded.
    """
    for module in modules:
        if hasattr(type(module), "native_class") and "native_class" not in vars(type(module)):
            raise RuntimeError(
                f"{type(module).__name__} stands in front of CoRe's class and would be lost. Change CoRe before the "
                "model is sharded, or install it after."
            )


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
    view: _ModuleView,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> Answer:
    """The registered attention function: HF's interface in, HF's interface out, the modes that are on in between.

    Args:
        view: of the module whose native forward calls.
        query: [B, Hq, T, D].
        key, value: [B, Hkv, S, D].
        attention_mask: whatever the user's dense backend was given.

    Returns:
        (output [B, T, Hq, D], attention weights or None).

    Raises:
        RuntimeError: the module is not CoRe-aware, or the heads of a layer are split over devices.
    """
    if not isinstance(view, _ModuleView):
        raise RuntimeError(
            f"attn_implementation={NAME!r} was asked of a {type(view).__name__}; CoRe is not a backend that a config "
            "can name. Wrap the model with AutoCoReModel.from_model."
        )
    view.passage.reached = True
    module = view.module
    num_heads = module.config.num_attention_heads
    if query.shape[1] != num_heads:
        raise RuntimeError(
            f"layer {module.layer_idx} got {query.shape[1]} of {num_heads} heads: tensor parallelism splits them over "
            "devices. CoRe modes need whole layers; load with device_map instead of tp_plan."
        )
    call = AttentionCall(module, query, key, value, attention_mask, view.past, kwargs)
    return _chain(view.passage.modes, call)


def _chain(modes: list[Mode], call: AttentionCall) -> Answer:
    return modes[0].attend(call, functools.partial(_chain, modes[1:])) if modes else _dense_attention(call)


def _dense_attention(call: AttentionCall) -> Answer:
    if call.implementation == "eager":
        attend = inspect.unwrap(call.module.native_class.forward).__globals__["eager_attention_forward"]
    else:
        attend = ALL_ATTENTION_FUNCTIONS[call.implementation]
    return attend(call.module, call.query, call.key, call.value, call.attention_mask, **call.kwargs)
