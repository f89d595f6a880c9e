"""What hybrid prefill costs and gives: accuracy and speed against how many heads stay dense."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from corehead_hf.analysis.answers import Scorer, Under, batches_digest
from corehead_hf.analysis.groups import draw_groups
from corehead_hf.analysis.intervals import (
    Estimate,
    check_confidence,
    difference_estimate,
    mean_estimate,
    require_scipy,
)
from corehead_hf.analysis.interventions import hybrid
from corehead_hf.analysis.journal import Journal
from corehead_hf.analysis.keeps import asked_counts
from corehead_hf.analysis.passes import passes, warn_if_short
from corehead_hf.analysis.result import Result, data_frame
from corehead_hf.analysis.timing import Quantiles, prefill_seconds, quantiles
from corehead_hf.families import Prepared
from corehead_hf.head_map import HeadMap
from corehead_hf.kernels import check_sizes
from corehead_hf.measuring.batch import input_device
from corehead_hf.patching import native_model

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class KeepPoint:
    """Hybrid prefill with some heads dense.

    Attributes:
        keep: the share that was asked for; of a count, its share.
        count, share: of dense heads among all.
        accuracy: mean score.
        drop: mean of dense score less this one, paired by example.
        seconds: of a prefill, or None.
        speedup: seconds of the dense prefill over these, paired by round; above 1 = faster. Or None.
    """

    keep: float
    count: int
    share: float
    accuracy: Estimate
    drop: Estimate
    seconds: Quantiles | None
    speedup: Quantiles | None


@dataclass(frozen=True, kw_only=True)
class KeepSweep(Result):
    """Accuracy and speed of hybrid prefill against the share of dense heads.

    Attributes:
        model, dataset: names.
        device: that the model ran on.
        num_heads: L * Hq.
        num_examples: scored in every pass.
        sink_size, window_size: tokens of a streaming head.
        num_tokens: of the timed prompts, padding included; None where nothing was timed.
        dense: mean score without hybrid prefill.
        dense_seconds: of the dense prefill, or None.
        chance: accuracy of a guess, or None.
        points: by count.
        confidence: of every interval.
    """

    kind: ClassVar[str] = "keep_sweep"

    model: str
    dataset: str
    device: str
    num_heads: int
    num_examples: int
    sink_size: int
    window_size: int
    num_tokens: int | None
    dense: Estimate
    dense_seconds: Quantiles | None
    chance: float | None
    points: tuple[KeepPoint, ...]
    confidence: float = 0.95

    def to_pandas(self) -> DataFrame:
        """One row a point; the first is dense prefill, all heads kept; NaN where nothing was timed."""
        zero, one = Estimate(0.0, 0.0, 0.0), Quantiles(1.0, 1.0, 1.0)
        speedup = None if self.dense_seconds is None else one
        dense = KeepPoint(1.0, self.num_heads, 1.0, self.dense, zero, self.dense_seconds, speedup)
        rows, tokens = (dense, *self.points), float("nan") if self.num_tokens is None else self.num_tokens
        columns: dict[str, Any] = {"model": self.model, "dataset": self.dataset, "device": self.device}
        columns |= {"hybrid": [point is not dense for point in rows], "num_tokens": tokens}
        columns |= {name: [getattr(point, name) for point in rows] for name in ("keep", "count", "share")}
        for name in ("accuracy", "drop"):
            for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                columns[name + suffix] = [getattr(getattr(point, name), end) for point in rows]
        for name in ("seconds", "speedup"):
            for quantile in ("p20", "p50", "p80"):
                columns[f"{name}_{quantile}"] = [getattr(getattr(p, name), quantile, float("nan")) for p in rows]
        return data_frame(columns)


def keep_sweep(
    model: Any,
    head_map: HeadMap,
    scorer: Scorer,
    *,
    keeps: Sequence[float | int],
    sink_size: int = 128,
    window_size: int = 2048,
    timed: Prepared | None = None,
    repeats: int = 5,
    chance: float | None = None,
    dataset: str | None = None,
    resume_from: str | Path | None = None,
    confidence: float = 0.95,
) -> KeepSweep:
    """Score, and time, hybrid prefill with more and more of the top heads dense.

    Args:
        model: a CoRe-wrapped model with no mode on; it is given back so.
        head_map: ranks its heads.
        scorer: an AnswerScorer, or any Scorer.
        keeps: dense heads as in HeadMap.top: shares as floats, counts as ints.
        sink_size, window_size: tokens of a streaming head. Prompts run hybrid at any length beyond the window.
        timed: the batch whose prefill is timed; without it no speed is reported.
        repeats: timed rounds. In each the dense prefill and every hybrid one take their turns, in alternating order,
            and a speed-up is taken within a round: what slows the machine for a while slows both.
        chance: accuracy of a guess in [0, 1], kept in the result.
        dataset: name of the scored data; None takes the head map's.
        resume_from: a file that keeps every pass's scores, and the timings, as soon as they are known; a study that
            was killed goes on from there, also with more keeps.
        confidence: of the intervals, see mean_estimate and difference_estimate.

    Raises:
        ValueError: an argument is out of range, the head map is another model's, a mode is on, or resume_from holds
            another study.
    """
    check_sizes(sink_size, window_size)
    check_confidence(confidence)
    require_scipy()
    if repeats < 1:
        raise ValueError(f"repeats={repeats} was asked for - a timing needs rounds - give at least 1.")
    asked = asked_counts(head_map, keeps)
    heads = {count: head_map.top(count) for count in sorted({count for _, count in asked})}
    sizes = {"sink_size": sink_size, "window_size": window_size}
    with passes("keep_sweep", model, head_map, scorer, 1 + len(heads), resume_from, **sizes) as made:
        dense = made.score({"keep": None})
        scores = {n: made.score({"keep": n}, _hybrid(model, top, sizes)) for n, top in heads.items()}
        made.warn_if_short(window_size)
        seconds = None if timed is None else _timed(made.journal, model, timed, heads, sizes, repeats)
    points = []
    for keep, count in asked:
        accuracy = mean_estimate(scores[count], confidence)
        drop = difference_estimate(dense, scores[count], confidence)
        took = speedup = None
        if seconds is not None:
            took, speedup = quantiles(seconds[count]), quantiles(seconds[0] / seconds[count])
        points.append(KeepPoint(keep, count, count / head_map.scores.numel(), accuracy, drop, took, speedup))
    device = input_device(native_model(model))
    return KeepSweep(
        model=head_map.base_model_name_or_path,
        dataset=head_map.dataset if dataset is None else dataset,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        num_heads=head_map.scores.numel(),
        num_examples=len(dense),
        num_tokens=None if timed is None else timed.question_mask.shape[1],
        dense=mean_estimate(dense, confidence),
        dense_seconds=None if seconds is None else quantiles(seconds[0]),
        chance=None if chance is None else float(chance),
        points=tuple(points),
        confidence=confidence,
        **sizes,
    )


def _hybrid(model: Any, heads: torch.Tensor, sizes: dict[str, int]) -> Under:
    return lambda batch: hybrid(model, heads, **sizes)


def _timed(
    journal: Journal, model: Any, batch: Prepared, heads: dict[int, torch.Tensor], sizes: dict[str, int], repeats: int
) -> dict[int, np.ndarray]:
    """Seconds of every round, float64 [repeats], by number of dense heads; 0 stands for the dense prefill."""
    warn_if_short("timed", batch.question_mask.shape[1], sizes["window_size"])
    key = {"timed": batches_digest([batch]), "keep": list(heads), "repeats": repeats}
    seconds = journal.get(key)
    if seconds is None:
        seconds = prefill_seconds(model, batch, list(heads.values()), sizes, repeats)
        journal.append(key, seconds)
    return dict(zip((0, *heads), seconds.T, strict=True))


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy with the same number of heads taken from the top, the bottom, or at random outside the top.

    Attributes:
        count: heads in each group.
        top, bottom: accuracies in [0, 1].
        random: one accuracy per seed.
    """

    count: int
    top: float
    bottom: float
    random: tuple[float, ...]

    @property
    def random_mean(self) -> float:
        return sum(self.random) / len(self.random)


def hybrid_accuracy(
    model: Any,
    head_map: HeadMap,
    count: int,
    scorer: Scorer,
    *,
    sink_size: int,
    window_size: int,
    seeds: Iterable[int] = (0, 1, 2),
) -> GroupAccuracy:
    """Accuracy with only `count` heads dense in prefill: top, bottom, and random ones that exclude the top."""
    sizes = {"sink_size": sink_size, "window_size": window_size}
    groups = draw_groups(head_map, (count,), ("top", "bottom", "random"), seeds)
    top, bottom, *random = (float(scorer(_hybrid(model, group.heads, sizes)).mean()) for group in groups)
    return GroupAccuracy(groups[0].count, top, bottom, tuple(random))
