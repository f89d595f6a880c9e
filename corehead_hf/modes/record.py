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
        question_mask: bool [B, T], rows that are averaged; T is the prompt's length with its padding.
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
    _real: torch.Tensor | None = field(default=None, init=False, repr=False)
    _known: int = field(default=0, init=False, repr=False)

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

    @torch.compiler.disable  # it counts question rows on the host
    def _observe(self, call: AttentionCall) -> None:
        batch, length = self.question_mask.shape
        if call.query.shape[0] != batch or (call.past_length == 0 and call.num_queries > length):
            raise ValueError(
                f"masks of shape {(batch, length)} were given, the prefill has {call.query.shape[0]} sequences of "
                f"{call.end} tokens; give masks over the whole padded prompt. Assisted decoding adds drafts to it: "
                "record model.prefill() instead."
            )
        if call.layer in self._layers and call.past_length == 0:
            raise RuntimeError("one recording holds one prefill; open another record_attention for the next one.")
        self._learn_padding(call)
        if call.layer in self._layers:
            return
        earlier = self._partial.pop(call.layer, None)
        self._refuse_gap(call.past_length, earlier)
        sums = question_row_sums(call, self.question_mask)
        if earlier is not None:
            sums[..., : earlier.shape[-1]] += earlier
        if bool(self.question_mask[:, call.end :].any()):
            self._partial[call.layer] = sums
            return
        self._layers[call.layer] = self._measure(sums / self.question_mask.sum(1).view(-1, 1, 1).to(sums.device))

    def _refuse_gap(self, past_length: int, earlier: torch.Tensor | None) -> None:
        """Raise where question rows were never seen, or seen twice: the mean over them would be wrong."""
        if earlier is None and bool(self.question_mask[:, :past_length].any()):
            raise ValueError(
                f"question_mask marks tokens among the first {past_length}, which were in the cache before the "
                "recording began. Record from the prompt's beginning, or mark later tokens only."
            )
        if earlier is not None and earlier.shape[-1] != past_length:
            raise RuntimeError(
                f"one recording holds one prefill; {earlier.shape[-1]} tokens were seen, and a call begins at token "
                f"{past_length}. Open another record_attention for the next prefill."
            )

    def _learn_padding(self, call: AttentionCall) -> None:
        """Keep which columns are real, once per call of the model; later ones count as the last known ones do."""
        if call.end <= self._known:
            return
        batch, length = self.question_mask.shape
        seen = call.real_tokens()
        real = torch.ones(batch, length, dtype=torch.bool)
        if seen is not None:
            seen = seen[:, :length].cpu()
            real = torch.cat([seen, seen[:, -1:].expand(-1, length - seen.shape[1])], dim=1)
        if self._real is None or not self._layers:
            self._refuse_marked_padding(real, min(call.end, length))
        elif not torch.equal(real, self._real):
            raise ValueError(
                f"padding among tokens {self._known} to {call.end - 1} came after the recording was complete, which "
                "counted them as real. Record a right-padded batch in one piece."
            )
        self._real, self._known = real, call.end

    def _refuse_marked_padding(self, real: torch.Tensor, known: int) -> None:
        for name, mask in (("question_mask", self.question_mask), ("evidence_mask", self.evidence_mask)):
            for b in (mask & ~real)[:, :known].any(dim=1).nonzero().flatten().tolist():
                raise ValueError(
                    f"row {b} of {name} marks padding: of this sequence's {known} tokens {int(real[b, :known].sum())} "
                    "are real, and the RAM of others is undefined. Give masks over the padded prompt."
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
        return self._real_columns().sum(dim=1)

    @property
    def chance(self) -> torch.Tensor:
        """RAM of a uniform head: mean over question rows of |E| / columns the row sees, float32 [B]."""
        share = self.evidence_mask.cumsum(dim=1) / self._real_columns().cumsum(dim=1).clamp(min=1)
        return (share * self.question_mask).sum(dim=1) / self.question_mask.sum(dim=1)

    def _real_columns(self) -> torch.Tensor:
        if self._real is None:
            raise RuntimeError("nothing was recorded yet: run a prefill inside the record_attention block first.")
        return self._real


@dataclass(eq=False)
class RecordOutputs:
    """Observe every head's mean output over all real tokens that pass: what AblateHeads(variant="mean") puts in."""

    order: ClassVar[int] = 1
    _sums: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    _counts: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def attend(self, call: AttentionCall, inner: Attend) -> Answer:
        output, weights = inner(call)
        call.refuse_packed("recording")
        real = call.real_tokens()
        if real is None:
            real = torch.ones(output.shape[0], call.end, dtype=torch.bool, device=output.device)
        real = real[:, -call.num_queries :]
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
