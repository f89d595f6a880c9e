"""What a scorer says of one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from corehead_hf.data.example import Example


@dataclass(frozen=True)
class Scored:
    """The verdict on an answer.

    Args:
        score: how right it is, in [0, 1].
        parsed: what was read as the answer; None where none could be read, which scores 0.
    """

    score: float
    parsed: str | None

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1 or (self.parsed is None and self.score):
            raise ValueError(f"{self!r} was given; a score lies in [0, 1], and is 0 where no answer was read.")


Rule = TypeVar("Rule")
Scorer: TypeAlias = Callable[[str, Example], Scored]  # (generated text, its example) -> verdict


def exact_match(text: str, example: Example) -> Scored:
    """1 where the text without spaces around it is the answer."""
    said = text.strip()
    return Scored(float(said == example.answer), said) if said else Scored(0.0, None)


def rule_of(rules: Mapping[str, Rule], example: Example, dataset: str) -> Rule:
    """The rule for the format of an example's answer, details["answer_format"].

    Raises:
        ValueError: there is none.
    """
    kind = example.details.get("answer_format")
    if not isinstance(kind, str) or kind not in rules:
        raise ValueError(
            f"example {example.id!r} has the answer format {kind!r}; known are {', '.join(rules)}. Load it by "
            f"corehead_hf.data.load({dataset!r}, ..., answering=True)."
        )
    return rules[kind]
