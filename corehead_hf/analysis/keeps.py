"""How many heads stay dense, as a study was asked."""

from __future__ import annotations

from collections.abc import Sequence

from corehead_hf.head_map import HeadMap
from corehead_hf.head_map.picks import head_count


def dense_counts(head_map: HeadMap, keeps: Sequence[float | int]) -> dict[int, float]:
    """The share that was asked for by count of dense heads, rising; of a count, its share.

    Args:
        keeps: as in HeadMap.top: shares as floats, counts as ints; of two that are one count the first is kept.

    Raises:
        TypeError, ValueError: there are none, or one is out of range.
    """
    if not keeps:
        raise ValueError("no keeps were given - each is a share or a count of dense heads - give keeps=(0.02, 0.05).")
    total = head_map.scores.numel()
    counts = {head_count(keep, head_map.num_layers, head_map.num_heads): keep for keep in reversed(keeps)}
    return {n: float(keep) if isinstance(keep, float) else n / total for n, keep in sorted(counts.items())}
