"""Outcome: what became of one example of a measuring run."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Outcome:
    """One example, or one row of a data set that gave none.

    Attributes:
        index: its place in the data, from 0.
        id: of the example; None for a row too broken to have one.
        width: how many stood in its batch. Bits depend on what shares a batch, and index and width tell that.
        ram: float32 [L, Hq] in [0, 1], or None where there is none.
        chance: RAM of a head that attends to all it may see alike.
        rows: the question-averaged attention rows over the real tokens, float32 [L, Hq, S]; None unless asked for.
        reason: why there is no RAM.
        row_error: of a row that gave no example, its kind in the data set's report.
        changes: (kind, what) of a row that gave an example after a change, for that report.
        mark: Slot.mark; "" where nothing is kept.
    """

    index: int
    id: str | None
    width: int
    ram: torch.Tensor | None = None
    chance: float = 0.0
    rows: torch.Tensor | None = None
    reason: str | None = None
    row_error: str | None = None
    changes: tuple[tuple[str, str], ...] = ()
    mark: str = ""
