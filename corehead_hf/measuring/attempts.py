"""Work on a batch of examples that may fail: then it is done one by one, and what still fails is told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache

from corehead_hf.data.example import Example

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why an example has no result.

    Attributes:
        failure: its kind, such as "refused" or "out_of_memory".
        reason: in words.
    """

    failure: str
    reason: str


def attempted(
    examples: Sequence[Example], work: Callable[[Sequence[Example]], Sequence[T]], on_error: str
) -> list[T | Failure]:
    """A result per example, or why there is none; a batch that fails is done one by one.

    Args:
        work: gives one result an example; raises ValueError where an example cannot be worked on.
        on_error: what such a ValueError does: "raise", or "skip". Out of memory never raises.
    """
    if not examples:
        return []
    together = _together(examples, work, on_error)
    if not isinstance(together, Failure):
        return list(together)
    if len(examples) == 1:
        return [together]
    return [attempted([example], work, on_error)[0] for example in examples]


def _together(
    examples: Sequence[Example], work: Callable[[Sequence[Example]], Sequence[T]], on_error: str
) -> Sequence[T] | Failure:
    try:
        return work(examples)
    except ValueError as error:
        if on_error == "raise":
            raise
        return Failure("refused", str(error))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        failure = Failure("out_of_memory", f"out of memory: {str(error).splitlines()[0]}")
    # Only here, where the error no longer holds the frames of the failed work and their tensors.
    clear_device_cache(garbage_collection=True)
    return failure


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
