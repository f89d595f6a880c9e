"""What the top heads do for the answers: accuracy under ablation and hybrid prefill, beside bottom and random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from corehead_hf.families import Prepared
from corehead_hf.head_map import HeadMap


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy with the same number of heads taken from the top, the bottom, or at random outside the top.

    Attributes:
        count: heads in each group.
        top, bottom: accuracies in [0, 1].
        random: one accuracy per seed.
    """

    count: int
    top: float
    bottom: float
    random: tuple[float, ...]

    @property
    def random_mean(self) -> float:
        return sum(self.random) / len(self.random)


def answer_accuracy(
    model: Any,
    processor: Any,
    batches: Sequence[Prepared],
    *,
    max_new_tokens: int = 2,
    on_batch: Callable[[], None] | None = None,
) -> float:
    """Share of examples whose greedily generated text equals the answer, in [0, 1].

    Args:
        batches: prepared examples with answers.
        max_new_tokens: enough for the longest answer and the end of the turn.
        on_batch: called after each batch, to move a progress bar.
    """
    right = total = 0
    for batch in batches:
        inputs = batch.to(model.device, model.dtype).inputs
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = processor.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answered = zip(texts, batch.examples, strict=True)
        right += sum(text.strip() == example.answer for text, example in answered)
        total += len(batch.examples)
        if on_batch is not None:
            on_batch()
    if total == 0:
        raise ValueError("an accuracy over no examples was asked; give at least one batch.")
    return right / total


def ablation_accuracy(
    model: Any, head_map: HeadMap, count: int, accuracy: Callable[[], float], *, seeds: Iterable[int] = (0, 1, 2)
) -> GroupAccuracy:
    """Accuracy with `count` heads ablated (Fig. 6a): top, bottom, and random ones that exclude the top."""
    return _compare(head_map, count, seeds, accuracy, model.ablate_heads)


def hybrid_accuracy(
    model: Any,
    head_map: HeadMap,
    count: int,
    accuracy: Callable[[], float],
    *,
    sink_size: int,
    window_size: int,
    seeds: Iterable[int] = (0, 1, 2),
) -> GroupAccuracy:
    """Accuracy with only `count` heads dense in prefill: top, bottom, and random ones that exclude the top."""

    @contextmanager
    def hybrid(heads: torch.Tensor):  # type: ignore[no-untyped-def]
        model.enable_hybrid(heads=heads, sink_size=sink_size, window_size=window_size, dense_below=0)
        try:
            yield
        finally:
            model.disable_hybrid()

    return _compare(head_map, count, seeds, accuracy, hybrid)


def _compare(
    head_map: HeadMap,
    count: int,
    seeds: Iterable[int],
    accuracy: Callable[[], float],
    intervention: Callable[[torch.Tensor], AbstractContextManager[Any]],
) -> GroupAccuracy:
    def under(heads: torch.Tensor) -> float:
        with intervention(heads):
            return accuracy()

    top = head_map.top(count)
    random = tuple(under(head_map.random(count, seed, exclude=top)) for seed in seeds)
    return GroupAccuracy(count, under(top), under(head_map.bottom(count)), random)


def count_from_gap(head_map: HeadMap, most: float = 0.1) -> int:
    """How many heads stand apart: the k <= most of all heads where score k is the largest multiple of score k + 1.

    Args:
        most: upper limit as a share of all heads, rounded down.
    """
    scores = torch.sort(head_map.scores.flatten().double(), descending=True).values
    limit = int(most * len(scores))
    if limit < 1:
        raise ValueError(f"most={most} of {len(scores)} heads leaves none to choose; it must cover at least one head.")
    ratios = scores[:limit] / scores[1 : limit + 1].clamp(min=torch.finfo(torch.float32).tiny)
    return int(ratios.argmax()) + 1
