"""MMLongBench DocQA: answers scored by their format, without a judge model.

The rules are `doc_qa` of MMLongBench's own harness (github.com/EdinburghNLP/MMLongBench, utils.py at 476fe86), whose
verdicts a test compares.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from corehead_hf.data.example import Example
from corehead_hf.scoring.scored import Scored, rule_of
from corehead_hf.scoring.text import token_f1

PREFIX = "answer:"
UNITS = (  # taken off the end, each once, in this order
    *("kg", "meters", "acres", "minutes", "miles", "mile", "feet"),
    *("million", "thousand", "billion", "mm", "m"),
)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?|-?\.\d+")
# A text like one of these must stand in the answer as it is: links, code files, page numbers, telephone numbers, times
# of day, dates, months and e-mail addresses.
EXACT = re.compile(
    r"https://|.*\.(py|ipynb)$|^page|^\d+(-\d+|\s\d+)?$|(a\.m\.|p\.m\.)"
    r"|^\d{4}[-/\s]\d{1,2}[-/\s]\d{1,2}$|^\d{1,2}[-/\s]\d{1,2}[-/\s]\d{2,4}$|^\d{4}[-/\s]\d{1,2}$"
    r"|^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$"
)
TOLERANCE = 0.01  # of a Float, relative


def score_document_qa(text: str, example: Example) -> Scored:
    """How right an answer is by the format in details["answer_format"].

    Integer: any whole number in it is the answer. Float: any number in it is within 1 % of the answer, of a hundredth
    or of a hundred times it. String and None: token F1, or containing the answer if that is a link, date or the like.
    List: the mean over its items; items of free text count as one.

    Raises:
        ValueError: the format is unknown, or the expected answer is not of it.
    """
    said = answer_part(text)
    if not said:
        return Scored(0.0, None)
    rule = rule_of(_RULES, example, "mmlongbench")
    try:
        return Scored(float(rule(example.answer, said)), said)
    except (ValueError, OverflowError, TypeError) as error:
        kind = example.details["answer_format"]
        raise ValueError(f"example {example.id!r}: its answer {example.answer!r:.99} is no {kind}: {error}.") from error


def answer_part(text: str) -> str:
    """A text less the "Answer:" it begins with.

    The harness puts the "Answer:" that ends the prompt back before a text, and takes what stands behind the first: all
    of the text, less a repetition.
    """
    said = text.strip()
    return said[len(PREFIX) :].strip() if said.lower().startswith(PREFIX) else said


def _integer(expected: Any, said: str) -> bool:
    wanted = float(_cleaned(expected))
    if wanted != int(wanted):
        raise ValueError(f"{wanted} is not whole")
    return wanted in _numbers(said)


def _float(expected: Any, said: str) -> bool:
    wanted = float(_cleaned(expected))
    return any(
        math.isclose(candidate, number, rel_tol=TOLERANCE)
        for candidate in (wanted / 100, wanted, wanted * 100)
        for number in _numbers(said)
    )


def _string(expected: str, said: str) -> float:
    return float(expected in said) if EXACT.search(expected) else token_f1(said, expected)


def _list(expected: str, said: str) -> float:
    items = json.loads(expected)
    if not isinstance(items, list) or not items:
        raise ValueError("expected a JSON list with an item")
    if merged := " ".join(item for item in items if _is_free(item)).strip():
        items = [merged, *(item for item in items if not _is_free(item))]
    scores = [_RULES[_kind(item)](item, said) for item in items]
    return sum(scores) / len(scores)


def _is_free(item: Any) -> bool:
    """Whether an item of a list is free text, neither a number nor to be found as it is."""
    return isinstance(item, str) and _kind(item) == "String" and not EXACT.search(item)


def _kind(item: Any) -> str:
    """The format an item of a list is scored by; texts may hold numbers."""
    if isinstance(item, int | float):
        return "Integer" if isinstance(item, int) else "Float"
    try:
        number = float(_cleaned(item))
        return "Integer" if number == int(number) and "%" not in item else "Float"
    except (ValueError, OverflowError):
        return "String"


def _numbers(text: str) -> list[float]:
    numbers = (float(match) for match in NUMBER.findall(_cleaned(text)))
    return [number for number in numbers if math.isfinite(number)]


def _cleaned(value: Any) -> str:
    """A number's text without unit, quotes, currency, per cent and thousands' commas."""
    text = str(value).lower().strip().replace(",", "")
    for unit in UNITS:
        text = text.removesuffix(unit).strip()
    text = re.sub(r"^['\"]|['\"]$", "", text).strip()
    for sign in "$£%":
        text = text.strip(sign).strip()
    return text


_RULES = {"Integer": _integer, "Float": _float, "String": _string, "None": _string, "List": _list}
