"""Dealing batches out to processes: batch number b goes to process b modulo their number, whatever each has done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from corehead_hf.measuring.outcome import Outcome
from corehead_hf.measuring.shards import Shards
from corehead_hf.measuring.slots import Slot


def process_state() -> PartialState:
    """This process among those of torchrun or accelerate launch; alone without them."""
    # Left to itself, accelerate takes CPU processes for unrelated ones.
    return PartialState(cpu=not torch.accelerator.is_available())


def deal(
    data: Iterable[Slot],
    batch_size: int,
    read: Callable[[Sequence[Slot]], list[Outcome]],
    shards: Shards | None,
    state: PartialState,
) -> Iterator[Outcome]:
    """The outcomes of all data in order, the same in every process.

    Args:
        data: the slots, the same in every process.
        batch_size: consecutive slots that are measured together, by one process.
        read: measures a batch.
        shards: where outcomes are looked for first and kept.
        state: of this process.
    """
    mine: list[Outcome] = []
    pending = False
    for number, batch in enumerate(_batches(data, batch_size)):
        pending = True
        if number % state.num_processes == state.process_index:
            mine = _finish(batch, read, shards)
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


def _finish(batch: list[Slot], read: Callable[[Sequence[Slot]], list[Outcome]], shards: Shards | None) -> list[Outcome]:
    """The batch's outcomes; where one is missing, the batch is measured again as it stands."""
    if shards is None:
        return read(batch)
    kept = [shards.get(slot.index, slot.id, len(batch)) for slot in batch]
    if any(outcome is None for outcome in kept):
        fresh = read(batch)
        shards.append([outcome for outcome, old in zip(fresh, kept, strict=True) if old is None])
        kept = [old or outcome for outcome, old in zip(fresh, kept, strict=True)]
    return [outcome for outcome in kept if outcome is not None]
