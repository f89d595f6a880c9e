"""Put CoRe into a live model and take it out again: the only file that changes somebody's model.

Every decoder attention module keeps its identity and gets a CoRe-aware class; the model gets the methods of a mixin;
the text model gets one forward pre-hook. Parameters, state dict, config, vision tower and masks stay the native ones.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import AttentionInterface

from corehead_hf.attention import (
    NAME,
    CoReAttention,
    ModesOfCall,
    core_attention,
    core_class,
    refuse_covered,
    swap_class,
)
from corehead_hf.attention_call import CoReState
from corehead_hf.families import Family, family_of


def native_model(model: Any) -> Any:
    """The transformers model inside the wrappers of PEFT and torch.compile, or the model itself."""
    model = getattr(model, "_orig_mod", model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(model, "_orig_mod", model)


def decoder_attentions(model: Any) -> list[Any]:
    """The text decoder's self-attention modules, in layer order; CoRe-aware ones count as well."""
    return sorted(_find_attentions(native_model(model)), key=lambda module: module.layer_idx)


def _find_attentions(model: Any) -> Iterator[Any]:
    for module in model.modules():
        native_class = getattr(type(module), "native_class", type(module))
        code = getattr(inspect.unwrap(native_class.forward), "__code__", None)
        # Vision attention is not causal; a class that does not name the interface cannot be reached through it.
        if (
            getattr(module, "is_causal", False)
            and hasattr(module, "layer_idx")
            and hasattr(module, "o_proj")
            and code is not None
            and "ALL_ATTENTION_FUNCTIONS" in code.co_names
        ):
            yield module


def install_core(model: Any, mixin: type) -> None:
    """Make the model's decoder attentions CoRe-aware and add the mixin's methods to the model.

    Args:
        model: a live model of a supported family, or a PEFT model around one, which hands the methods through.
        mixin: the class whose methods the model gets; it goes in front of the model's own class.

    Raises:
        ValueError: the model's family is not supported.
        RuntimeError: CoRe is already installed, or the decoder has not the attention modules the family promises.
    """
    if any(isinstance(m, CoReAttention) for m in model.modules()):
        raise RuntimeError("CoRe is already installed in this model; call model.uninstall_core() first.")
    # In the model that PEFT wraps, not in the wrapper: merge_and_unload() and unload() give back that model.
    model = native_model(model)
    family: Family = family_of(model)
    attentions = decoder_attentions(model)
    expected = model.config.get_text_config().num_hidden_layers
    if sorted({module.layer_idx for module in attentions}) != list(range(expected)):  # PEFT may have copied some
        raise RuntimeError(
            f"{family.model_type} should have {expected} decoder attentions that call the attention interface; found "
            f"layers {[module.layer_idx for module in attentions]}. This transformers version is not supported; "
            "the README lists those that are."
        )
    for module in attentions:
        forward = module.__dict__.get("_old_forward", module.__dict__.get("forward"))
        if forward is not None and getattr(forward, "__func__", None) is not type(module).forward:
            raise RuntimeError(
                f"the forward of layer {module.layer_idx}'s {type(module).__name__} was replaced on the instance, and "
                "would run past CoRe's modes. Install CoRe first, then replace it by a function that calls the old one."
            )
    AttentionInterface.register(NAME, core_attention)
    state = CoReState()
    for module in attentions:
        swap_class(module, core_class(type(module)))  # type: ignore[arg-type]
        module.core_state = state
    family.text_model(model).register_forward_pre_hook(_prepare_text_call, with_kwargs=True)
    swap_class(model, _mixed_class(type(model), mixin))  # type: ignore[arg-type]
    model.core_state = state


def uninstall_core(model: Any) -> None:
    """Give back exactly what install_core got: classes, attributes, hooks. The weights were never touched.

    Raises:
        RuntimeError: CoRe is not installed in this model, or FSDP put its classes in front since.
    """
    model = native_model(model)
    if "core_state" not in model.__dict__:
        raise RuntimeError("CoRe is not installed in this model; there is nothing to take out.")
    attentions = decoder_attentions(model)
    refuse_covered([model, *attentions])
    for module in attentions:
        del module.core_state
        swap_class(module, module.native_class)
    text_model = family_of(model).text_model(model)
    for key in [k for k, hook in text_model._forward_pre_hooks.items() if hook is _prepare_text_call]:
        del text_model._forward_pre_hooks[key]
        text_model._forward_pre_hooks_with_kwargs.pop(key, None)
    for name in [name for name in model.__dict__ if name.startswith("core_")]:
        del model.__dict__[name]
    swap_class(model, model.native_class)


def _prepare_text_call(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Let the modes that are on see the text model's call before transformers builds a mask from it."""
    state: CoReState = decoder_state(module)
    modes = state.modes
    for mode in modes:
        prepare = getattr(mode, "prepare", None)
        if prepare is not None:
            kwargs = prepare(module, kwargs)
    return args, {**kwargs, "core_modes": ModesOfCall(modes)} if modes else kwargs


def decoder_state(text_model: nn.Module) -> CoReState:
    """The state that the attention modules under a text model share."""
    return next(m.core_state for m in text_model.modules() if isinstance(m, CoReAttention))


@functools.cache
def _mixed_class(native_class: type, mixin: type) -> type:
    # Same name and module as the native class: save_pretrained writes the class name into config.json, and
    # transformers 4.57 looks its output recorders up by it.
    body = {
        "__module__": native_class.__module__,
        "__qualname__": native_class.__qualname__,
        "__doc__": native_class.__doc__,
        "__reduce_ex__": lambda self, protocol: (_rebuild, (native_class, mixin), self.__getstate__()),
        "__deepcopy__": _copy_model,
        "native_class": native_class,
        "__new__": _new,
    }
    return type(native_class.__name__, (mixin, native_class), body)


def _new(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Native models of type(model)(config) and model.from_pretrained(); a bare one where replication gives nothing."""
    return cls.native_class(*args, **kwargs) if args or kwargs else object.__new__(cls)


def _copy_model(model: Any, memo: dict[int, Any]) -> Any:
    """A model of its own, with a state of its own; an attention module copied alone keeps the state of its model."""
    rebuild, arguments, values = model.__reduce_ex__(4)
    memo[id(model)] = copied = rebuild(*arguments)
    memo[id(model.core_state)] = CoReState(copy.deepcopy(model.core_state.modes, memo))
    copied.__setstate__(copy.deepcopy(values, memo))
    return copied


def _rebuild(native_class: Any, mixin: type) -> Any:
    model = native_class.__new__(native_class)
    model.__class__ = _mixed_class(native_class, mixin)
    return model
