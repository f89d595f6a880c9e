"""What a small backbone gives under explicit masks: what hybrid prefill must give."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from benchmarks.backbone import prefill
from corehead_hf import reference

NAME = "benchmark_explicit_masks"


def outputs(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last hidden state [1, n, hidden], and the last token's logits [1, 1, V] as generate() asks for them."""
    return model.prefill(input_ids=ids, use_cache=True).last_hidden_state, prefill(model, ids).logits


def explicit_outputs(
    model: Any, ids: torch.Tensor, heads: torch.Tensor, sink: int, window: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """`outputs` of a copy of the model in `dtype`, all masks [n, n] written out.

    Args:
        model: with CoRe installed and no mode on.
        heads: bool [L, Hq], True = dense.
    """
    n = ids.shape[1]
    masks = [reference.hybrid_mask(row, n, n, sink, window).to(ids.device) for row in heads]

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> tuple[Any, None]:
        visible = masks[module.layer_idx]
        weights = reference.attention_probabilities(query, key, kwargs["scaling"], visible, query.dtype)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        return (weights @ value).transpose(1, 2), None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    explicit = copy.deepcopy(model).to(dtype)
    explicit.config.get_text_config()._attn_implementation = NAME
    return outputs(explicit, ids)


def refuse(
    found: tuple[torch.Tensor, torch.Tensor],
    model: Any,
    ids: torch.Tensor,
    heads: torch.Tensor,
    sink: int,
    window: int,
) -> str | None:
    """What is wrong with `outputs`, or None: at most twice the error of the same masks in the same dtype."""
    truth = explicit_outputs(model, ids, heads, sink, window, torch.float64)
    same_dtype = explicit_outputs(model, ids, heads, sink, window, found[0].dtype)
    for name, ours, theirs, true in zip(("hidden state", "logits"), found, same_dtype, truth, strict=True):
        error, allowed = ((x.double() - true).norm() / true.norm() for x in (ours, theirs))
        if not error <= 2 * allowed:
            return f"wrong: error {float(error):.2e} in the {name}, at most {2 * float(allowed):.2e} allowed"
    return None
