"""RAM of a batch of examples: one prefill of the backbone, and what is done where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from corehead_hf.data.example import Example
from corehead_hf.data.example_set import NoExample
from corehead_hf.families import family_of
from corehead_hf.head_map.sums import HIGHEST_RAM
from corehead_hf.measuring.attempts import Failure, attempted
from corehead_hf.measuring.outcome import Outcome
from corehead_hf.measuring.slots import Slot
from corehead_hf.patching import native_model


@dataclass(frozen=True)
class Reading:
    """What one prefill gave for one example; see Outcome."""

    ram: torch.Tensor
    chance: float
    rows: torch.Tensor | None


@dataclass(frozen=True)
class BatchReader:
    """Measures batches of one model under one rule.

    Args:
        model, processor, views, min_coverage, on_error, keep_rows, target: as in measure.
    """

    model: Any
    processor: Any
    views: str
    min_coverage: float
    on_error: str
    keep_rows: bool
    target: str = "evidence"

    def outcomes(self, batch: Sequence[Slot]) -> list[Outcome]:
        """One outcome per slot of a batch, in order.

        Raises:
            ValueError: on_error is "raise", and an example cannot be built, mapped or measured.
        """
        width, made, lost = len(batch), {}, {}
        for slot in batch:
            try:
                made[slot.index] = slot.build()
            except NoExample as why:
                lost[slot.index] = Outcome(slot.index, slot.id, width, reason=str(why), row_error=why.kind)
        readings = dict(zip(made, self.read([example for example, _ in made.values()]), strict=True))
        found = []
        for slot in batch:
            if slot.index in lost:
                found.append(lost[slot.index])
                continue
            example, changes = made[slot.index]
            reading = readings[slot.index]
            values = {"reason": reading.reason} if isinstance(reading, Failure) else vars(reading)
            found.append(Outcome(slot.index, example.id, width, changes=changes, **values))
        return found

    def read(self, examples: Sequence[Example]) -> list[Reading | Failure]:
        """A reading per example, or why there is none; a batch that fails is read one by one."""
        return attempted(examples, self._together, self.on_error)

    def _together(self, examples: Sequence[Example]) -> list[Reading]:
        native = native_model(self.model)
        prepared = family_of(native).prepare(self.processor, examples, views=self.views, min_coverage=self.min_coverage)
        prepared = prepared.to(input_device(native), native.dtype)
        columns = prepared.visual_mask if self.target == "visual" else prepared.evidence_mask
        with self.model.record_attention(prepared.question_mask, columns, keep_rows=self.keep_rows) as recording:
            self.model.prefill(**prepared.inputs)
        found, length = [], prepared.question_mask.shape[1]
        numbers = zip(examples, recording.ram, recording.chance.tolist(), recording.num_columns.tolist(), strict=True)
        for place, (example, ram, chance, columns) in enumerate(numbers):
            _check_ram(example, ram)
            rows = recording.rows[place, ..., length - columns :].clone() if self.keep_rows else None
            found.append(Reading(ram.clone(), chance, rows))
        return found


def input_device(native: Any) -> torch.device:
    """Where a model wants its inputs: the device its embeddings run on, whatever device_map spread them over."""
    embeddings = native.get_input_embeddings()
    hook = getattr(embeddings, "_hf_hook", None)
    for part in getattr(hook, "hooks", (hook,)):
        # An offloaded weight is on the meta device; accelerate's hook knows where it will run.
        device = getattr(part, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return embeddings.weight.device


def _check_ram(example: Example, ram: torch.Tensor) -> None:
    sound = (ram >= 0) & (ram <= HIGHEST_RAM)  # false for NaN
    if not sound.all():
        layer, head = (~sound).nonzero()[0].tolist()
        raise ValueError(
            f"example {example.id!r}: RAM {float(ram[layer, head])} of layer {layer}, head {head}; it is a share, in "
            "[0, 1]. The model's activations overflow its dtype; load it in bfloat16 or float32."
        )
