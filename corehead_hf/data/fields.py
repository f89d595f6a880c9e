"""Values of an annotation row, checked: every message names the value that is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from corehead_hf.data.example import Box
from corehead_hf.data.example_set import Note, RowError

# Pixels a box may reach over the edge without being counted as clipped: what float32 annotations lose in x + width.
ROUNDING = 1e-3


def shown(value: Any) -> str:
    """A value for a message, cut to a line."""
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def parse_object(text: str) -> dict[str, Any]:
    """One line of a JSON lines file."""
    try:
        text.encode()
        row = json.loads(text)
    except ValueError as error:
        raise RowError("bad_row", f"the line is not sound JSON in UTF-8: {error}.") from error
    if not isinstance(row, dict):
        raise RowError("bad_row", f"the line is {shown(row)}; expected a JSON object.")
    return row


def field(row: Any, key: str, *kinds: type) -> Any:
    """row[key], which must be there and of one of these types; a bool is never taken for a number."""
    if not isinstance(row, Mapping):
        raise RowError("bad_row", f"the row is {shown(row)}; expected an object with named values.")
    if key not in row:
        raise RowError("bad_row", f"the row has no {key!r}; it has {', '.join(map(str, row))}.")
    value = row[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise RowError("bad_row", f"{key!r} is {shown(value)}; expected {expected}.")
    return value


def numbers(value: Any, key: str, count: int) -> tuple[float, ...]:
    """A list of `count` finite numbers."""
    sound = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count
    if not sound or not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value):
        raise RowError("bad_row", f"{key!r} is {shown(value)}; expected {count} finite numbers.")
    return tuple(value)


def integers(value: Any, key: str) -> tuple[int, ...]:
    """A list of whole numbers."""
    if not isinstance(value, list) or not all(isinstance(x, int) and not isinstance(x, bool) for x in value):
        raise RowError("bad_row", f"{key!r} is {shown(value)}; expected a list of whole numbers.")
    return tuple(value)


def question_of(row: Any, key: str) -> str:
    """The question's text without spaces around it, which a chat template may drop."""
    text = field(row, key, str).strip()
    if not text:
        raise RowError("empty_question", f"{key!r} is {row[key]!r}; the question rows would be undefined.")
    return text


def answer_of(row: Any, key: str) -> str:
    """An answer as text; lists and numbers as JSON."""
    value = field(row, key, str, int, float, list)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def clip_box(box: Sequence[float], width: float, height: float, note: Note) -> Box:
    """A box (left, top, right, bottom) cut to width x height; a cut is noted as "clipped".

    Raises:
        RowError: the box is empty ("empty_box") or shows nothing of width x height ("box_outside").
    """
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise RowError("empty_box", f"the box {list(box)} is empty; boxes need left < right and top < bottom.")
    cut = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        raise RowError("box_outside", f"the box {list(box)} lies outside {width} x {height}.")
    if max(abs(a - b) for a, b in zip(box, cut, strict=True)) > ROUNDING:
        note("clipped", f"the box {list(box)} was clipped to {list(cut)}")
    return cut


def interleave(parts: Sequence[str | int]) -> tuple[str | int, ...]:
    """Texts and numbers of media with neighbouring texts joined, for Example.content."""
    joined: list[str | int] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        else:
            joined.append(part)
    return tuple(joined)
