"""Strict JSON from strangers: a ValueError for everything that is wrong with it."""

from __future__ import annotations

import json
from typing import Any

MAX_INT_DIGITS = 18


def strict_json(data: bytes) -> dict[str, Any]:
    """The object in data; json.loads alone takes repeated keys, NaN, and integers of any length.

    Raises:
        ValueError: it is not strict JSON in UTF-8, too deep, has integers of too many digits, or is no object.
    """
    try:
        parsed = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # UnicodeDecodeError and JSONDecodeError are ValueErrors too.
    except ValueError as error:
        raise ValueError(f"it is not strict JSON: {error!s:.200}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"it is a JSON {type(parsed).__name__}, not an object")
    return parsed


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"duplicate key {key!r:.60}")
        unique[key] = value
    return unique


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _bounded_int(text: str) -> int:
    if len(text) > MAX_INT_DIGITS:
        raise ValueError(f"an integer of {len(text)} characters; at most {MAX_INT_DIGITS} are read")
    return int(text)
