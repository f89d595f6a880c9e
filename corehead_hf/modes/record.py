"""RecordAttention and RecordOutputs: modes that watch and change nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from corehead_hf.attention_call import Answer, Attend, AttentionCall
from corehead_hf.measures import KeyTokens, attention_mass, key_tokens
from corehead_hf.rows import question_row_sums


@dataclass(eq=False)
class RecordAttention:
    """Observe the question-averaged attention row of every head during one prefill, whole or in chunks.

    What is recorded is dense attention on the layer's own q and k, also while a hybrid prefill or an ablation is on.

    Args:
        question_mask: bool [B, T], rows that are averaged; T is the prompt's length with its left padding.
        evidence_mask: bool [B, T], columns that hold the evidence.
        visual_mask: bool [B, T] of all visual tokens, for the vision mass.
        measure_key_tokens: also find which evidence tokens are among each head's top 5 % entries (KTR, coverage).
        keep_rows: keep the rows themselves; L * B * Hq * T floats.

    Raises:
        ValueError: a mask of the wrong shape, an empty question or evidence, evidence after the question.
    """

    order: ClassVar[int] = 0

    question_mask: torch.Tensor
    evidence_mask: torch.Tensor
    visual_mask: torch.Tensor | None = None
    measure_key_tokens: bool = False
    keep_rows: bool = False
    _partial: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    _layers: dict[int, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)
    _first_token: torch.Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.question_mask = prompt_mask("question_mask", self.question_mask, None)
        shape = tuple(self.question_mask.shape)
        self.evidence_mask = prompt_mask("evidence_mask", self.evidence_mask, shape)
        if self.visual_mask is not None:
            self.visual_mask = prompt_mask("visual_mask", self.visual_mask, shape)
        position = torch.arange(shape[1])
        for b in range(shape[0]):
            question, evidence = position[self.question_mask[b]], position[self.evidence_mask[b]]
            for name, found in (("question_mask", question), ("evidence_mask", evidence)):
                if len(found) == 0:
                    raise ValueError(
                        f"row {b} of {name} has no True; its RAM would be undefined. Mark at least one token."
                    )
            if evidence[-1] > question[-1]:
                raise ValueError(
                    f"row {b}: the evidence reaches to column {int(evidence[-1])}, the question ends at row "
                    f"{int(question[-1])}; causal attention cannot see later columns, so their RAM is 0. "
                    "Put the question after the media."
                )

    def attend(self, call: AttentionCall, inner: Attend) -> Answer:
        call.refuse_packed("recording")
        if call.past_length < self.question_mask.shape[1]:  # later tokens are generated ones
            with torch.no_grad():
                self._observe(call)
        return inner(call)

    def _observe(self, call: AttentionCall) -> None:
        batch, length = self.question_mask.shape
        if call.query.shape[0] != batch or (call.past_length == 0 and call.num_queries > length):
            raise ValueError(
                f"masks of shape {(batch, length)} were given, the prefill has {call.query.shape[0]} sequences of "
                f"{call.end} tokens; give masks over the whole padded prompt."
            )
        if call.layer in self._layers:
            if call.past_length == 0:
                raise RuntimeError("one recording holds one prefill; open another record_attention for the next one.")
            return
        sums = question_row_sums(call, self.question_mask)
        if call.layer in self._partial:
            earlier = self._partial.pop(call.layer)
            sums[..., : earlier.shape[-1]] += earlier
        if bool(self.question_mask[:, call.end :].any()):
            self._partial[call.layer] = sums
            return
        if self._first_token is None:
            first_token = call.first_token()
            self._first_token = torch.zeros(batch, dtype=torch.long) if first_token is None else first_token.cpu()
            self._refuse_padding(self._first_token)
        self._layers[call.layer] = self._measure(sums / self.question_mask.sum(1).view(-1, 1, 1).to(sums.device))

    def _refuse_padding(self, first_token: torch.Tensor) -> None:
        padding = torch.arange(self.question_mask.shape[1])[None] < first_token[:, None]
        for name, mask in (("question_mask", self.question_mask), ("evidence_mask", self.evidence_mask)):
            for b in (mask & padding).any(dim=1).nonzero().flatten().tolist():
                raise ValueError(
                    f"row {b} of {name} marks padding: the first {int(first_token[b])} tokens of this sequence are "
                    "padding, whose RAM is undefined. Give masks over the left-padded prompt."
                )

    def _measure(self, row: torch.Tensor) -> dict[str, Any]:
        evidence = self.evidence_mask.to(row.device)
        measured: dict[str, Any] = {"ram": attention_mass(row, evidence[:, : row.shape[-1]])}
        if self.visual_mask is not None:
            measured["vision_mass"] = attention_mass(row, self.visual_mask.to(row.device)[:, : row.shape[-1]])
        if self.measure_key_tokens:
            measured["found"] = key_tokens(row, evidence[:, : row.shape[-1]], self.num_columns).found
        if self.keep_rows:
            measured["row"] = nn.functional.pad(row, (0, self.question_mask.shape[1] - row.shape[-1]))
        return measured

    def _stack(self, name: str) -> torch.Tensor:
        if not self._layers or self._partial:
            raise RuntimeError(
                f"nothing complete was recorded ({len(self._layers)} layers done, {len(self._partial)} begun): run one "
                "prefill with all question tokens inside the record_attention block, then read the result."
            )
        if name not in self._layers[min(self._layers)]:
            options = {"vision_mass": "visual_mask=...", "found": "measure_key_tokens=True", "row": "keep_rows=True"}
            raise RuntimeError(f"{name} was not recorded; pass {options[name]} to record_attention.")
        return torch.stack([self._layers[layer][name].cpu() for layer in sorted(self._layers)], dim=1)

    @property
    def ram(self) -> torch.Tensor:
        """Retrieval Attention Mass, eq. (1): float32 [B, L, Hq] in [0, 1]."""
        return self._stack("ram")

    @property
    def vision_mass(self) -> torch.Tensor:
        """Attention on all visual tokens: float32 [B, L, Hq] in [0, 1]; needs visual_mask."""
        return self._stack("vision_mass")

    @property
    def key_tokens(self) -> KeyTokens:
        """KTR, hits and coverage of all layers, found [B, L, Hq, E]; needs measure_key_tokens=True."""
        return KeyTokens(self._stack("found"), self.evidence_mask.sum(dim=1), self.num_columns)

    @property
    def rows(self) -> torch.Tensor:
        """The question-averaged rows, float32 [B, L, Hq, T]; needs keep_rows=True."""
        return self._stack("row")

    @property
    def num_columns(self) -> torch.Tensor:
        """Real (not padding) tokens of each prompt, int64 [B]."""
        if self._first_token is None:
            raise RuntimeError("nothing was recorded yet: run a prefill inside the record_attention block first.")
        return self.question_mask.shape[1] - self._first_token

    @property
    def chance(self) -> torch.Tensor:
        """RAM of a uniform head: mean over question rows of |E| / columns the row sees, float32 [B]."""
        first_token = self.question_mask.shape[1] - self.num_columns
        seen = torch.arange(self.question_mask.shape[1])[None] + 1 - first_token[:, None]
        share = self.evidence_mask.cumsum(dim=1) / seen.clamp(min=1)
        return (share * self.question_mask).sum(dim=1) / self.question_mask.sum(dim=1)


@dataclass(eq=False)
class RecordOutputs:
    """Observe every head's mean output over all real tokens that pass: what AblateHeads(variant="mean") puts in."""

    order: ClassVar[int] = 1
    _sums: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    _counts: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def attend(self, call: AttentionCall, inner: Attend) -> Answer:
        output, weights = inner(call)
        call.refuse_packed("recording")
        real = torch.ones(output.shape[:2], dtype=torch.bool, device=output.device)
        first_token = call.first_token()
        if first_token is not None:
            position = torch.arange(call.past_length, call.end, device=output.device)
            real = position[None] >= first_token[:, None]
        with torch.no_grad():
            total = (output.double() * real[:, :, None, None]).sum(dim=(0, 1)).cpu()
        self._sums[call.layer] = self._sums.get(call.layer, 0) + total
        self._counts[call.layer] = self._counts.get(call.layer, 0) + int(real.sum())
        return output, weights

    @property
    def mean(self) -> torch.Tensor:
        """float32 [L, Hq, D]."""
        if not self._sums:
            raise RuntimeError("no output was recorded: run the model inside the record_outputs block first.")
        return torch.stack([self._sums[layer] / self._counts[layer] for layer in sorted(self._sums)]).float()


def prompt_mask(name: str, mask: Any, shape: tuple[int, ...] | None) -> torch.Tensor:
    mask = torch.as_tensor(mask).cpu()
    if mask.dim() != 2 or (shape is not None and tuple(mask.shape) != shape):
        want = "[B, T]" if shape is None else list(shape)
        raise ValueError(f"{name} has shape {list(mask.shape)}; it must be bool {want}, over the whole padded prompt.")
    return mask.bool()
