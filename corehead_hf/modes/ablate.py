"""AblateHeads: the causal test (Algorithm 2) in four readings of "masking a head"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from corehead_hf.attention_call import Answer, Attend, AttentionCall
from corehead_hf.kernels import hybrid_attention
from corehead_hf.modes.record import prompt_mask
from corehead_hf.rows import apply_mask, visible_keys

ABLATION_VARIANTS = ("zero", "mean", "visual", "stream")


@dataclass(eq=False)
class AblateHeads:
    """Take the contribution of some heads away before o_proj, in prefill and decode (Algorithm 2).

    Args:
        heads: bool [L, Hq], True = ablated.
        variant: "zero": the output is 0; "mean": it is `mean_output`; "visual": the visual columns are masked and the
            rest renormalised; "stream": the head sees only sink and window.
        mean_output: float [L, Hq, D], for "mean"; from RecordOutputs over a reference set.
        visual_mask: bool [B, T] over the prompt, for "visual".
        sink_size, window_size: tokens, for "stream".

    Raises:
        ValueError: an unknown variant, or one without what it needs.
    """

    order: ClassVar[int] = 2

    heads: torch.Tensor
    variant: str = "zero"
    mean_output: torch.Tensor | None = None
    visual_mask: torch.Tensor | None = None
    sink_size: int = 128
    window_size: int = 2048
    _indices: dict[tuple[int, torch.device], torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.variant not in ABLATION_VARIANTS:
            raise ValueError(
                f"ablation variant {self.variant!r} is unknown; choose one of {', '.join(ABLATION_VARIANTS)}."
            )
        if self.variant == "mean" and (
            self.mean_output is None or self.mean_output.shape[:2] != self.heads.shape or self.mean_output.dim() != 3
        ):
            got = None if self.mean_output is None else tuple(self.mean_output.shape)
            raise ValueError(
                f"variant='mean' needs mean_output float [L, Hq, D] for heads of shape {tuple(self.heads.shape)}, "
                f"got {got}; record it with model.record_outputs() over a reference set."
            )
        if self.variant == "visual":
            if self.visual_mask is None:
                raise ValueError("variant='visual' needs visual_mask, bool [B, T] over the prompt; got None.")
            self.visual_mask = prompt_mask("visual_mask", self.visual_mask, None)

    def _ablated_on(self, layer: int, device: torch.device) -> torch.Tensor:
        """Indices int64 [k] of a layer's ablated heads, copied to each device once and not at every decoded token."""
        if (layer, device) not in self._indices:
            self._indices[layer, device] = self.heads[layer].nonzero().flatten().to(device)
        return self._indices[layer, device]

    def attend(self, call: AttentionCall, inner: Attend) -> Answer:
        output, weights = inner(call)
        ablated = self._ablated_on(call.layer, output.device)
        if len(ablated) == 0:
            return output, weights
        if self.variant == "zero":
            # index_fill, not a product: 0 * NaN of a fully padded row would stay NaN; not in place: autograd.
            if weights is not None:
                weights = weights.index_fill(1, ablated, 0.0)
            return output.index_fill(2, ablated, 0.0), weights
        replacement = {"mean": self._mean, "visual": self._without_visual, "stream": self._stream}[self.variant]
        return output.index_copy(2, ablated, replacement(call, ablated).to(output.dtype)), None

    def _mean(self, call: AttentionCall, ablated: torch.Tensor) -> torch.Tensor:
        assert self.mean_output is not None
        mean = self.mean_output[call.layer].to(ablated.device)[ablated]  # [k, D]
        return mean.expand(call.query.shape[0], call.num_queries, -1, -1)

    def _stream(self, call: AttentionCall, ablated: torch.Tensor) -> torch.Tensor:
        call.refuse_packed("ablation to streaming heads")
        call.refuse_dropout("ablation to streaming heads")
        query, key, value = _select_heads(call.without_empty_slots(), ablated)
        return hybrid_attention(
            query,
            key,
            value,
            torch.zeros(len(ablated), dtype=torch.bool),
            sink_size=self.sink_size,
            window_size=self.window_size,
            scaling=call.scaling,
            first_token=call.first_token(),
        )

    def _without_visual(self, call: AttentionCall, ablated: torch.Tensor) -> torch.Tensor:
        call.refuse_packed("ablation of visual columns")
        call.refuse_dropout("ablation of visual columns")
        assert self.visual_mask is not None
        call = call.without_empty_slots()
        query, key, value = _select_heads(call, ablated)
        batch, num_keys = query.shape[0], key.shape[2]
        if self.visual_mask.shape[0] != batch:
            raise ValueError(
                f"visual_mask has {self.visual_mask.shape[0]} rows, the batch {batch}; give one row per sequence."
            )
        kept = torch.ones(batch, num_keys, dtype=torch.bool, device=query.device)
        known = min(num_keys, self.visual_mask.shape[1])  # later columns are generated text
        kept[:, :known] = ~self.visual_mask[:, :known].to(query.device)
        outputs = []
        for rows in torch.arange(call.num_queries, device=query.device).split(256):  # bounds the scores' memory
            logits = torch.matmul(query[:, :, rows].float(), key.float().transpose(2, 3)) * call.scaling
            logits = apply_mask(logits, visible_keys(call, rows.expand(batch, -1)))
            logits = logits.masked_fill(~kept[:, None, None], float("-inf"))
            # A row that saw only visual columns attends nothing: its output is 0.
            outputs.append(torch.matmul(torch.softmax(logits, dim=-1).nan_to_num(0.0), value.float()))
        return torch.cat(outputs, dim=2).transpose(1, 2)


def _select_heads(call: AttentionCall, heads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """query, key, value [B, k, ., D] of some query heads, each with the kv head it reads."""
    kv_heads = heads // (call.query.shape[1] // call.key.shape[1])
    return call.query[:, heads], call.key[:, kv_heads], call.value[:, kv_heads]
