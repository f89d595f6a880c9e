"""Answers to a batch of examples: one generation, and what is done where it fails."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from corehead_hf.data.example import Example
from corehead_hf.data.example_set import NoExample
from corehead_hf.evaluation.records import Answer
from corehead_hf.families import family_of, inputs_to
from corehead_hf.measuring.attempts import Failure, attempted
from corehead_hf.measuring.batch import input_device
from corehead_hf.measuring.slots import Slot
from corehead_hf.patching import native_model
from corehead_hf.scoring import Average, Scorer


@dataclass(frozen=True)
class Generated:
    """What one generation gave for one example; see Answer."""

    text: str
    prompt_tokens: int
    seconds: float


@dataclass(frozen=True)
class Answerer:
    """Lets a model answer batches, and scores what it says.

    Args:
        model, processor, scorer, average, on_error: as in evaluate.
        options: of generate.
    """

    model: Any
    processor: Any
    scorer: Scorer
    average: Average
    on_error: str
    options: Mapping[str, Any]

    def answers(self, batch: Sequence[Slot]) -> list[Answer]:
        """One answer per slot of a batch, in order.

        Raises:
            ValueError: on_error is "raise", and an example cannot be built, answered or scored.
        """
        width, found, made = len(batch), {}, {}
        for slot in batch:
            try:
                example, changes = slot.build()
                about: dict[str, Any] = {"expected": example.answer, "details": dict(example.details)}
                found[slot.index] = Answer(slot.index, example.id, width, changes=changes, **about)
                made[slot.index] = example
            except NoExample as why:
                found[slot.index] = Answer(slot.index, slot.id, width, reason=str(why), row_error=why.kind)
        for index, failure in ((index, self._unfit(example)) for index, example in list(made.items())):
            if failure is not None:
                found[index] = replace(found[index], **vars(failure))
                del made[index]
        for (index, example), given in zip(made.items(), self._generated(list(made.values())), strict=True):
            found[index] = replace(found[index], **vars(given))
            if isinstance(given, Generated):
                found[index] = self._scored(found[index], given.text, example)
        return [found[slot.index] for slot in batch]

    def _unfit(self, example: Example) -> Failure | None:
        """Why an example could not be scored whatever is said, before it costs a generation."""
        try:
            self.average.group_of(example.details)
            if not example.answer.strip():
                raise ValueError(
                    f"example {example.id!r} has no answer text, and answers are what is scored. Take data with "
                    "answers."
                )
        except ValueError as error:
            return self._failed("no_answer", error)
        return None

    def _scored(self, answer: Answer, text: str, example: Example) -> Answer:
        try:
            scored = self.scorer(text, example)
        except ValueError as error:
            return replace(answer, **vars(self._failed("not_scored", error)))
        score = float(scored.score)
        if not 0 <= score <= 1:  # true for NaN
            raise RuntimeError(
                f"example {example.id!r}: the scorer gave {score} for the answer {text!r:.60} - scores lie in [0, 1] - "
                "divide by the most it can give."
            )
        return replace(answer, parsed=scored.parsed, score=score)

    def _failed(self, kind: str, error: ValueError) -> Failure:
        if self.on_error == "raise":
            raise error
        return Failure(kind, str(error))

    def _generated(self, examples: Sequence[Example]) -> list[Generated | Failure]:
        """A text per example, or why there is none; a batch that fails is answered one by one."""
        return attempted(examples, self._together, self.on_error)

    def _together(self, examples: Sequence[Example]) -> list[Generated]:
        started = time.perf_counter()
        native = native_model(self.model)
        inputs = inputs_to(family_of(native).prompt(self.processor, examples), input_device(native), native.dtype)
        with torch.no_grad():
            tokens = self.model.generate(**inputs, **self.options)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        seconds = (time.perf_counter() - started) / len(examples)
        return [Generated(text, length, seconds) for text, length in zip(texts, lengths, strict=True)]
