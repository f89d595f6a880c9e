"""Scorers: what a model's answers are worth, one number an example, while something may be done to the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from corehead_hf.families import Prepared
from corehead_hf.measuring.batch import input_device
from corehead_hf.patching import native_model

# What is done to the model while a batch is scored; entered around each batch, which it gets as it was prepared.
Under: TypeAlias = Callable[[Prepared], AbstractContextManager[Any]]


class Scorer(Protocol):
    """Any callable that scores the same examples in the same order at every call.

    It returns finite numbers [N], and enters under(batch) around the model's work on each batch. A study can keep its
    scores on disk only if it also has `about`: JSON values by name that tell what is scored and how.
    """

    def __call__(self, under: Under | None = None) -> np.ndarray: ...


def exact_match(text: str, answer: str) -> float:
    """1 where the text without spaces around it is the answer, else 0."""
    return float(text.strip() == answer)


class AnswerScorer:
    """Scores greedily generated answers.

    Args:
        model: a CoRe-wrapped model.
        processor: its processor; its tokenizer decodes the answers.
        batches: prepared examples with answers.
        max_new_tokens: enough for the longest answer and the end of the turn.
        match: (generated text, expected answer) -> how right it is, in [0, 1]. Saved scores know it by its name only.
        on_batch: called after each batch.

    Raises:
        ValueError: no examples, or max_new_tokens out of range.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        batches: Sequence[Prepared],
        *,
        max_new_tokens: int = 2,
        match: Callable[[str, str], float] = exact_match,
        on_batch: Callable[[], None] | None = None,
    ) -> None:
        if not any(batch.examples for batch in batches):
            raise ValueError("answers to no examples were to be scored - at least one is needed - give a batch.")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} was given - an answer has a token - give at least 1.")
        self.model, self.processor, self.batches = model, processor, tuple(batches)
        self.max_new_tokens, self.match, self.on_batch = max_new_tokens, match, on_batch

    def __call__(self, under: Under | None = None) -> np.ndarray:
        """The score of every example, float64 [N] in [0, 1].

        Args:
            under: entered around each batch.

        Raises:
            ValueError: match gave a number outside [0, 1].
        """
        scores: list[float] = []
        for batch in self.batches:
            with nullcontext() if under is None else under(batch):
                texts = self._answers(batch)
            for text, example in zip(texts, batch.examples, strict=True):
                score = float(self.match(text, example.answer))
                if not 0 <= score <= 1:  # true for NaN
                    raise ValueError(
                        f"example {example.id!r}: match gave {score} for the answer {text!r:.60} - scores lie in "
                        "[0, 1] - divide by the most it can give."
                    )
                scores.append(score)
            if self.on_batch is not None:
                self.on_batch()
        return np.array(scores)

    @property
    def about(self) -> dict[str, Any]:
        """What the scores depend on besides the model, as JSON values."""
        match = self.match
        name = f"{match.__module__}.{getattr(match, '__qualname__', type(match).__qualname__)}"
        return {"examples": batches_digest(self.batches), "max_new_tokens": self.max_new_tokens, "match": name}

    def _answers(self, batch: Prepared) -> list[str]:
        native = native_model(self.model)
        inputs = batch.to(input_device(native), native.dtype).inputs
        tokens = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)


def batches_digest(batches: Sequence[Prepared]) -> str:
    """How many examples, and a hash of their ids, answers, inputs and visual tokens, batch by batch."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(repr([(example.id, example.answer) for example in batch.examples]).encode())
        for name, tensor in sorted({**batch.inputs, "visual_mask": batch.visual_mask}.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"{sum(len(batch.examples) for batch in batches)}, sha256 {digest.hexdigest()[:32]}"
