"""Whether the same heads come out on top on every data set: masks, stability counts, rank correlation (Fig. 5)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from corehead_hf.analysis.intervals import check_confidence, require_scipy
from corehead_hf.analysis.resampling import bootstrap_intervals, rank_correlation, resampled_means, thresholds_of
from corehead_hf.analysis.result import Booleans, Floats, Heads, Integers, Result, check_shape, data_frame
from corehead_hf.head_map import HeadMap
from corehead_hf.measuring import read_measured

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)

_SHAPE = ("model_type", "num_layers", "num_heads", "num_kv_heads", "head_dim")
_OF_RESAMPLES = ("spearman_low", "spearman_high", "universal_low", "universal_high", "frequency")


@dataclass(frozen=True, eq=False, kw_only=True)
class Stability(Result):
    """How alike M data sets rank the heads of one model; M >= 2, n = L * Hq heads.

    Attributes:
        model: whose heads.
        names: of the data sets.
        num_examples: behind each map.
        share: of the heads that a mask holds, in (0, 1]; 0.05 in the paper.
        scores: float64 [M, L, Hq], mean RAM.
        spearman: float64 [M, M], rank correlation of the flattened maps in [-1, 1].
        spearman_low, spearman_high: the same, ends of its bootstrap interval; None without RAM per example.
        thresholds: float64 [M], tau of eq. (20): the 100 (1 - share) percentile over all heads, interpolated.
        masks: bool [M, L, Hq], scores >= thresholds.
        counts: int64 [L, Hq], C of eq. (21): in how many masks a head is, 0..M.
        universal: (layer, head) of the heads in all masks, best mean rank first.
        universal_low, universal_high: ends of the bootstrap interval of their number; None without RAM per example.
        frequency: float64 [L, Hq], share of the resamples in which a head is in all masks; None without.
        chance: expected number of universal heads if the masks were independent, n * prod(|mask| / n).
    """

    kind: ClassVar[str] = "stability"

    model: str
    names: tuple[str, ...]
    num_examples: tuple[int, ...]
    share: float
    scores: Floats
    spearman: Floats
    spearman_low: Floats | None
    spearman_high: Floats | None
    thresholds: Floats
    masks: Booleans
    counts: Integers
    universal: Heads
    universal_low: int | None
    universal_high: int | None
    frequency: Floats | None
    chance: float

    def __post_init__(self) -> None:
        full, pair = np.shape(self.masks), (len(self.names),) * 2
        for name, shape in (
            ("num_examples", pair[:1]),
            ("masks", (len(self.names), *full[1:])),
            ("scores", full),
            ("spearman", pair),
            ("spearman_low", pair),
            ("spearman_high", pair),
            ("thresholds", pair[:1]),
            ("counts", full[1:]),
            ("frequency", full[1:]),
        ):
            check_shape(name, getattr(self, name), shape)

    def to_pandas(self) -> DataFrame:
        """One row a data set and head: score, mask, count, universal (in all masks), frequency where it is known."""
        names, layers, heads = np.indices(self.masks.shape)
        columns = {
            "dataset": np.array(self.names)[names.ravel()],
            "layer": layers.ravel(),
            "head": heads.ravel(),
            "score": self.scores.ravel(),
            "in_mask": self.masks.ravel(),
            "count": np.broadcast_to(self.counts, self.masks.shape).ravel(),
            "universal": np.broadcast_to(self.counts == len(self.names), self.masks.shape).ravel(),
        }
        if self.frequency is not None:
            columns["frequency"] = np.broadcast_to(self.frequency, self.masks.shape).ravel()
        return data_frame(columns)

    def spearman_to_pandas(self) -> DataFrame:
        """One row a pair of data sets: rho, and the ends of its interval where they are known."""
        first, second = np.triu_indices(len(self.names), k=1)
        columns: dict[str, Any] = {
            "first": [self.names[i] for i in first],
            "second": [self.names[i] for i in second],
            "rho": self.spearman[first, second],
        }
        if self.spearman_low is not None and self.spearman_high is not None:
            columns |= {"low": self.spearman_low[first, second], "high": self.spearman_high[first, second]}
        return data_frame(columns)


def stability(
    maps: Mapping[str, HeadMap],
    *,
    share: float = 0.05,
    per_example: Mapping[str, Any] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Stability:
    """Compare the rankings of one model's heads on several data sets (eqs. 20, 21).

    With RAM per example the study is repeated on `resamples` bootstrap samples, each data set's examples drawn with
    replacement and apart from the others', and percentile intervals are given. A resample of few examples is a noisier
    map than the real one: its rank correlations are lower, and the interval may lie below the value.

    Args:
        maps: name of the data set -> its map; at least two, of one model shape.
        share: of the heads that a mask holds, in (0, 1]. Heads that tie with the threshold are all in.
        per_example: name -> RAM of every example of the map, [N, L, Hq]; see ram_per_example. The same names as maps.
        resamples: bootstrap samples, >= 1; 1000 of 4 data sets x 1152 heads take seconds.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap, >= 0.

    Raises:
        ValueError: fewer than two maps, maps of differing model shape, a map whose heads all score alike (it ranks
            nothing; in a resample its rank correlation counts as 0), per_example of other names, shapes or means than
            the maps, or an argument out of range.
    """
    _check_maps(maps)
    if not 0 < share <= 1:
        raise ValueError(f"share={share} was asked for - it is a share of the heads in (0, 1] - pass 0.05, say.")
    names = tuple(maps)
    shape = next(iter(maps.values())).scores.shape
    scores = np.stack([head_map.scores.double().numpy().ravel() for head_map in maps.values()])  # [M, n]
    thresholds = thresholds_of(scores, share)
    masks = scores >= thresholds[:, None]
    order = np.argsort(require_scipy().rankdata(-scores, axis=1).mean(axis=0), kind="stable")
    found: dict[str, Any] = dict.fromkeys(_OF_RESAMPLES)
    if per_example is not None:
        check_confidence(confidence)
        means = resampled_means(maps, per_example, resamples, seed)
        found = bootstrap_intervals(means, share, confidence)
        found["frequency"] = found["frequency"].reshape(shape)
    return Stability(
        model=next(iter(maps.values())).base_model_name_or_path,
        names=names,
        num_examples=tuple(head_map.num_examples for head_map in maps.values()),
        share=float(share),
        scores=scores.reshape(-1, *shape),
        spearman=rank_correlation(scores),
        thresholds=thresholds,
        masks=masks.reshape(-1, *shape),
        counts=masks.sum(axis=0).reshape(shape),
        universal=tuple(divmod(int(head), shape[1]) for head in order if masks[:, head].all()),
        chance=float(masks.shape[1] * masks.mean(axis=1).prod()),
        **found,
    )


def ram_per_example(folder: str | Path, limit: int | None = None) -> Floats:
    """RAM of every measured example that a run kept, float64 [N, L, Hq], by place in the data.

    Args:
        folder: the `resume_from` of corehead_hf.measure.
        limit: take only so many; a run that stopped early may have kept some beyond its map's num_examples.

    Raises:
        FileNotFoundError: no run was kept there.
        ValueError: nothing was measured, or a record is damaged.
    """
    measured = (outcome.ram.numpy() for outcome in read_measured(folder) if outcome.ram is not None)
    kept = list(islice(measured, limit))
    if not kept:
        raise ValueError(f"RAM per example of {folder} was asked for - no example was measured there - run measure.")
    return np.stack(kept).astype(np.float64)


def _check_maps(maps: Mapping[str, HeadMap]) -> None:
    if len(maps) < 2:
        raise ValueError(f"the stability of {list(maps)} was asked for - it compares data sets - give two or more.")
    first_name, first = next(iter(maps.items()))
    for name, head_map in maps.items():
        differing = [
            f"{field}: {getattr(first, field)!r} / {getattr(head_map, field)!r}"
            for field in _SHAPE
            if getattr(first, field) != getattr(head_map, field)
        ]
        if differing:
            raise ValueError(
                f"the stability of {first_name!r} and {name!r} was asked for - their models differ in "
                f"{'; '.join(differing)} - give maps of one model."
            )
        for field in ("base_model_name_or_path", "view_rule"):
            one, other = getattr(first, field), getattr(head_map, field)
            if one != other:
                logger.warning("%r and %r differ in %s: %r / %r", first_name, name, field, one, other)
        if head_map.scores.min() == head_map.scores.max():
            raise ValueError(
                f"the stability of {name!r} was asked for - all its heads score {float(head_map.scores.max()):g}, "
                "which ranks nothing - leave it out."
            )
