"""Watching a model's heads find evidence: the prefills behind the key token study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import Any

from transformers.utils import logging as transformers_logging

from corehead_hf.data.example import Example
from corehead_hf.families import family_of
from corehead_hf.measures import KeyTokens
from corehead_hf.measuring.batch import input_device
from corehead_hf.patching import native_model


def observe(
    model: Any,
    processor: Any,
    examples: Iterable[Example],
    *,
    batch_size: int = 8,
    views: str = "all",
    min_coverage: float = 0.0,
) -> Iterator[KeyTokens]:
    """Prefill examples and yield which evidence tokens every head finds, a batch at a time, with a progress bar.

    Args:
        model: a CoRe-wrapped model.
        processor: its processor.
        examples: any iterable; consecutive ones share a left-padded batch.
        batch_size: examples a prefill.
        views, min_coverage: which visual tokens count as evidence, see Family.prepare.

    Raises:
        ValueError: batch_size < 1, or an example that the family cannot map.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} was asked; it must be at least 1.")
    return _observed(model, processor, examples, batch_size, {"views": views, "min_coverage": min_coverage})


def _observed(
    model: Any, processor: Any, examples: Iterable[Example], batch_size: int, rule: dict[str, Any]
) -> Iterator[KeyTokens]:
    native, rest = native_model(model), iter(examples)
    known = len(examples) if isinstance(examples, Sized) else getattr(examples, "limit", None)
    with transformers_logging.tqdm(total=known, desc="finding key tokens", unit="example") as progress:
        while batch := list(islice(rest, batch_size)):
            prepared = family_of(native).prepare(processor, batch, **rule).to(input_device(native), native.dtype)
            masks = (prepared.question_mask, prepared.evidence_mask)
            with model.record_attention(*masks, measure_key_tokens=True) as recording:
                model.prefill(**prepared.inputs)
            progress.update(len(batch))
            yield recording.key_tokens
