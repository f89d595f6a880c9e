"""Evaluation: a model's accuracy on a benchmark, by group and averaged as the benchmark averages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from corehead_hf.analysis.intervals import Estimate, difference_estimate, mean_estimate
from corehead_hf.analysis.result import Floats, Result, data_frame
from corehead_hf.evaluation.records import Answer
from corehead_hf.evaluation.setting import Setting
from corehead_hf.scoring import Average, Scorer, answerable_f1, score_rules

if TYPE_CHECKING:
    from pandas import DataFrame

_F1: dict[Scorer, Callable[..., float]] = {
    score_rules: answerable_f1
}  # of the benchmarks that report one beside their accuracy


@dataclass(frozen=True)
class GroupScore:
    """One group of a benchmark's examples, such as a task.

    Attributes:
        key: of Example.details that groups, such as "task".
        name: the key's value.
        count: examples scored.
        accuracy: their mean score in [0, 1].
        averaged: whether the benchmark's average takes it in.
    """

    key: str
    name: str
    count: int
    accuracy: Estimate
    averaged: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """What a model's answers to a benchmark are worth.

    Attributes:
        model, dataset: names.
        setting: what was done to the model: hybrid prefill, ablated heads, or nothing.
        num_examples: answered and scored.
        skipped: examples that were not, by reason: "missing_media", "corrupt_media", "out_of_memory", ...
        num_unparsed: among the answered, those in which no answer could be read; they score 0.
        average: the benchmark's own, in [0, 1]; None where no example of a group it takes in was scored.
        average_kind: "micro": the mean over examples; "macro": the unweighted mean over groups.
        f1: MMLongBench-Doc's second figure, over the questions that can be answered, in [0, 1]; None elsewhere.
        averaged: the groups that the average takes in; "all" where examples are not grouped.
        missing: further groups that the benchmark's average takes in and that have no example here.
        groups: by key and name; none where the benchmark has no groups.
        ids, members, scores: of every scored example in the order of the data, its group ("all" without groups) and
            its score in [0, 1].
        batch_size, max_new_tokens: how it was answered.
        longest_prompt: tokens.
        seconds: of encoding and generating, summed over processes; a resumed run counts what was kept.
        confidence: of every interval.
    """

    kind: ClassVar[str] = "evaluation"

    model: str
    dataset: str
    setting: Setting
    num_examples: int
    skipped: dict[str, int]
    num_unparsed: int
    average: Estimate | None
    average_kind: str
    f1: float | None
    averaged: tuple[str, ...]
    missing: tuple[str, ...]
    groups: tuple[GroupScore, ...]
    ids: tuple[str, ...]
    members: tuple[str, ...]
    scores: Floats
    batch_size: int
    max_new_tokens: int
    longest_prompt: int
    seconds: float
    confidence: float = 0.95

    @classmethod
    def of(
        cls, answers: Sequence[Answer], average: Average, scorer: Scorer, confidence: float, **about: Any
    ) -> Evaluation:
        """The evaluation of a run's answers.

        Args:
            answers: in the order of the data; at least one has a score.
            average: the benchmark's.
            scorer: that scored them.
            confidence: of the intervals.
            about: model, dataset, setting, batch_size, max_new_tokens.
        """
        scored = [answer for answer in answers if answer.skipped is None]
        scores = np.array([answer.score for answer in scored], dtype=np.float64)
        members = tuple(average.group_of(answer.details) for answer in scored)
        wanted = sorted(set(members)) if average.over is None else average.over
        averaged = tuple(name for name in wanted if name in members)
        groups = [] if average.group is None else _groups(average.group, members, scores, averaged, confidence)
        for key in average.also:
            groups += _groups(key, [str(answer.details.get(key)) for answer in scored], scores, (), confidence)
        f1 = _F1.get(scorer)
        return cls(
            **about,
            num_examples=len(scored),
            skipped=dict(sorted(Counter(answer.skipped for answer in answers if answer.skipped).items())),
            num_unparsed=sum(answer.parsed is None for answer in scored),
            average=_average(members, scores, averaged, average.kind, confidence),
            average_kind=average.kind,
            f1=None if f1 is None else f1(scores.tolist(), [a.expected for a in scored], [a.text for a in scored]),
            averaged=averaged,
            missing=tuple(name for name in wanted if name not in members),
            groups=tuple(groups),
            ids=tuple(answer.id or "" for answer in scored),
            members=members,
            scores=scores,
            longest_prompt=max(answer.prompt_tokens for answer in scored),
            seconds=math.fsum(answer.seconds for answer in scored),
            confidence=confidence,
        )

    @property
    def num_skipped(self) -> int:
        """Examples that were not answered or not scored."""
        return sum(self.skipped.values())

    def group(self, name: str) -> GroupScore:
        """A group by its name.

        Raises:
            KeyError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(f"group {name!r} was asked for - there are {', '.join(group.name for group in self.groups)}")

    def drop_from(self, other: Evaluation) -> Estimate:
        """Another evaluation's average less this one's, paired by example over those that both scored.

        Raises:
            ValueError: it is of other data, averages otherwise, or shares no averaged example.
        """
        if (other.dataset, other.average_kind) != (self.dataset, self.average_kind):
            raise ValueError(
                f"the drop from {other.average_kind} {other.dataset!r} to {self.average_kind} {self.dataset!r} was "
                "asked for - scores are paired by example - give two evaluations of the same data."
            )
        known = dict(zip(other.ids, other.scores.tolist(), strict=True))
        pairs: dict[str, list[tuple[float, float]]] = {}
        for name, member, score in zip(self.ids, self.members, self.scores.tolist(), strict=True):
            if name in known and member in self.averaged:
                pairs.setdefault(member if self.average_kind == "macro" else "", []).append((known[name], score))
        if not pairs:
            raise ValueError(
                f"the drop between two evaluations of {self.dataset!r} was asked for - no averaged example was scored "
                "in both - give evaluations of the same examples."
            )
        columns = [np.array(each).T for each in pairs.values()]
        return macro_estimate([difference_estimate(other, own, self.confidence) for other, own in columns])

    def to_pandas(self) -> DataFrame:
        """One row a group; the last one, "average", is the benchmark's."""
        rows = list(self.groups)
        if self.average is not None:
            count = sum(member in self.averaged for member in self.members)
            rows.append(GroupScore("", "average", count, self.average, False))
        hybrid = self.setting.hybrid
        columns: dict[str, Any] = {"model": self.model, "dataset": self.dataset, "setting": str(self.setting)}
        columns["dense_heads"] = self.setting.num_heads if hybrid is None else len(hybrid.heads)
        columns["ablated_heads"] = sum(len(one.heads) for one in self.setting.ablated)
        columns |= {name: [getattr(row, name) for row in rows] for name in ("key", "name", "count", "averaged")}
        for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            columns[f"accuracy{suffix}"] = [getattr(row.accuracy, end) for row in rows]
        return data_frame(columns)


