"""Dealing batches out to processes: batch number b goes to process b modulo their number, whatever each has done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from corehead_hf.measuring.slots import Slot

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")  # with a field `mark`


class Kept(Protocol[T]):
    """What earlier runs found out, and room for more, such as Shards."""

    def get(self, slot: Slot, width: int) -> T | None:
        """What is known of a slot's example in a batch of this width, or None."""

    def append(self, outcomes: Sequence[T], /) -> None:
        """Keep what was found out."""


def process_state() -> PartialState:
    """This process among those of torchrun or accelerate launch; alone without them."""
    # Left to itself, accelerate takes CPU processes for unrelated ones.
    return PartialState(cpu=not torch.accelerator.is_available())


def deal(
    data: Iterable[Slot],
    batch_size: int,
    read: Callable[[Sequence[Slot]], list[T]],
    kept: Kept[T] | None,
    state: PartialState,
) -> Iterator[T]:
    """The outcomes of all data in order, the same in every process.

    Args:
        data: the slots, the same in every process.
        batch_size: consecutive slots that are handled together, by one process.
        read: the outcomes of a batch, one a slot.
        kept: where outcomes are looked for first and kept.
        state: of this process.
    """
    mine: list[T] = []
    pending = False
    for number, batch in enumerate(_batches(data, batch_size)):
        pending = True
        if number % state.num_processes == state.process_index:
            mine = _finish(batch, read, kept)
        if (number + 1) % state.num_processes == 0:
            # Gathered by rank, so batch after batch: every process sees the same order.
            yield from gather_object(mine)
            mine, pending = [], False
    if pending:
        yield from gather_object(mine)


def _batches(data: Iterable[Slot], size: int) -> Iterator[list[Slot]]:
    iterator = iter(data)
    while batch := list(islice(iterator, size)):
        yield batch


def _finish(batch: list[Slot], read: Callable[[Sequence[Slot]], list[T]], kept: Kept[T] | None) -> list[T]:
    """The batch's outcomes; where one is missing, the batch is handled again as it stands."""
    if kept is None:
        return read(batch)
    known = [kept.get(slot, len(batch)) for slot in batch]
    if any(outcome is None for outcome in known):
        fresh = [replace(outcome, mark=slot.mark) for slot, outcome in zip(batch, read(batch), strict=True)]
        kept.append([outcome for outcome, old in zip(fresh, known, strict=True) if old is None])
        known = [old or outcome for outcome, old in zip(fresh, known, strict=True)]
    return [outcome for outcome in known if outcome is not None]
