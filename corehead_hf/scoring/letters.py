"""Multiple choice: which letter a text chooses, as lmms-eval reads it.

The rules are those of `lmms_eval.tasks._task_utils.mcq_extract` (0.7.3), whose verdicts a test compares: capital
letters only, the surest form first, within a form the last place.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from corehead_hf.data.example import Example
from corehead_hf.scoring.scored import Scored
from corehead_hf.scoring.text import without_reasoning

MARKS = ",.!?;:'\""  # taken off both ends of the text, each once, in this order
CHOICES = 4  # of an example that does not tell its options
FORMS = ("({})", "{}.", "{}:", "{})", "{} ", "{}")  # from the surest
PHRASES = (  # what comes before the letter in "the best option is B"; in small letters
    *(f"{the}{what} is" for what in ("answer", "choice", "correct choice") for the in ("", "the ")),
    *(f"{the}{how} {what} is" for what in ("answer", "option") for how in ("correct", "best") for the in ("", "the ")),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:"),
    *("答案是", "答案为", "选", "答えは"),
)


def extract_letter(text: str, choices: Sequence[str] = ascii_uppercase[:CHOICES]) -> str | None:
    """The letter a text chooses; None where it holds none of them.

    Args:
        text: a model's answer.
        choices: the letters there are.
    """
    for mark in ("", *MARKS):
        text = text.strip(mark or None)
    padded, text = f" {text} ", text.strip()
    if not text:
        return None
    for end, neighbour in ((text[0], text[1:2]), (text[-1], text[-2:-1])):
        if end in choices and not neighbour.isalpha():
            return end
    if letter := _after_phrase(padded, choices):
        return letter
    for form in FORMS:
        place, letter = max((padded.rfind(form.format(letter)), letter) for letter in choices)
        if place >= 0:
            return letter
    return None


def _after_phrase(text: str, choices: Sequence[str]) -> str | None:
    """Of each letter's first place behind a phrase, the last letter."""
    lower, found = text.lower(), []
    for phrase in PHRASES:
        start = lower.find(phrase)
        if start >= 0:
            found += [(text.find(letter, start + len(phrase)), letter) for letter in choices]
    place, letter = max(found, default=(-1, ""))
    return letter if place >= 0 else None


def score_letter(text: str, example: Example) -> Scored:
    """1 where the text chooses the letter that is the example's answer.

    details["options"], where there, tells how many letters there are.
    """
    count = len(example.details.get("options", ())) or CHOICES
    letter = extract_letter(without_reasoning(text), ascii_uppercase[:count])
    return Scored(float(letter == example.answer), letter)
