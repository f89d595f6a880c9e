"""What hybrid prefill costs and gives on a grid: how many heads stay dense, and how much the others see."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from corehead_hf.analysis.answers import Scorer, Under
from corehead_hf.analysis.attention_cost import Cost, attention_cost
from corehead_hf.analysis.intervals import (
    Estimate,
    check_confidence,
    difference_estimate,
    mean_estimate,
    require_scipy,
)
from corehead_hf.analysis.interventions import hybrid
from corehead_hf.analysis.keeps import dense_counts
from corehead_hf.analysis.passes import Passes, passes
from corehead_hf.analysis.result import Result, data_frame
from corehead_hf.families import Prepared
from corehead_hf.head_map import HeadMap
from corehead_hf.kernels import check_sizes

if TYPE_CHECKING:
    from pandas import DataFrame

_LENGTHS = {"tokens": "of every prompt"}  # the journal's key of the prompts' lengths


@dataclass(frozen=True)
class GridPoint:
    """Hybrid prefill in one setting.

    Attributes:
        keep: the share that was asked for; of a count, its share.
        count: of dense heads.
        sink_size, window_size: tokens that the other heads see.
        accuracy: mean score.
        drop: mean of dense score less this one, paired by example.
        cost: of its attention in the prefills that were scored.
    """

    keep: float
    count: int
    sink_size: int
    window_size: int
    accuracy: Estimate
    drop: Estimate
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class HybridGrid(Result):
    """Accuracy and cost of hybrid prefill, by dense heads, sink and window.

    Attributes:
        model, dataset: names.
        num_heads: L * Hq.
        num_examples: scored in every pass.
        shortest, longest: tokens of the prompts, without padding.
        mean_tokens: of the same.
        dense: mean score without hybrid prefill.
        dense_flops: of dense attention, as in Cost.
        chance: accuracy of a guess, or None.
        points: by sink, window, count.
        confidence: of every interval.
    """

    kind: ClassVar[str] = "hybrid_grid"

    model: str
    dataset: str
    num_heads: int
    num_examples: int
    shortest: int
    longest: int
    mean_tokens: float
    dense: Estimate
    dense_flops: float
    chance: float | None
    points: tuple[GridPoint, ...]
    confidence: float = 0.95

    @property
    def sinks(self) -> tuple[int, ...]:
        """The sink sizes, rising."""
        return tuple(sorted({point.sink_size for point in self.points}))

    @property
    def windows(self) -> tuple[int, ...]:
        """The window sizes, rising."""
        return tuple(sorted({point.window_size for point in self.points}))

    def series(self, sink_size: int, window_size: int) -> tuple[GridPoint, ...]:
        """The points of one sink and window, by count."""
        sizes = (sink_size, window_size)
        return tuple(point for point in self.points if (point.sink_size, point.window_size) == sizes)

    def to_pandas(self) -> DataFrame:
        """One row a point; the first is dense prefill, all heads kept, where no sizes are."""
        zero, whole = Estimate(0.0, 0.0, 0.0), Cost(1.0, self.dense_flops, 1.0)
        dense = GridPoint(1.0, self.num_heads, 0, 0, self.dense, zero, whole)
        rows = (dense, *self.points)
        columns: dict[str, Any] = {"model": self.model, "dataset": self.dataset, "num_examples": self.num_examples}
        columns |= {"mean_tokens": self.mean_tokens, "hybrid": [point is not dense for point in rows]}
        columns |= {name: [getattr(point, name) for point in rows] for name in ("keep", "count")}
        columns["share"] = [point.count / self.num_heads for point in rows]
        for name in ("sink_size", "window_size"):
            columns[name] = [float("nan") if point is dense else float(getattr(point, name)) for point in rows]
        for name in ("accuracy", "drop"):
            for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                columns[name + suffix] = [getattr(getattr(point, name), end) for point in rows]
        columns |= {name: [getattr(p.cost, name) for p in rows] for name in ("kv_read", "flops", "flops_share")}
        return data_frame(columns)


def hybrid_grid(
    model: Any,
    head_map: HeadMap,
    scorer: Scorer,
    *,
    keeps: Sequence[float | int],
    sinks: Sequence[int] = (128,),
    windows: Sequence[int] = (512, 1024, 2048),
    chance: float | None = None,
    dataset: str | None = None,
    resume_from: str | Path | None = None,
    confidence: float = 0.95,
) -> HybridGrid:
    """Score hybrid prefill with every number of dense heads at every sink and window, and count what it costs.

    Costs are counted from the prompts' lengths, not timed; decoding is dense and not counted.

    Args:
        model: a CoRe-wrapped model with no mode on; it is given back so.
        head_map: ranks its heads.
        scorer: an AnswerScorer, or any Scorer that enters under(batch) once with every example.
        keeps: dense heads as in HeadMap.top: shares as floats, counts as ints.
        sinks, windows: tokens of a streaming head. Prompts run hybrid at any length beyond the window.
        chance: accuracy of a guess in [0, 1], kept in the result.
        dataset: name of the scored data; None takes the head map's.
        resume_from: a file that keeps every pass's scores as soon as they are known; a study that was killed goes on
            from there, also with a larger grid.
        confidence: of the intervals, see mean_estimate and difference_estimate.

    Raises:
        ValueError: an argument is out of range, the head map is another model's, a mode is on, or resume_from holds
            another study.
    """
    check_confidence(confidence)
    require_scipy()
    sizes = _sizes(sinks, windows)
    asked = dense_counts(head_map, keeps)
    heads = {count: head_map.top(count) for count in asked}
    cells = [(*pair, count) for pair in sizes for count in asked]
    with passes("hybrid_grid", model, head_map, scorer, 1 + len(cells), resume_from) as made:
        dense, lengths = _dense(made, scorer)
        scores = [
            made.score({"sink": sink, "window": window, "keep": count}, _hybrid(model, heads[count], sink, window))
            for sink, window, count in cells
        ]
        for window in sorted(set(windows)):
            made.warn_if_short(window)
    points = []
    for (sink, window, count), found in zip(cells, scores, strict=True):
        accuracy, drop = mean_estimate(found, confidence), difference_estimate(dense, found, confidence)
        cost = attention_cost(heads[count], lengths, sink, window, head_map.num_kv_heads, head_map.head_dim)
        points.append(GridPoint(asked[count], count, sink, window, accuracy, drop, cost))
    everything = torch.ones_like(head_map.scores, dtype=torch.bool)
    return HybridGrid(
        model=head_map.base_model_name_or_path,
        dataset=head_map.dataset if dataset is None else dataset,
        num_heads=head_map.scores.numel(),
        num_examples=len(dense),
        shortest=min(lengths),
        longest=max(lengths),
        mean_tokens=sum(lengths) / len(lengths),
        dense=mean_estimate(dense, confidence),
        dense_flops=attention_cost(everything, lengths, 0, 1, head_map.num_kv_heads, head_map.head_dim).flops,
        chance=None if chance is None else float(chance),
        points=tuple(points),
        confidence=confidence,
    )


def _hybrid(model: Any, heads: torch.Tensor, sink: int, window: int) -> Under:
    return lambda batch: hybrid(model, heads, sink, window)


def _dense(made: Passes, scorer: Scorer) -> tuple[np.ndarray, list[int]]:
    """Scores of the dense pass, and how many tokens each prompt has without padding."""
    seen: list[int] = []

    def watch(batch: Prepared) -> AbstractContextManager[None]:
        mask = batch.inputs.get("attention_mask", torch.ones_like(batch.question_mask))
        seen.extend(mask.sum(dim=1).tolist())
        return nullcontext()

    scores = made.score({"keep": None}, watch)
    kept = made.journal.get(_LENGTHS)
    if kept is None:
        if not seen:  # a process was killed between the pass and its lengths
            scorer(watch)
        kept = np.array(seen, dtype=np.float64)
        if len(kept) != len(scores):
            raise ValueError(
                f"the scorer entered under(batch) with {len(kept)} examples and gave {len(scores)} scores - costs are "
                "counted from the prompts that are scored - enter it once with every example."
            )
        made.journal.append(_LENGTHS, kept)
    return scores, [int(length) for length in kept]


def _sizes(sinks: Sequence[int], windows: Sequence[int]) -> list[tuple[int, int]]:
    """Every (sink, window), rising."""
    if not sinks or not windows:
        raise ValueError(
            f"sinks={tuple(sinks)} and windows={tuple(windows)} were given - a grid needs one of each - give "
            "sinks=(0, 128), windows=(512, 2048), say."
        )
    sizes = [(sink, window) for sink in sorted(set(sinks)) for window in sorted(set(windows))]
    for sink, window in sizes:
        check_sizes(sink, window)
    return sizes
