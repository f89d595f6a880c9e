"""What the top heads do for the answers: accuracy against ablated heads, beside bottom and random ones (Fig. 6a)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from corehead_hf.analysis.answers import Scorer, batches_digest
from corehead_hf.analysis.groups import GROUPS, draw_groups
from corehead_hf.analysis.intervals import (
    Estimate,
    check_confidence,
    difference_estimate,
    envelope,
    mean_estimate,
    require_scipy,
)
from corehead_hf.analysis.interventions import Ablations
from corehead_hf.analysis.passes import passes
from corehead_hf.analysis.result import Result, data_frame
from corehead_hf.families import Prepared
from corehead_hf.head_map import HeadMap
from corehead_hf.kernels import check_sizes
from corehead_hf.modes import ABLATION_VARIANTS

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class AblationPoint:
    """Scores with some heads ablated.

    Attributes:
        variant: of the ablation.
        group: how the heads were chosen, one of GROUPS.
        count: of ablated heads.
        seed: of random heads, else None.
        accuracy: mean score.
        drop: mean of dense score less this one, paired by example: above 0 = the heads matter.
    """

    variant: str
    group: str
    count: int
    seed: int | None
    accuracy: Estimate
    drop: Estimate


@dataclass(frozen=True)
class GroupPoint:
    """A group at one count, over its seeds.

    Attributes:
        count: of ablated heads.
        mean: of the seeds' accuracies.
        low, high: the lowest and the highest end of the seeds' intervals.
        seeds: which; empty where nothing is random.
    """

    count: int
    mean: float
    low: float
    high: float
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AblationCurve(Result):
    """Accuracy against the number of ablated heads (Fig. 6a).

    Attributes:
        model, dataset: names.
        num_heads: L * Hq.
        num_examples: scored in every pass.
        dense: mean score with nothing ablated.
        chance: accuracy of a guess, or None.
        points: by variant, group, count and seed.
        sink_size, window_size: of the variant "stream".
        confidence: of every interval.
    """

    kind: ClassVar[str] = "ablation"

    model: str
    dataset: str
    num_heads: int
    num_examples: int
    dense: Estimate
    chance: float | None
    points: tuple[AblationPoint, ...]
    sink_size: int = 128
    window_size: int = 2048
    confidence: float = 0.95

    @property
    def variants(self) -> tuple[str, ...]:
        """Of the points, in order."""
        return tuple(dict.fromkeys(point.variant for point in self.points))

    @property
    def groups(self) -> tuple[str, ...]:
        """Of the points, in order."""
        return tuple(dict.fromkeys(point.group for point in self.points))

    def series(self, variant: str, group: str) -> list[GroupPoint]:
        """A group's points by count, without the dense model (count 0); empty where none of its groups could be drawn.

        Raises:
            ValueError: the curve has no such variant or group at all.
        """
        for name, known in ((variant, self.variants), (group, self.groups)):
            if name not in known:
                raise ValueError(f"{name!r} was asked of an ablation curve - it has {', '.join(known)} - take one.")
        by_count: dict[int, list[AblationPoint]] = {}
        for point in self.points:
            if (point.variant, point.group) == (variant, group):
                by_count.setdefault(point.count, []).append(point)
        return [_over_seeds(count, found) for count, found in sorted(by_count.items())]

    def to_pandas(self) -> DataFrame:
        """One row a point; the first is the dense model, variant "none" of group "dense"; without a seed it is NaN."""
        dense = AblationPoint("none", "dense", 0, None, self.dense, Estimate(0.0, 0.0, 0.0))
        rows = (dense, *self.points)
        columns: dict[str, Any] = {"model": self.model, "dataset": self.dataset}
        columns |= {name: [getattr(row, name) for row in rows] for name in ("variant", "group", "count")}
        columns["seed"] = [float("nan") if row.seed is None else row.seed for row in rows]
        for name in ("accuracy", "drop"):
            for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                columns[name + suffix] = [getattr(getattr(row, name), end) for row in rows]
        return data_frame(columns)


def ablation_curve(
    model: Any,
    head_map: HeadMap,
    scorer: Scorer,
    *,
    counts: Sequence[float | int],
    groups: Sequence[str] = GROUPS,
    variants: Sequence[str] = ("zero",),
    seeds: Sequence[int] = (0, 1, 2),
    reference: Sequence[Prepared] | None = None,
    sink_size: int = 128,
    window_size: int = 2048,
    chance: float | None = None,
    dataset: str | None = None,
    resume_from: str | Path | None = None,
    confidence: float = 0.95,
) -> AblationCurve:
    """Score a model with more and more heads ablated (Fig. 6a): one pass a variant, group, count and seed.

    Every group has the same number of heads, and random ones are never top ones. A claim about the top heads should
    hold in every variant.

    Args:
        model: a CoRe-wrapped model with no mode on.
        head_map: ranks its heads.
        scorer: an AnswerScorer, or any Scorer.
        counts: heads to ablate, as in HeadMap.top; the dense point (0) is always there.
        groups: of GROUPS; see draw_groups for what is left out.
        variants: of modes.AblateHeads.
        seeds: of the random groups.
        reference: batches over which the mean outputs of "mean" are taken.
        sink_size, window_size: tokens a head keeps in "stream".
        chance: accuracy of a guess in [0, 1], kept in the result.
        dataset: name of the scored data; None takes the head map's.
        resume_from: a file that keeps every pass's scores as soon as they are known; a study that was killed goes on
            from there, also with more counts, groups, variants or seeds.
        confidence: of the intervals, see mean_estimate and difference_estimate.

    Raises:
        ValueError: an argument is out of range or missing, the head map is another model's, a mode is on, or
            resume_from holds another study.
    """
    drawn, variants = draw_groups(head_map, counts, groups, seeds), tuple(dict.fromkeys(variants))
    _check(variants, reference, sink_size, window_size, confidence)
    ablations = Ablations(model, reference, sink_size, window_size)
    settings: dict[str, Any] = {"sink_size": sink_size, "window_size": window_size}
    if resume_from is not None:
        settings["reference"] = None if reference is None else batches_digest(reference)
    total, points = 1 + len(variants) * len(drawn), []
    with passes("ablation_curve", model, head_map, scorer, total, resume_from, **settings) as made:
        dense = made.score({"group": "dense"})
        for variant in variants:
            for group in drawn:
                key = {"variant": variant, "group": group.name, "count": group.count, "seed": group.seed}
                scores = made.score(key, ablations.of(group.heads, variant))
                accuracy, drop = mean_estimate(scores, confidence), difference_estimate(dense, scores, confidence)
                points.append(AblationPoint(variant, group.name, group.count, group.seed, accuracy, drop))
        if "stream" in variants:
            made.warn_if_short(window_size)
    return AblationCurve(
        model=head_map.base_model_name_or_path,
        dataset=head_map.dataset if dataset is None else dataset,
        num_heads=head_map.scores.numel(),
        num_examples=len(dense),
        dense=mean_estimate(dense, confidence),
        chance=None if chance is None else float(chance),
        points=tuple(points),
        sink_size=sink_size,
        window_size=window_size,
        confidence=confidence,
    )


def _check(
    variants: tuple[str, ...], reference: Sequence[Prepared] | None, sink_size: int, window_size: int, confidence: float
) -> None:
    """Before a long study, not after it."""
    unknown = [variant for variant in variants if variant not in ABLATION_VARIANTS]
    if unknown or not variants:
        known = ", ".join(ABLATION_VARIANTS)
        raise ValueError(f"variants {list(variants)} were asked for - known are {known} - name at least one.")
    if "mean" in variants and not reference:
        raise ValueError(
            "variant 'mean' was asked for without reference - it puts in the heads' mean outputs over some prompts - "
            "give batches of them, other ones than those that are scored."
        )
    check_sizes(sink_size, window_size)
    check_confidence(confidence)
    require_scipy()


def _over_seeds(count: int, points: list[AblationPoint]) -> GroupPoint:
    over = envelope([point.accuracy for point in points])
    return GroupPoint(count, over.value, over.low, over.high, tuple(p.seed for p in points if p.seed is not None))
