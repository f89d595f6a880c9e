"""From scores of examples to the figure a benchmark reports: the mean of each group, and their average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("micro", "macro")
ALL = "all"  # the one group of examples that are not grouped


@dataclass(frozen=True)
class Average:
    """How a benchmark averages.

    Args:
        group: key of Example.details whose values are the groups; None: all examples are one group.
        kind: "micro": the mean over examples; "macro": the unweighted mean over the means of the groups.
        over: the groups that count for the average; None means all. Groups beside it are reported all the same.
        also: other keys of Example.details by which the means are of interest.
    """

    group: str | None = None
    kind: str = "micro"
    over: tuple[str, ...] | None = None
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} was given; it is one of {', '.join(KINDS)}.")
        if self.kind == "macro" and self.group is None:
            raise ValueError("a macro average was asked without groups; name the key of Example.details in group.")

    def group_of(self, details: Mapping[str, Any]) -> str:
        """The group of an example with these details.

        Raises:
            ValueError: they do not tell.
        """
        if self.group is None:
            return ALL
        if self.group not in details:
            raise ValueError(
                f"an example's details are {dict(details)!r:.160}; its group is asked by {self.group!r}. Load it by "
                "the data set that is scored, the two of MMLongBench with answering=True, or average without groups."
            )
        return str(details[self.group])


@dataclass(frozen=True)
class Group:
    """Examples of one group: how many, and their mean score in [0, 1]."""

    count: int
    mean: float


@dataclass(frozen=True)
class Summary:
    """What summarise gives.

    Attributes:
        average: in [0, 1]; None where no example counts for it.
        groups: by name, in order of their names.
        missing: groups that should count for the average and have no example; it is taken over the others.
    """

    average: float | None
    groups: dict[str, Group]
    missing: tuple[str, ...]


def summarise(scores: Sequence[float], groups: Sequence[str], average: Average) -> Summary:
    """The mean of each group and the benchmark's average.

    Args:
        scores: [N], each in [0, 1].
        groups: the group of each example, [N].
        average: the benchmark's.

    Raises:
        ValueError: lengths that differ.
    """
    values, names = np.asarray(scores, dtype=np.float64), np.asarray(groups, dtype=object)
    if values.shape != names.shape:
        raise ValueError(f"{len(values)} scores and {len(names)} groups were given; give one group per score.")
    inside = {name: values[names == name] for name in sorted(set(groups))}
    means = {name: Group(len(part), float(part.mean())) for name, part in inside.items()}
    over = tuple(means) if average.over is None else average.over
    missing = tuple(name for name in over if name not in means)
    parts = [part for name, part in inside.items() if name in over]
    if not parts:
        return Summary(None, means, missing)
    value = np.mean([part.mean() for part in parts]) if average.kind == "macro" else np.concatenate(parts).mean()
    return Summary(float(value), means, missing)
