"""What verbs take on the command line, as argparse types: a value that is out of range is wrong usage, exit code 2."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

FIGURE_FORMATS = (".png", ".svg", ".pdf")


def positive(text: str) -> int:
    """An int from 1."""
    return _integer(text, 1)


def natural(text: str) -> int:
    """An int from 0."""
    return _integer(text, 0)


def count_or_share(text: str) -> int | float:
    """How many heads: "2" is two heads, "0.05" a share in (0, 1] of all, as HeadMap.top has it."""
    try:
        value = int(text)
    except ValueError:
        return share(text)
    if value < 1:
        raise ArgumentTypeError(f"{text} was given; heads are a count from 1, or a share such as 0.05")
    return value


def share(text: str) -> float:
    """A float in (0, 1]."""
    value = _number(text)
    if not 0 < value <= 1:  # true for NaN
        raise ArgumentTypeError(f"{text} was given; a share is above 0 and at most 1, such as 0.05")
    return value


def probability(text: str) -> float:
    """A float in [0, 1]."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text} was given; it is from 0 to 1")
    return value


def figure_path(text: str) -> Path:
    """A file whose suffix names the format of a figure."""
    path = Path(text)
    if path.suffix.lower() not in FIGURE_FORMATS:
        raise ArgumentTypeError(f"{text} was given; a figure's file ends in one of {', '.join(FIGURE_FORMATS)}")
    return path


def named_value(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, sign, value = text.partition("=")
    if not sign or not name or not value:
        raise ArgumentTypeError(f"{text} was given; it is NAME=VALUE")
    return name, value


def named_path(text: str) -> tuple[str, Path]:
    """NAME=PATH."""
    name, path = named_value(text)
    return name, Path(path)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text} was given; it is a whole number") from None
    if value < least:
        raise ArgumentTypeError(f"{text} was given; it is at least {least}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text} was given; it is a number") from None
