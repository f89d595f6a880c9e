"""Whether heads find the evidence: key token ratio, hit rate and coverage beside chance (eqs. 22-25, Fig. 6b, c)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from corehead_hf.analysis.intervals import Estimate, mean_estimate, require_scipy
from corehead_hf.analysis.result import Result, data_frame
from corehead_hf.head_map import HeadMap
from corehead_hf.measures import HIT_THRESHOLD, KeyTokens

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)

GROUPS = ("top", "bottom", "random")


@dataclass(frozen=True, eq=False, kw_only=True)
class KeyTokenStudy(Result):
    """Key tokens of the top, bottom and random heads of a ranking; every number is a mean over examples.

    Attributes:
        model: whose heads.
        dataset: the examples' data set.
        num_examples: how many.
        num_heads: all query heads of the model, L * Hq.
        k: heads of each group of ratio and hit_rate.
        ratio: group -> mean KTR, eq. (23), in [0, 1].
        hit_rate: group -> share of heads and examples with KTR >= 0.5.
        ratio_chance, hit_chance: of a head that looks anywhere alike.
        group_sizes: heads of the groups of coverage.
        coverage: group -> per size, eqs. (24, 25): share of the evidence that at least one head of the group finds.
        coverage_chance: per size, of heads that look anywhere alike, each by itself.
    """

    kind: ClassVar[str] = "key_tokens"

    model: str
    dataset: str
    num_examples: int
    num_heads: int
    k: int
    ratio: dict[str, Estimate]
    hit_rate: dict[str, Estimate]
    ratio_chance: float
    hit_chance: float
    group_sizes: tuple[int, ...]
    coverage: dict[str, tuple[Estimate, ...]]
    coverage_chance: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("ratio", "hit_rate", "coverage"):
            if set(getattr(self, name)) != set(GROUPS):
                raise ValueError(f"{name} of {list(getattr(self, name))} was given - give {', '.join(GROUPS)}.")
        if {len(curve) for curve in (*self.coverage.values(), self.coverage_chance)} != {len(self.group_sizes)}:
            raise ValueError(f"group_sizes={self.group_sizes} were given - coverage has another number of points.")

    def to_pandas(self) -> DataFrame:
        """One row a measure ("ratio", "hit_rate", "coverage"), group and group size."""
        lines = [("ratio", group, self.k, found, self.ratio_chance) for group, found in self.ratio.items()]
        lines += [("hit_rate", group, self.k, found, self.hit_chance) for group, found in self.hit_rate.items()]
        for group, curve in self.coverage.items():
            points = zip(self.group_sizes, curve, self.coverage_chance, strict=True)
            lines += [("coverage", group, size, found, chance) for size, found, chance in points]
        return data_frame(
            {
                "model": [self.model] * len(lines),
                "dataset": self.dataset,
                "measure": [measure for measure, *_ in lines],
                "group": [group for _, group, *_ in lines],
                "heads": [size for _, _, size, *_ in lines],
                "value": [found.value for *_, found, _ in lines],
                "low": [found.low for *_, found, _ in lines],
                "high": [found.high for *_, found, _ in lines],
                "chance": [chance for *_, chance in lines],
            }
        )


def key_tokens(
    observed: Iterable[KeyTokens],
    head_map: HeadMap,
    *,
    k: int = 15,
    group_sizes: Sequence[int] = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100),
    seeds: Sequence[int] = (0, 1, 2),
    dataset: str | None = None,
    confidence: float = 0.95,
) -> KeyTokenStudy:
    """How much of the evidence the top, bottom and random heads of a ranking find among their largest entries.

    Groups of g heads: the first g of the ranking, the last g, and g drawn at random outside the first g, the mean over
    the seeds. Where fewer than g heads are left outside, all heads but the first n - g are taken. Intervals are over
    examples, of the mean over the group's heads.

    A head that looks anywhere alike has as its k' = ceil(0.05 N) largest entries any k' of the N columns: it finds each
    evidence token with p = k' / N, a number of them that is hypergeometric, and g such heads cover 1 - (1 - p)^g.
    Chance levels are the means of these over the examples.

    Args:
        observed: batches from observe, taken one by one; only a few numbers an example are kept.
        head_map: the ranking. Of other examples than the observed ones, or top heads look better than they are.
        k: heads of each group of KTR and hit rate, 1 to half of all heads; 15 in the paper.
        group_sizes: heads of the groups of coverage; those above the number of heads are left out, and logged.
        seeds: of the random heads, at least one.
        dataset: the observed data set's name; None takes the head map's.
        confidence: of the intervals, in (0, 1).

    Raises:
        ValueError: nothing was observed, heads of another shape than the map's, or an argument out of range.
    """
    total = head_map.scores.numel()
    sizes = _check_sizes(k, group_sizes, seeds, total)
    groups = {size: _groups(head_map, size, seeds) for size in {k, *sizes}}
    scores: dict[tuple[str, str, int], list[np.ndarray]] = defaultdict(list)
    chances: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    num_examples = 0
    for tokens in observed:
        _add_scores(scores, tokens, groups, k, sizes)
        _add_chances(chances, tokens, k, sizes)
        num_examples += len(tokens.found)
    if not num_examples:
        raise ValueError("the key tokens of no examples were asked for; give at least one batch.")

    def estimate(measure: str, group: str, size: int) -> Estimate:
        return mean_estimate(np.concatenate(scores[measure, group, size]), confidence)

    def chance(measure: str, size: int) -> float:
        return float(np.concatenate(chances[measure, size]).mean())

    return KeyTokenStudy(
        model=head_map.base_model_name_or_path,
        dataset=head_map.dataset if dataset is None else dataset,
        num_examples=num_examples,
        num_heads=total,
        k=k,
        ratio={group: estimate("ratio", group, k) for group in GROUPS},
        hit_rate={group: estimate("hit_rate", group, k) for group in GROUPS},
        ratio_chance=chance("ratio", k),
        hit_chance=chance("hit_rate", k),
        group_sizes=sizes,
        coverage={group: tuple(estimate("coverage", group, size) for size in sizes) for group in GROUPS},
        coverage_chance=tuple(chance("coverage", size) for size in sizes),
    )


def _check_sizes(k: int, group_sizes: Sequence[int], seeds: Sequence[int], total: int) -> tuple[int, ...]:
    """The group sizes that the model has heads for."""
    if not 1 <= k <= total // 2:
        raise ValueError(
            f"k={k} was asked for - of {total} heads the top and bottom k must not meet - pass 1 to {total // 2}."
        )
    if not seeds:
        raise ValueError("seeds=() was given - random heads need one - pass (0, 1, 2), say.")
    if not group_sizes or min(group_sizes) < 1:
        raise ValueError(
            f"group_sizes={tuple(group_sizes)} were given - a group has a head or more - pass (1, 5), say."
        )
    sizes = tuple(size for size in group_sizes if size <= total)
    if len(sizes) < len(group_sizes):
        left_out = [size for size in group_sizes if size > total]
        logger.warning("groups of %s heads are left out: the model has %d", left_out, total)
    return sizes


def _groups(head_map: HeadMap, size: int, seeds: Sequence[int]) -> dict[str, list[torch.Tensor]]:
    """Per group the heads, bool [L, Hq] each: one set, or one per seed."""
    barred = min(size, head_map.scores.numel() - size)
    outside = head_map.top(barred) if barred else None
    random = [head_map.random(size, seed, exclude=outside) for seed in seeds]
    return {"top": [head_map.top(size)], "bottom": [head_map.bottom(size)], "random": random}


def _add_scores(
    scores: dict[tuple[str, str, int], list[np.ndarray]],
    tokens: KeyTokens,
    groups: dict[int, dict[str, list[torch.Tensor]]],
    k: int,
    sizes: Sequence[int],
) -> None:
    """Append every example's number, [B], per measure, group and size."""
    ratio, hits = tokens.ratio.double(), tokens.hits.double()  # [B, L, Hq]
    for group in GROUPS:
        chosen = groups[k][group]
        shape = tuple(chosen[0].shape)
        if tuple(ratio.shape[1:]) != shape:
            raise ValueError(
                f"key tokens of {list(ratio.shape[1:])} (layers, heads) were observed - the head map has "
                f"{list(shape)} - give the map of the observed model."
            )
        scores["ratio", group, k].append(_mean([ratio[:, heads].mean(dim=1) for heads in chosen]))
        scores["hit_rate", group, k].append(_mean([hits[:, heads].mean(dim=1) for heads in chosen]))
        for size in sizes:
            covered = [tokens.coverage(heads).double() for heads in groups[size][group]]
            scores["coverage", group, size].append(_mean(covered))


def _mean(per_seed: list[torch.Tensor]) -> np.ndarray:
    mean: np.ndarray = torch.stack(per_seed).mean(dim=0).cpu().numpy()
    return mean


def _add_chances(
    chances: dict[tuple[str, int], list[np.ndarray]], tokens: KeyTokens, k: int, sizes: Sequence[int]
) -> None:
    """Append every example's chance level, [B], per measure and size."""
    columns, evidence, top = (part.cpu().numpy() for part in (tokens.num_columns, tokens.num_evidence, tokens.num_top))
    share = top / columns
    enough = np.ceil(HIT_THRESHOLD * evidence)
    chances["ratio", k].append(share)
    chances["hit_rate", k].append(require_scipy().hypergeom.sf(enough - 1, columns, evidence, top))
    for size in sizes:
        chances["coverage", size].append(1 - (1 - share) ** size)
