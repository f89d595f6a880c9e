"""What a verb answers: text for people, JSON values for programs; cli.py prints one of them."""

from __future__ import annotations

import argparse
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


def add_format_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Which of the two is printed."""
    parser.add_argument("--format", choices=("text", "json"), default=default, help="what is printed (default: text)")
