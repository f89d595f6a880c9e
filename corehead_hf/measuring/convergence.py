"""Whether a ranking has settled: Spearman's rho between the heads' ranking so far and that of the first half."""

from __future__ import annotations

import math

import torch

from corehead_hf.head_map.sums import BITS, RamSums

INTERVAL = 16  # examples between checks, at first
CHECKS_IN_A_ROW = 3


def is_check(count: int) -> bool:
    """Whether a check is due at this many examples: every 16 up to 256, every 32 up to 512, 64 up to 1024, and so on.

    So the schedule is the same for every batch size and number of processes, and the curve stays short.
    """
    step = INTERVAL
    while count > INTERVAL * step:
        step *= 2
    return count > 0 and count % step == 0


class Convergence:
    """The curve of one measuring run, fed with the sums after every example.

    Args:
        until_stable: stop once rho is at least this for three checks in a row; None never stops.

    Attributes:
        curve: (examples, rho) per check; rho compares the mean RAM of all heads over these examples with that over the
            first half of them.
    """

    def __init__(self, until_stable: float | None = None) -> None:
        if until_stable is not None and not 0 < until_stable <= 1:
            raise ValueError(f"until_stable={until_stable} was given; it is a Spearman correlation in (0, 1], or None.")
        self.until_stable = until_stable
        self.curve: list[tuple[int, float]] = []
        self._halves: dict[int, torch.Tensor] = {}

    def add(self, count: int, sums: RamSums) -> bool:
        """Take the sums of the first `count` examples; True where the ranking has settled."""
        if is_check(2 * count):
            self._halves[count] = _ranked(sums)
        if not is_check(count):
            return False
        self.curve.append((count, spearman(self._halves.pop(count // 2), _ranked(sums))))
        last = self.curve[-CHECKS_IN_A_ROW:]
        if self.until_stable is None or len(last) < CHECKS_IN_A_ROW:
            return False
        return all(rho >= self.until_stable for _, rho in last)


def _ranked(sums: RamSums) -> torch.Tensor:
    """float64 [L * Hq]; sums over the same examples rank as their means do."""
    high, low = sums.ram.reshape(2, -1).double()
    return high + low / 2**BITS


def spearman(first: torch.Tensor, second: torch.Tensor) -> float:
    """Spearman's rank correlation in [-1, 1], ties by average rank; 0 where one of them is constant.

    Args:
        first, second: of the same length, at most 2^20.
    """
    a, b = _double_ranks(first), _double_ranks(second)
    # In integers: no order of summing can move rho across a threshold.
    shared, power = int((a * b).sum()), int((a * a).sum()) * int((b * b).sum())
    return max(-1.0, min(1.0, shared / math.sqrt(power))) if power else 0.0


def _double_ranks(values: torch.Tensor) -> torch.Tensor:
    """int64, twice the average rank of every value less twice the mean rank."""
    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    return (2 * count.cumsum(dim=0) - count - len(values))[place]
