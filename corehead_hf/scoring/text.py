"""Likeness of two texts: shared words, and edit distance."""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)


REASONING = (("<think>", "</think>"), ("<analysis>", "</analysis>"))  # lmms-eval's default tags


def without_reasoning(text: str) -> str:
    """What a model says after thinking aloud, as lmms-eval (0.7.3, `api.reasoning`) takes it before it scores.

    Blocks between tags go; where the prompt opened the block and only its end is said, all up to there. A block that is
    never closed stays.
    """
    for start, end in REASONING:
        while (first := text.find(start)) >= 0 and (last := text.find(end, first)) >= 0:
            text = text[:first] + text[last + len(end) :]
        if start not in text:
            text = text.rpartition(end)[2]
    return text.strip()


def normalise(text: str) -> str:
    """Small letters, without ASCII punctuation and English articles, one space between words (SQuAD's rule)."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(said: str, expected: str) -> float:
    """Harmonic mean of precision and recall of the normalised words, in [0, 1]; repeated words count as often."""
    words, wanted = normalise(said).split(), normalise(expected).split()
    shared = (Counter(words) & Counter(wanted)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(words), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def anls(said: str, expected: str, threshold: float = 0.5) -> float:
    """1 - edit distance / longer length (ANLS of one pair), in [0, 1]; 0 where that is not above the threshold.

    Raises:
        ImportError: rapidfuzz is missing; with the remedy.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError("scoring free text needs rapidfuzz: pip install 'corehead-hf[eval]'") from error
    longer = max(len(said), len(expected))
    likeness = 1.0 - Levenshtein.distance(said, expected) / longer if longer else 1.0
    return likeness if likeness > threshold else 0.0
