"""Put the fused operations into a live model and take them out: what else a prefill wastes beside attention.

Per model, by swapping the classes of existing modules as patching.py does; weights, state dict, projections (LoRA and
quantised ones as well) and every other model of the process stay as they are. What is replaced computes the same to
rounding: each replacement is compared with the native code on random numbers before it goes in, and stays out, with a
warning, where the two differ. The numbers these save are the dense model's as well: no part of hybrid prefill's gain.

Where Triton does not run (a CPU), norms and the last layer's trimming are all that changes.
"""

from __future__ import annotations

import collections
import logging
from typing import Any

from torch import nn

from corehead_hf.attention import CoReAttention, refuse_covered, swap_class
from corehead_hf.families import family_of
from corehead_hf.fusion import checks
from corehead_hf.fusion.last_token import LastLayer, ask_for_last_token
from corehead_hf.fusion.modules import FusedAttention, FusedMLP, FusedNorm, fused_class
from corehead_hf.kernels.fused_ops import triton_runs

__all__ = ["install_fusion", "is_fused", "uninstall_fusion"]

logger = logging.getLogger(__name__)


def is_fused(model: nn.Module) -> bool:
    """Whether install_fusion has been here."""
    return any(hasattr(type(module), "fused_from") for module in model.modules())


def install_fusion(model: Any) -> None:
    """Fuse norms, q/k norm with rotary positions, SiLU times up, and trim the last layer to the last token.

    Args:
        model: the native transformers model (inside a PEFT wrapper: the wrapped one), CoRe installed.

    Raises:
        RuntimeError: CoRe is not installed, or the model is fused already.
    """
    text_model: Any = family_of(model).text_model(model)
    layers = list(text_model.layers)
    for layer in layers:
        if not isinstance(layer.self_attn, CoReAttention):
            raise RuntimeError(
                f"fusing needs CoRe in the decoder's attentions; one is a {type(layer.self_attn).__name__}. Wrap the "
                "model with AutoCoReModel.from_model, merge or unload an adapter that replaced it."
            )
    refuse_covered(layer.self_attn for layer in layers)
    if is_fused(model):
        raise RuntimeError("this model is fused already; call disable_hybrid() first.")
    device, dtype = checks.place_of(text_model.norm)
    plan: list[tuple[Any, type, str | None]] = []  # module, its mixin, why it stays native
    for layer in layers:
        heads = [norm for name in ("q_norm", "k_norm") if (norm := getattr(layer.self_attn, name, None)) is not None]
        for norm in (layer.input_layernorm, layer.post_attention_layernorm, *heads):
            plan.append((norm, FusedNorm, checks.norm_differs(norm)))
        plan.append((layer.self_attn, FusedAttention, checks.attention_differs(layer.self_attn, device, dtype)))
        plan.append((layer.mlp, FusedMLP, checks.mlp_differs(layer.mlp, device, dtype)))
    plan.append((text_model.norm, FusedNorm, checks.norm_differs(text_model.norm)))
    plan.append((layers[-1], LastLayer, checks.last_layer_differs(layers, model.config)))
    for module, mixin, differs in plan:
        if differs is None:
            native_class: Any = getattr(type(module), "native_class", type(module))
            swap_class(module, fused_class(mixin, native_class))
    if isinstance(layers[-1], LastLayer):
        model.register_forward_pre_hook(ask_for_last_token, with_kwargs=True)
    _tell(plan, device)


def uninstall_fusion(model: nn.Module) -> None:
    """Give every module the class it had before install_fusion.

    Raises:
        RuntimeError: the model is not fused.
    """
    if not is_fused(model):
        raise RuntimeError("this model is not fused; there is nothing to take out.")
    for module in model.modules():
        before = getattr(type(module), "fused_from", None)
        if before is not None:
            swap_class(module, before)
    for key in [k for k, hook in model._forward_pre_hooks.items() if hook is ask_for_last_token]:
        del model._forward_pre_hooks[key]
        model._forward_pre_hooks_with_kwargs.pop(key, None)


def _tell(plan: list[tuple[Any, type, str | None]], device: Any) -> None:
    counts = collections.Counter(mixin.__name__ for _, mixin, differs in plan if differs is None)
    done = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    where = "" if triton_runs(device) else f"; without Triton on {device} only norms and the last layer gain"
    logger.info("fused: %s%s", done or "nothing", where)
    for differs, count in sorted(collections.Counter(differs for *_, differs in plan if differs is not None).items()):
        logger.warning("left native in %d modules: %s", count, differs)
