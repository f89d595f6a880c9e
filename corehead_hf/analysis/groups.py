"""Groups of as many heads: the top ones, the bottom ones, random ones outside the top."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from corehead_hf.head_map import HeadMap
from corehead_hf.head_map.picks import head_count

logger = logging.getLogger(__name__)

GROUPS = ("top", "bottom", "random", "layer_matched")


@dataclass(frozen=True, eq=False)
class Group:
    """Heads to do something to.

    Attributes:
        name: one of GROUPS.
        count: of heads.
        seed: of random ones, else None.
        heads: bool [L, Hq].
    """

    name: str
    count: int
    seed: int | None
    heads: torch.Tensor


def draw_groups(
    head_map: HeadMap, counts: Iterable[float | int], names: Iterable[str], seeds: Iterable[int]
) -> list[Group]:
    """Groups by name, count and seed; "layer_matched" are random, in every layer as many as the top ones are there.

    Random groups exclude the top set, so they end where it takes more than half of the heads (of a layer, where they
    are layer-matched): such groups are left out, and that is logged.

    Args:
        counts: as in HeadMap.top; 0 is passed over.
        names: of GROUPS.
        seeds: of the random ones.

    Raises:
        TypeError, ValueError: an unknown name, a count out of range, no counts, names or seeds.
    """
    names, seeds = tuple(dict.fromkeys(names)), tuple(dict.fromkeys(seeds))
    numbers = sorted({head_count(keep, head_map.num_layers, head_map.num_heads) for keep in counts if keep != 0})
    unknown = [name for name in names if name not in GROUPS]
    if unknown or not names:
        raise ValueError(f"groups {list(names)} were asked for - known are {', '.join(GROUPS)} - name at least one.")
    if not numbers:
        raise ValueError("no numbers of heads to ablate were asked for - 0 is the dense model - give counts=(1, 2, 4).")
    if not seeds and set(names) & {"random", "layer_matched"}:
        raise ValueError("random heads were asked for without a seed - each seed is a draw - give seeds=(0, 1, 2).")
    return [group for name in names for count in numbers for group in _draw(head_map, name, count, seeds)]


def _draw(head_map: HeadMap, name: str, count: int, seeds: tuple[int, ...]) -> list[Group]:
    top = head_map.top(count)
    if name == "top":
        return [Group(name, count, None, top)]
    if name == "bottom":
        return [Group(name, count, None, head_map.bottom(count))]
    matched = name == "layer_matched"
    crowded = (2 * top.sum(dim=1) > head_map.num_heads).any() if matched else 2 * count > top.numel()
    if bool(crowded):
        place = "a layer's" if matched else "all"
        logger.warning("%s is left out at %d heads: the top set takes more than half of %s heads", name, count, place)
        return []
    drawn = [head_map.random(count, seed, exclude=top, layer_matched=matched) for seed in seeds]
    return [Group(name, count, seed, heads) for seed, heads in zip(seeds, drawn, strict=True)]


def count_from_gap(head_map: HeadMap, most: float = 0.1) -> int:
    """How many heads stand apart: the k <= most of all heads where score k is the largest multiple of score k + 1.

    Args:
        most: upper limit as a share of all heads, rounded down.
    """
    scores = torch.sort(head_map.scores.flatten().double(), descending=True).values
    limit = int(most * len(scores))
    if limit < 1:
        raise ValueError(f"most={most} of {len(scores)} heads leaves none to choose; it must cover at least one head.")
    ratios = scores[:limit] / scores[1 : limit + 1].clamp(min=torch.finfo(torch.float32).tiny)
    return int(ratios.argmax()) + 1
