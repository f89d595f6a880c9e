"""MMLongBench-Doc: answers scored by rules per format, as lmms-eval does, without the official extraction by GPT-4o.

The rules are those of lmms-eval's task (0.7.3), whose verdicts a test compares. What the model says is taken as the
answer, so the prompt asks for a word or a phrase.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Sequence

from corehead_hf.data.example import Example
from corehead_hf.scoring.scored import Scored, rule_of
from corehead_hf.scoring.text import anls, without_reasoning

NOT_ANSWERABLE = "not answerable"
UNITS = (" miles", " mile", " million")  # taken off the end, each once, in this order
NUMBER = re.compile(r"[-+]?\d*\.?\d+")
# A text like one of these must be said exactly: telephone numbers and months, dates, e-mail addresses.
EXACT = re.compile(r"\d+(-\d+|\s\d+)?|\d{4}[-\s]\d{2}[-\s]\d{2}|[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}")
TOLERANCE = 0.01  # of a Float, relative


def score_rules(text: str, example: Example) -> Scored:
    """How right an answer is by the format in details["answer_format"].

    Int: the first numbers are the same, cut to whole ones. Float: the first numbers are within 1 %, or the same when
    rounded, also as per cent. Str: ANLS above 0.5, or equality for links, dates and the like. List: as many items, and
    the least ANLS of the sorted items, or equality. None: "not answerable".

    Raises:
        ValueError: the format is unknown.
        ImportError: rapidfuzz is missing.
    """
    said = without_reasoning(text)
    if not said:
        return Scored(0.0, None)
    rule = rule_of(_RULES, example, "mmlongbench-doc")
    return Scored(float(rule(example.answer, said)), said)


def answerable_f1(scores: Sequence[float], expected: Sequence[str], said: Sequence[str]) -> float:
    """The benchmark's second figure: F1 over questions that can be answered, in [0, 1].

    Args:
        scores: of score_rules, [N].
        expected: the examples' answers, [N].
        said: the generated texts, [N].
    """
    wanted = [score for score, answer in zip(scores, expected, strict=True) if _cleaned(answer) != NOT_ANSWERABLE]
    texts = [_cleaned(without_reasoning(text)) for text in said]
    given = [score for score, text in zip(scores, texts, strict=True) if text != NOT_ANSWERABLE]
    recall = sum(wanted) / len(wanted) if wanted else 0.0
    precision = sum(given) / len(given) if given else 0.0
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def _int(expected: str, said: str) -> bool:
    wanted, number = _first_number(expected), _first_number(said)
    return None not in (wanted, number) and math.trunc(wanted) == math.trunc(number)  # type: ignore[arg-type]


def _float(expected: str, said: str) -> bool:
    wanted, number = _first_number(expected), _first_number(said)
    if wanted is None or number is None:
        return False
    return any(_same(candidate, number) for candidate in (wanted / 100, wanted, wanted * 100))


def _same(wanted: float, number: float) -> bool:
    digits = max(min(_digits(wanted), _digits(number)), 2)
    return math.isclose(wanted, number, rel_tol=TOLERANCE) or round(wanted, digits) == round(number, digits)


def _digits(number: float) -> int:
    """Digits behind the point of a number as Python writes it."""
    _, point, behind = str(number).partition(".")
    return len(behind) if point else 3


def _string(expected: str, said: str) -> float:
    wanted, text = _cleaned(expected), _cleaned(said)
    return float(wanted == text) if _is_exact(wanted) else anls(text, wanted)


def _list(expected: str, said: str) -> float:
    wanted, items = sorted(map(_cleaned, _items(expected))), sorted(map(_cleaned, _items(said)))
    if len(wanted) != len(items) or not wanted:
        return float(wanted == items)
    if _first_number(wanted[0]) is not None or _is_exact(wanted[0]):
        return float(wanted == items)
    return min(anls(item, one) for item, one in zip(items, wanted, strict=True))


def _none(expected: str, said: str) -> bool:
    return _cleaned(said) == NOT_ANSWERABLE


def _items(text: str) -> list[str]:
    """The items of a list as Python writes it; anything else is one item."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of a text that is no Python
            value = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return [text]
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _first_number(text: str) -> float | None:
    """The first number in a text, without thousands' commas; None where it holds none that is finite."""
    found = NUMBER.search(text.replace(",", ""))
    return float(found[0]) if found and math.isfinite(float(found[0])) else None


def _is_exact(text: str) -> bool:
    parts, ends = ("https://", "http://", "a.m.", "p.m."), (".py", ".ipynb")
    return (
        text.startswith("page")
        or text.endswith(ends)
        or any(part in text for part in parts)
        or EXACT.fullmatch(text) is not None
    )


def _cleaned(text: str) -> str:
    """Small letters, without what stands in round brackets, quotes, a dollar sign, per cent and units."""
    text = re.sub(r"\s*\([^)]*\)", "", text.lower().strip()).strip()
    text = re.sub(r"^['\"]|['\"]$", "", text).strip()
    text = text.lstrip("$").strip().rstrip("%").strip()
    for unit in UNITS:
        text = text.removesuffix(unit).strip()
    return " ".join(text.split())


_RULES = {"Int": _int, "Float": _float, "Str": _string, "List": _list, "None": _none}
