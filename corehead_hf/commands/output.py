"""What a verb answers: text for people, JSON values for programs; cli.py prints one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Output:
    """The answer of one verb.

    Attributes:
        text: for a terminal, without a last line break.
        data: the same as JSON values, for `--format json`.
    """

    text: str
    data: dict[str, Any]
