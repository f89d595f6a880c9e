"""HybridPrefill: few dense heads, all others sink + sliding window (Algorithm 3)."""

from __future__ import annotations

import dataclasses
import functools
import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from corehead_hf.attention_call import Answer, Attend, AttentionCall, leading_padding, may_attend, refuse_packed
from corehead_hf.kernels import cost, hybrid_attention

logger = logging.getLogger(__name__)

# In a call's kwargs: how many query tokens the prefill has of which this call computes only the last (see fusion/).
PREFILL_QUERIES = "core_prefill_queries"


@dataclass(eq=False)
class HybridPrefill:
    """Prefill with few dense heads; all others run sink + sliding window (Algorithm 3). Decode stays native.

    Args:
        heads: bool [L, Hq], True = dense.
        sink_size, window_size: tokens of a streaming head; the window includes the query itself.
        chunked: also treat T > 1 calls on a filled cache as prefill. Leave it off with speculative decoding.
        backend: of kernels.hybrid_attention.
        dense_below: calls with fewer keys run plain dense attention; "auto": layers that the rates do not promise to
            be faster run it.
        rates: of the machine, for "auto".
        head_dim: D, for "auto".
    """

    order: ClassVar[int] = 3

    heads: torch.Tensor
    sink_size: int
    window_size: int
    chunked: bool
    backend: str
    dense_below: int | Literal["auto"]
    rates: cost.Rates
    head_dim: int
    _told: bool = field(default=False, init=False, repr=False)
    _dense_counts: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._dense_counts = tuple(self.heads.sum(dim=1).tolist())

    def _could_stream(self, num_queries: int, past_length: int) -> bool:
        """Whether a call is a prefill in which a streaming head would see less than a dense one."""
        is_prefill = num_queries > 1 and (past_length == 0 or self.chunked)
        return is_prefill and past_length + num_queries > self.window_size

    def dense_layers(self, num_queries: int, past_length: int) -> tuple[bool, ...]:
        """Which layers of a call run plain dense attention, [L]; all of them where the call is no prefill.

        A layer does where a streaming head would see everything, where all its heads are dense, and where hybrid
        prefill would not be faster, see dense_below.
        """
        length, (L, Hq) = past_length + num_queries, self.heads.shape
        if not self._could_stream(num_queries, past_length):
            return (True,) * L
        if self.dense_below != "auto":
            return tuple(length < self.dense_below or count == Hq for count in self._dense_counts)
        sizes = (self.head_dim, self.sink_size, self.window_size)
        return _slower_layers(self._dense_counts, Hq, num_queries, length, *sizes, self.rates)

    def prepare(self, text_model: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Hand the text model its padding as [B, 1, 1, S], which transformers passes on as it is.

        From a padded 2-D mask it would build bool [B, 1, T, S]: 16 GiB a sequence at 128K tokens.
        """
        hidden = kwargs.get("inputs_embeds")
        hidden = kwargs["input_ids"] if hidden is None else hidden
        if hidden.shape[1] == 1:  # decode: not even the length is asked, which waits for the device in a static cache
            return kwargs
        cache = kwargs.get("past_key_values")
        past_length = 0 if cache is None else int(cache.get_seq_length())
        dense = self.dense_layers(hidden.shape[1], past_length)
        self._tell(dense, hidden.shape[1], past_length)
        if all(dense):
            return kwargs
        refuse_packed(kwargs, "hybrid prefill")
        if kwargs.get("output_attentions") or getattr(text_model.config, "output_attentions", False):
            raise ValueError(
                "output_attentions=True was asked in a hybrid prefill, whose kernels compute no attention weights. Use "
                "record_attention, or disable_hybrid() for this call."
            )
        end = past_length + hidden.shape[1]
        mask = kwargs.get("attention_mask")
        if isinstance(mask, dict):  # generate() with a static cache: layer type -> mask or None
            mask = mask["full_attention"]
        if mask is None:
            _refuse_packed_positions(kwargs.get("position_ids"))
        row = None if mask is None else _padding_row(mask, past_length, end)
        if row is None:
            # One True for every key: a stride of 0 says "no padding" without asking the device.
            row = torch.ones(1, 1, dtype=torch.bool, device=hidden.device).expand(hidden.shape[0], end)
        return {**kwargs, "attention_mask": row[:, None, None]}

    def attend(self, call: AttentionCall, inner: Attend) -> Answer:
        queries = call.kwargs.get(PREFILL_QUERIES, call.num_queries)
        if queries == 1:
            return inner(call)
        dense = self.dense_layers(queries, call.end - queries)
        if all(dense):
            return inner(call)
        call.refuse_packed("hybrid prefill")
        call.refuse_dropout("hybrid prefill")
        call = call.without_empty_slots()
        mask = call.attention_mask
        if not isinstance(mask, torch.Tensor) or mask.dim() != 4 or mask.shape[2] != 1:
            raise RuntimeError(
                "hybrid prefill expects the padding row that the text model's pre-hook prepares; the attention got "
                f"{'no mask' if mask is None else tuple(mask.shape)}. Call the model, not its layers."
            )
        padded, heads = mask.stride(3) != 0, self.heads[call.layer]
        if dense[call.layer]:
            whole_mask = call.implementation in ("eager", "flex_attention")  # without one these see the future
            if not padded and call.past_length == 0 and not whole_mask:
                return inner(dataclasses.replace(call, attention_mask=None))
            heads = torch.ones_like(heads)
        output = hybrid_attention(
            call.query,
            call.key,
            call.value,
            heads,
            sink_size=self.sink_size,
            window_size=self.window_size,
            scaling=call.scaling,
            first_token=call.first_token() if padded else None,
            backend=self.backend,
        )
        return output, None

    def _tell(self, dense: tuple[bool, ...], num_queries: int, past_length: int) -> None:
        """Say once that a prefill which hybrid attention would change runs dense instead."""
        chosen = sum(d and count < self.heads.shape[1] for d, count in zip(dense, self._dense_counts, strict=True))
        if self._told or not chosen or not self._could_stream(num_queries, past_length):
            return
        self._told = True
        auto = self.dense_below == "auto"
        reason = "hybrid attention is not estimated to be faster" if auto else "dense_below asks for it"
        logger.warning(
            "%d of %d layers run dense attention in a prefill of %d tokens, because %s. enable_hybrid(dense_below=0) "
            "streams at any length; later prefills are decided by their own length, without this message.",
            chosen,
            len(dense),
            num_queries + past_length,
            reason,
        )


@functools.lru_cache(maxsize=256)
def _slower_layers(
    counts: tuple[int, ...], Hq: int, T: int, S: int, head_dim: int, sink: int, window: int, rates: cost.Rates
) -> tuple[bool, ...]:
    """Layers in which dense attention is estimated to take no longer than hybrid attention."""
    plans = {n: cost.plan(T, S, n, Hq, head_dim, sink, window, rates, separable=T == S) for n in set(counts)}
    return tuple(plans[n] == "dense" for n in counts)


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


@torch.compiler.disable  # it waits for the device
def _padding_row(mask: Any, past_length: int, end: int) -> torch.Tensor | None:
    """bool [B, S] of real tokens, None where all are; raises unless the mask is causal over one run of them per row.

    What follows a sequence's last real token needs no masking: no real query is late enough to see it.
    """
    if not isinstance(mask, torch.Tensor) or mask.dim() not in (2, 4) or mask.shape[-1] < end:
        raise ValueError(
            f"hybrid prefill needs a padding mask [B, {end}] or none; got a {type(mask).__name__} of shape "
            f"{tuple(getattr(mask, 'shape', ()))}. Where flex_attention built it for a static cache, use a dynamic one "
            "or sdpa."
        )
    mask = may_attend(mask[..., :end])
    row = mask if mask.dim() == 2 else mask[:, 0, -1]
    first = leading_padding(row)[:, None]
    last = first + row.sum(dim=1, keepdim=True)
    column = torch.arange(end, device=row.device)
    fits = (row == ((column >= first) & (column < last))).all()
    if mask.dim() == 4:  # one that transformers built for a static cache: every row must be causal
        seen = torch.minimum(column[past_length:] + 1, last) - first
        fits &= (mask[:, 0].sum(dim=-1) == seen.clamp(min=0)).all()
    understood, padded = torch.stack((fits, ~row.all())).tolist()  # one wait for the device
    if not understood:
        raise ValueError(
            "hybrid prefill understands causal attention over one run of real tokens per sequence, padding before and "
            "after it; the mask has holes or its own pattern. Pad sequences at their ends only, or disable_hybrid() "
            "for this call."
        )
    return row if padded else None
