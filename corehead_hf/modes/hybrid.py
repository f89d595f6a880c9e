"""HybridPrefill: few dense heads, all others sink + sliding window (Algorithm 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from corehead_hf.attention_call import Answer, Attend, AttentionCall, may_attend
from corehead_hf.kernels import hybrid_attention


@dataclass(eq=False)
class HybridPrefill:
    """Prefill with few dense heads; all others run sink + sliding window (Algorithm 3). Decode stays native.

    Args:
        heads: bool [L, Hq], True = dense.
        sink_size, window_size: tokens of a streaming head; the window includes the query itself.
        chunked: also treat T > 1 calls on a filled cache as prefill. Leave it off with speculative decoding.
        backend: of kernels.hybrid_attention.
    """

    order: ClassVar[int] = 3

    heads: torch.Tensor
    sink_size: int
    window_size: int
    chunked: bool
    backend: str

    def applies(self, num_queries: int, past_length: int) -> bool:
        """Whether a call is a prefill in which a streaming head differs from a dense one; otherwise it runs native."""
        is_prefill = num_queries > 1 and (past_length == 0 or self.chunked)
        return is_prefill and past_length + num_queries > self.window_size and not bool(self.heads.all())

    def prepare(self, text_model: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Hand the text model its padding as [B, 1, 1, S], which transformers passes on as it is.

        From a padded 2-D mask it would build bool [B, 1, T, S]: 16 GiB a sequence at 128K tokens.
        """
        hidden = kwargs.get("inputs_embeds")
        hidden = kwargs["input_ids"] if hidden is None else hidden
        cache = kwargs.get("past_key_values")
        past_length = 0 if cache is None else int(cache.get_seq_length())
        if not self.applies(hidden.shape[1], past_length):
            return kwargs
        end = past_length + hidden.shape[1]
        mask = kwargs.get("attention_mask")
        if isinstance(mask, dict):  # generate() with a static cache: layer type -> mask or None
            mask = mask["full_attention"]
        if mask is None:
            _refuse_packed_positions(kwargs.get("position_ids"))
            row = torch.ones(hidden.shape[0], end, dtype=torch.bool, device=hidden.device)
        else:
            row = _left_padding_row(mask, past_length, end)
        return {**kwargs, "attention_mask": row[:, None, None]}

    def attend(self, call: AttentionCall, inner: Attend) -> Answer:
        if not self.applies(call.num_queries, call.past_length):
            return inner(call)
        call.refuse_packed("hybrid prefill")
        call = call.without_empty_slots()
        mask = call.attention_mask
        if not isinstance(mask, torch.Tensor) or mask.dim() != 4 or mask.shape[2] != 1:
            raise RuntimeError(
                "hybrid prefill expects the padding row that the text model's pre-hook prepares; the attention got "
                f"{'no mask' if mask is None else tuple(mask.shape)}. Call the model, not its layers."
            )
        output = hybrid_attention(
            call.query,
            call.key,
            call.value,
            self.heads[call.layer],
            sink_size=self.sink_size,
            window_size=self.window_size,
            scaling=call.scaling,
            first_token=call.first_token(),
            backend=self.backend,
        )
        return output, None


def _refuse_packed_positions(position_ids: Any) -> None:
    """Raise where positions restart inside a row: transformers masks such packed sequences apart, a row cannot."""
    if isinstance(position_ids, torch.Tensor) and position_ids.dim() == 3 and position_ids.shape[0] == 4:
        position_ids = position_ids[0]  # text, temporal, height, width
    if not isinstance(position_ids, torch.Tensor) or position_ids.dim() != 2:
        return
    if bool((position_ids.diff(dim=-1) != 1).any()):
        raise ValueError(
            "hybrid prefill was asked for packed sequences (position_ids restart inside a row, no attention_mask); it "
            "needs one sequence per row. Pad the batch on the left, or disable_hybrid() for this call."
        )


def _left_padding_row(mask: Any, past_length: int, end: int) -> torch.Tensor:
    """bool [B, S] of real tokens; raises unless the mask is causal with left padding only."""
    if not isinstance(mask, torch.Tensor) or mask.dim() not in (2, 4) or mask.shape[-1] < end:
        raise ValueError(
            f"hybrid prefill needs a padding mask [B, {end}] or none; got {getattr(mask, 'shape', type(mask))}."
        )
    mask = may_attend(mask[..., :end])
    row = mask if mask.dim() == 2 else mask[:, 0, -1]
    first = row.int().argmax(dim=1)
    column = torch.arange(end, device=row.device)
    fits = bool((row == (column[None] >= first[:, None])).all())
    if fits and mask.dim() == 4:  # one that transformers built for a static cache: every row must be causal
        rows = torch.arange(past_length, end, device=row.device)
        expected = (rows[None] + 1 - first[:, None]).clamp(min=0)
        fits = bool((mask[:, 0].sum(dim=-1) == expected).all())
    if not fits:
        raise ValueError(
            "hybrid prefill understands causal attention with left padding; the mask has holes, right padding or its "
            "own pattern. Set processor.tokenizer.padding_side = 'left', or disable_hybrid() for this call."
        )
    return row
