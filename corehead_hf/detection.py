"""measure: Examples in, head map out. One prefill a batch, question rows only, sums in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from corehead_hf._version import __version__
from corehead_hf.data.example import Example
from corehead_hf.families import family_of
from corehead_hf.families.geometry import view_rule
from corehead_hf.head_map import HeadMap
from corehead_hf.head_map_fields import model_shape
from corehead_hf.patching import native_model


def measure(
    model: Any,
    processor: Any,
    examples: Iterable[Example],
    *,
    dataset: str,
    base_model: str | None = None,
    base_model_revision: str | None = None,
    batch_size: int = 8,
    views: str = "all",
    min_coverage: float = 0.0,
) -> HeadMap:
    """Rank a model's heads by Retrieval Attention Mass over annotated examples (Algorithm 1).

    Args:
        model: a CoRe-wrapped model.
        processor: its processor; see load_processor.
        examples: any iterable; consecutive ones share a left-padded batch.
        dataset: a name for the data, kept in the head map.
        base_model: the model's Hub id or name, kept in the head map; None takes where it was loaded from.
        base_model_revision: the commit the weights came from, kept in the head map; None for a local model.
        batch_size: examples a prefill.
        views, min_coverage: which visual tokens count as evidence, see Family.prepare; kept in the head map.

    Returns:
        HeadMap of the mean RAM per head, with its standard deviation over examples.

    Raises:
        ValueError: no examples, a model without a name (built from a configuration) and no base_model, or an example
            that the family cannot map.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} was asked; it must be at least 1.")
    native = native_model(model)
    family = family_of(native)
    total, squares, count = _sum_over_examples(model, processor, examples, batch_size, views, min_coverage)
    if count == 0:
        raise ValueError(f"dataset {dataset!r} gave no examples; a head map needs at least one.")
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=0).sqrt()
    return HeadMap(
        scores=mean.float().clamp(0, 1),  # a softmax row may sum to a rounding error above 1
        count=torch.full((len(mean),), count),
        spread=spread.float(),
        base_model_name_or_path=_loaded_from(native) if base_model is None else base_model,
        base_model_revision=base_model_revision,
        **model_shape(native.config),
        dataset=dataset,
        num_examples=count,
        question_rule=family.question_rule,
        view_rule=view_rule(views, min_coverage),
        versions={"corehead_hf": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
    )


def _sum_over_examples(
    model: Any, processor: Any, examples: Iterable[Example], batch_size: int, views: str, min_coverage: float
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sum of RAM and of its square over the examples, float64 [L, Hq] each, and how many there were."""
    native = native_model(model)
    family, text = family_of(native), native.config.get_text_config()
    total = torch.zeros(text.num_hidden_layers, text.num_attention_heads, dtype=torch.float64)
    squares, count = torch.zeros_like(total), 0
    known = len(examples) if isinstance(examples, Sized) else None
    with transformers_logging.tqdm(total=known, desc="measuring RAM", unit="example") as progress:
        for batch in _batches(examples, batch_size):
            prepared = family.prepare(processor, batch, views=views, min_coverage=min_coverage).to(
                native.device, native.dtype
            )
            with model.record_attention(prepared.question_mask, prepared.evidence_mask) as recording:
                model.prefill(**prepared.inputs)
            ram = recording.ram.double()  # [B, L, Hq]
            total += ram.sum(dim=0)
            squares += ram.square().sum(dim=0)
            count += len(batch)
            progress.update(len(batch))
    return total, squares, count


def _loaded_from(model: Any) -> str:
    """Hub id of a model, or the name of the local folder it came from: a path would tell about this machine only."""
    name = model.config._name_or_path
    return Path(name).resolve().name if Path(name).is_dir() else name


def _batches(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    iterator = iter(examples)
    while batch := list(islice(iterator, size)):
        yield batch
