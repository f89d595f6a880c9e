"""Merging head maps: which maps may be pooled, and the fields of the map of all their examples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

# What must agree: else a mean over both would describe neither.
_SAME = (
    "base_model_name_or_path",
    "base_model_revision",
    "model_type",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "question_rule",
    "view_rule",
    "score_rule",
)


def merged_fields(maps: Sequence[Any]) -> dict[str, Any]:
    """Arguments of the HeadMap of several maps' examples together; see HeadMap.merge."""
    if not maps:
        raise ValueError("a merge of no head maps was asked - there is nothing to describe - give one at least.")
    first = maps[0]
    for number, head_map in enumerate(maps):
        _check(number, head_map, first)
        for earlier in range(number):
            if maps[earlier].sums.equal(head_map.sums):
                raise ValueError(
                    f"maps {earlier} and {number} were asked to merge - their sums are the same, so their examples "
                    "would count twice - give each part once."
                )
    sums = reduce(add, (head_map.sums for head_map in maps))
    count = sum(head_map.count for head_map in maps)
    scores, spread = sums.moments(count)
    skipped = [head_map.num_skipped for head_map in maps]
    packages = {package: None for head_map in maps for package in head_map.versions}
    return {
        **{name: getattr(first, name) for name in _SAME},
        "scores": scores,
        "spread": spread,
        "count": count,
        "sums": sums,
        "dataset": _joined([part["dataset"] for head_map in maps for part in _parts(head_map)], " + "),
        "num_examples": sum(head_map.num_examples for head_map in maps),
        "num_skipped": None if None in skipped else sum(skipped),
        "versions": {
            package: _joined([head_map.versions[package] for head_map in maps if package in head_map.versions], " | ")
            for package in packages
        },
        "parts": tuple(part for head_map in maps for part in _parts(head_map)),
    }


def _check(number: int, head_map: Any, first: Any) -> None:
    if head_map.sums is None:
        raise ValueError(
            f"map {number}, of {head_map.dataset!r:.100}, was asked to merge - it keeps no sums, so it cannot be "
            "pooled exactly - measure it with this version of corehead_hf."
        )
    differing = [
        f"{name}: {getattr(first, name)!r:.100} / {getattr(head_map, name)!r:.100}"
        for name in _SAME
        if getattr(first, name) != getattr(head_map, name)
    ]
    if differing:
        raise ValueError(
            f"maps 0 and {number} were asked to merge - {'; '.join(differing)} - merge maps of one model and one rule."
        )


def _parts(head_map: Any) -> tuple[dict[str, Any], ...]:
    """The parts a map was made of; itself where it was measured in one go."""
    own = {name: getattr(head_map, name) for name in ("dataset", "num_examples", "num_skipped")}
    return head_map.parts or (own,)


def _joined(texts: Sequence[str], separator: str) -> str:
    """Each text once, in order."""
    return separator.join(dict.fromkeys(texts))
