"""Tables and bars of the verbs' text answers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of an aligned table: numbers to the right, text to the left.

    A float has three digits after the point, an Estimate its interval behind it, None is a dash.
    """
    lines = [list(row) for row in rows]
    cells = [list(header), *([_cell(value) for value in line] for line in lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    right = [all(not isinstance(line[column], str) for line in lines) for column in range(len(header))]
    return [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    ]


def interval(estimate: Any) -> str:
    """An Estimate as "0.950 [0.910, 0.980]"."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def heads_text(heads: Iterable[Sequence[int]], most: int = 12) -> str:
    """Heads as "(layer, head)", the first `most` of them."""
    listed = [f"({layer}, {head})" for layer, head in heads]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more


def printable(text: str) -> str:
    """A text of unknown origin with what would steer a terminal written as its escape."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def columns() -> int:
    """How wide the terminal is; 80 where there is none."""
    return shutil.get_terminal_size().columns


def has_blocks() -> bool:
    """Whether standard output can show block characters."""
    try:
        _EIGHTHS.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def bar(share: float, width: int, blocks: bool) -> str:
    """A bar of `width` characters at share = 1: blocks to an eighth of a character, or whole "#".

    What is above 0 is seen: it gets at least the smallest piece.
    """
    pieces = 8 if blocks else 1
    length = max(round(share * width * pieces), 1 if share > 0 else 0)
    whole, rest = divmod(length, pieces)
    return _EIGHTHS[-1] * whole + _EIGHTHS[rest].strip() if blocks else "#" * whole


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if hasattr(value, "low") and hasattr(value, "high"):
        return interval(value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)
