"""How many heads a share stands for, and how random heads are drawn."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

import numpy as np


def head_count(keep: float | int, num_layers: int, num_heads: int) -> int:
    """How many of the num_layers * num_heads query heads `keep` stands for, in 1..L * Hq.

    An int is the count: 1 is one head. A float in (0, 1] is a share: 1.0 is every head. It is rounded to the
    nearest count, halves away from zero, in decimal as printed (0.145 of 100 is 14.5, so 15).

    Raises:
        TypeError: keep is a bool, or not a number.
        ValueError: keep is out of range or NaN, or a share that rounds to no head.
    """
    total = num_layers * num_heads
    asked = f"keep={keep!r} of {num_layers} layers x {num_heads} heads was asked for"
    advice = f"pass a float in (0, 1] as a share of heads, or an int in 1..{total} as a count"
    if isinstance(keep, bool) or not isinstance(keep, numbers.Real):
        raise TypeError(f"{asked} - it is a {type(keep).__name__} - {advice}.")
    is_count = isinstance(keep, numbers.Integral)
    if not 0 < keep <= (total if is_count else 1):
        raise ValueError(f"{asked} - {'a count' if is_count else 'a share'} out of range - {advice}.")
    share = Decimal(repr(float(keep)))
    count = int(keep) if is_count else int((share * total).to_integral_value(ROUND_HALF_UP))
    if not count:
        raise ValueError(f"{asked} - that rounds to 0 of {total} heads - {advice}.")
    return count


def draw_heads(barred: np.ndarray, quotas: Sequence[int], seed: int) -> np.ndarray:
    """Random heads, the same on every platform; see HeadMap.random.

    Args:
        barred: bool [L, Hq], never drawn.
        quotas: how many: one number for the whole map, or one per layer.
        seed: >= 0.

    Returns:
        bool [L, Hq].

    Raises:
        TypeError, ValueError: a wrong seed, or too few heads are left.
    """
    # index() because PCG64(None) would draw its seed from the system.
    draws = np.random.PCG64(operator.index(seed)).random_raw(barred.size).reshape(len(quotas), -1)
    rows = barred.reshape(draws.shape)
    heads = np.zeros_like(rows)
    for row, quota in enumerate(quotas):
        free = np.flatnonzero(~rows[row])
        if len(free) < quota:
            place = f"layer {row}" if len(quotas) > 1 else "the map"
            asked = f"{quota} random heads of {place} were asked for"
            raise ValueError(f"{asked} - only {len(free)} are outside exclude - take fewer heads.")
        heads[row, free[np.argsort(draws[row, free], kind="stable")[:quota]]] = True
    return heads.reshape(barred.shape)