def macro_estimate(groups: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of the means of independent groups.

    Its interval comes from theirs by the method of variance estimates recovery (Zou and Donner 2008, Statistics in
    Medicine 27, 1693-1702): the distances from mean to end are added as squares.
    """
    below = math.hypot(*(one.value - one.low for one in groups)) / len(groups)
    above = math.hypot(*(one.high - one.value for one in groups)) / len(groups)
    mean = math.fsum(one.value for one in groups) / len(groups)
    return Estimate(mean, mean - below, mean + above)


def _groups(
    key: str, names: Sequence[str], scores: np.ndarray, averaged: Sequence[str], confidence: float
) -> list[GroupScore]:
    column = np.asarray(names, dtype=object)
    found = []
    for name in sorted(set(names)):
        inside = scores[column == name]
        found.append(GroupScore(key, name, len(inside), mean_estimate(inside, confidence), name in averaged))
    return found


def _average(
    members: Sequence[str], scores: np.ndarray, averaged: Sequence[str], kind: str, confidence: float
) -> Estimate | None:
    if not averaged:
        return None
    column = np.asarray(members, dtype=object)
    if kind == "micro":
        return mean_estimate(scores[np.isin(column, averaged)], confidence)
    return macro_estimate([mean_estimate(scores[column == name], confidence) for name in averaged])
