"""How many heads stay dense, as a study was asked."""

from __future__ import annotations

from collections.abc import Sequence

from corehead_hf.head_map import HeadMap
from corehead_hf.head_map.picks import head_count


def asked_counts(head_map: HeadMap, keeps: Sequence[float | int]) -> list[tuple[float, int]]:
    """(share that was asked for, count of dense heads) per keep, by count; of a count, its share.

    Args:
        keeps: as in HeadMap.top: shares as floats, counts as ints.

    Raises:
        TypeError, ValueError: there are none, or one is out of range.
    """
    if not keeps:
        raise ValueError("no keeps were given - each is a share or a count of dense heads - give keeps=(0.02, 0.05).")
    L, Hq = head_map.num_layers, head_map.num_heads
    counts = [(keep, head_count(keep, L, Hq)) for keep in keeps]
    shares = [(float(keep) if isinstance(keep, float) else count / (L * Hq), count) for keep, count in counts]
    return sorted(shares, key=lambda pair: pair[1])


def dense_counts(head_map: HeadMap, keeps: Sequence[float | int]) -> dict[int, float]:
    """asked_counts as count -> share, rising; of two keeps that are one count the first is kept."""
    found: dict[int, float] = {}
    for share, count in asked_counts(head_map, keeps):
        found.setdefault(count, share)
    return found
