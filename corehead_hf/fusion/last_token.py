"""The last decoder layer for the last token only, where only that token's logits are asked for.

Of all other tokens the layer needs keys and values, but no query, no attention, no o_proj and no MLP: their hidden
states go nowhere. The request starts at the whole model (`logits_to_keep=1`, which generate() sets), travels down in
the keyword arguments, so that threads do not meet, and is granted or ignored by the last layer.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import DynamicCache, StaticCache

from corehead_hf.fusion.modules import ROPE
from corehead_hf.modes.hybrid import PREFILL_QUERIES, HybridPrefill

ASKED = "core_last_token_only"
_RECORDINGS = ("output_hidden_states", "output_attentions", "output_router_logits")
_TENSORS = {"attention_mask", "position_ids", "cache_position", "image_sizes"}  # a layer gets these and no others


def ask_for_last_token(model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    """Forward pre-hook of the whole model: where nobody sees more than the last token's logits, say so."""
    keep = kwargs.get("logits_to_keep")
    if torch.compiler.is_compiling() or type(keep) is not int or keep != 1 or kwargs.get("labels") is not None:
        return None
    for name in _RECORDINGS:
        asked = kwargs.get(name)
        configs = (model.config, model.config.get_text_config())
        if asked or (asked is None and any(getattr(config, name, False) for config in configs)):
            return None
    return args, {**kwargs, ASKED: True}


class LastLayer:
    """In front of the native class of the last decoder layer; keeps its name, which transformers looks it up by."""

    prefix: ClassVar[str] = ""
    input_layernorm: nn.Module
    self_attn: Any

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.pop(ASKED, False) and not args and self._may_trim(hidden_states, kwargs):
            self._write_keys(hidden_states[:, :-1], kwargs)
            hidden_states, kwargs = hidden_states[:, -1:], _last_token(kwargs, hidden_states.shape[1])
        return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]

    def _may_trim(self, hidden: torch.Tensor, kwargs: dict[str, Any]) -> bool:
        T, cache, mask = hidden.shape[1], kwargs.get("past_key_values"), kwargs.get("attention_mask")
        # Other caches (quantised, sliding, offloaded) do not give back what was written in two pieces.
        plain = type(cache) in (DynamicCache, StaticCache) and not getattr(cache, "offloading", False)
        if T == 1 or torch.is_grad_enabled() or torch.compiler.is_compiling() or not plain:
            return False
        pinned = kwargs.get("core_modes")
        modes = self.self_attn.core_state.modes if pinned is None else pinned.modes
        if not all(isinstance(mode, HybridPrefill) for mode in modes):
            return False  # a recording or an ablation needs every row of this layer
        if any(isinstance(value, torch.Tensor) and name not in _TENSORS for name, value in kwargs.items()):
            return False
        if mask is None:  # sdpa: causal over all keys, of which a static cache has empty ones
            implementation = self.self_attn.config._attn_implementation
            return implementation == "sdpa" and isinstance(cache, DynamicCache)
        return isinstance(mask, torch.Tensor) and mask.dim() == 4 and mask.shape[2] in (1, T)

    def _write_keys(self, hidden: torch.Tensor, kwargs: dict[str, Any]) -> None:
        """Cache keys and values as the native attention forward does, without queries."""
        attention = self.self_attn
        hidden = self.input_layernorm(hidden)
        shape = (*hidden.shape[:-1], -1, attention.head_dim)
        key, value = attention.k_proj(hidden).view(shape), attention.v_proj(hidden).view(shape)
        if hasattr(attention, "k_norm"):
            key = attention.k_norm(key)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        cos, sin = (table[:, :-1] for table in kwargs["position_embeddings"])
        rotate = vars(sys.modules[attention.native_class.__module__])[ROPE]
        _, key = rotate(key[:, :0], key, cos, sin)
        extra = []
        if kwargs.get("cache_position") is not None:  # transformers <= 5.0
            extra = [{"sin": sin, "cos": cos, "cache_position": kwargs["cache_position"][:-1]}]
        kwargs["past_key_values"].update(key, value, attention.layer_idx, *extra)


def _last_token(kwargs: dict[str, Any], T: int) -> dict[str, Any]:
    """A decoder layer's keyword arguments for the last of T tokens, which is still the end of a prefill of T."""
    cut = {**kwargs, PREFILL_QUERIES: T}
    cut["position_embeddings"] = tuple(table[:, -1:] for table in kwargs["position_embeddings"])
    for name in ("position_ids", "cache_position"):
        if isinstance(kwargs.get(name), torch.Tensor):
            cut[name] = kwargs[name][..., -1:]
    if kwargs["attention_mask"] is not None:
        cut["attention_mask"] = kwargs["attention_mask"][:, :, -1:]
    return cut
