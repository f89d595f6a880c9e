"""Verdicts by hand, and what is refused. That they are the original ones is in test_verdicts.py."""

import json
import sys

import numpy as np
import pytest

from corehead_hf import Example
from corehead_hf.scoring import AVERAGES, MAX_NEW_TOKENS, SCORERS, Scored, answerable_f1, extract_letter
from corehead_hf.scoring.text import anls, token_f1

PICTURE = np.zeros((4, 4, 3), np.uint8)


def score(dataset, text, answer, kind=None, **details):
    details |= {} if kind is None else {"answer_format": kind}
    found = SCORERS[dataset](text, Example("x", (PICTURE,), "What?", answer, (), details=details))
    return found.score, found.parsed


def test_every_scored_data_set_has_its_average_and_length():
    assert set(SCORERS) == set(AVERAGES) == set(MAX_NEW_TOKENS)


@pytest.mark.parametrize("dataset", SCORERS)
@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_answer_is_not_parsed_and_scores_nothing(dataset, text):
    assert score(dataset, text, "A", "Str") == (0.0, None)


@pytest.mark.parametrize(
    "text, letter",
    [
        ("B", "B"),
        ("B. Because A is wrong", "B"),  # the start counts most
        ("Not A but B", "B"),  # then the end
        ("the answer is C, (A) is not", "A"),  # of the letters behind the phrase the last; lmms-eval reads it so
        ("see (A) and (C) here", "C"),  # within a form the last
        ("C: red, (A) blue, more", "C"),
        ("red, A. blue, (D) grey", "D"),  # brackets before a full stop
        ("see (A), (B), (A) there", "A"),
        ("(D), I CHOOSE it", "D"),  # behind the phrase there is no letter
        ("a cat", None),  # small letters are none
        ("Dogs", "D"),  # any capital, at last
        ("E", None),
        ("A1", "A"),
        ("\tB\n", "B"),
    ],
)
def test_letters_by_hand(text, letter):
    assert extract_letter(text) == letter
    assert score("mlvu", text, "A") == (float(letter == "A"), letter)


def test_the_options_tell_how_many_letters_there_are():
    assert score("video-mme", "E", "E") == (0.0, None)
    assert score("video-mme", "E", "E", options=["a", "b", "c", "d", "e"]) == (1.0, "E")
    assert score("video-mme", "D", "A", options=["a", "b"]) == (0.0, None)


@pytest.mark.parametrize(
    "kind, answer, text, expected",
    [
        ("Integer", "12", "Answer: 7 or 12 dogs", 1),
        ("Integer", "1,200", "1200.0", 1),
        ("Integer", "12 thousand million", "12", 1),
        ("Integer", "12", "12.5", 0),
        ("Float", "0.45", "45%", 1),  # a hundred times it
        ("Float", "100", "101 m", 1),  # within 1 %
        ("Float", "100", "102", 0),
        ("String", "the red fox", "Red fox!", 1),
        ("String", "red fox", "a fox", 2 / 3),  # precision 1, recall 1/2
        ("String", "page 12", "on page 12 it is", 1),  # a page number must be in it
        ("String", "page 12", "12", 0),
        ("String", "last page", "the last page is", 4 / 5),
        ("None", "Not answerable", "Answer: Not answerable.", 1),
        ("List", '["red fox", "12", "blue"]', "12", 1 / 2),  # "red fox blue" counts as one
        ("List", '["5%", 7]', "7 of 5", 1),
        ("List", '["", "12"]', "12", 1 / 2),
    ],
)
def test_document_answers_by_hand(kind, answer, text, expected):
    assert score("mmlongbench", text, answer, kind)[0] == pytest.approx(expected)


def test_the_answer_stands_behind_its_prefix():
    assert score("mmlongbench", " Answer: 12 \n", "12", "Integer") == (1.0, "12")
    # The harness finds the prompt's own "Answer:" first; a later one splits nothing.
    assert score("mmlongbench", "I think 3. Answer: 12", "3", "Integer") == (1.0, "I think 3. Answer: 12")
    assert score("mmlongbench", "Answer:", "12", "Integer") == (0.0, None)


@pytest.mark.parametrize(
    "kind, answer, text, expected",
    [
        ("Int", "12", "about 12.9", 1),  # cut, as lmms-eval does
        ("Int", "12", "page 3: 12", 0),  # the first number counts
        ("Int", "12", "9" * 400, 0),  # no finite number
        ("Float", "0.45", "45", 1),
        ("Float", "33.33", "33.5", 1),
        ("Float", "33.33", "34", 0),
        ("Float", "0.1", "0.13", 0),  # rounded to two digits at least
        ("Float", "0.001", "0.002", 0),
        ("Float", "0.0000001", "0.004", 0),  # which Python writes 1e-07: three digits
        ("Str", "Less well-off", "less well off", 1 - 1 / 13),
        ("Str", "abcd", "abxx", 0),  # 1/2 is not above the threshold
        ("Str", "2020-05-01", "2020-05-02", 0),
        ("Str", "5 miles", "5", 1),
        ("Str", "$abc$", "abc", 3 / 4),
        ("Str", "smiles", "smiled", 5 / 6),  # no unit
        ("List", "['blue', 'red']", "['red', 'blue']", 1),
        ("List", "['blue', 'reddish']", "['reddisx', 'blue']", 1 - 1 / 7),  # the least counts
        ("List", "['blue', 'red']", "blue, red", 0),
        ("List", "['12', 'red']", "['12', 'rad']", 0),  # numbers: all must be the same
        ("None", "Not answerable", "not answerable", 1),
        ("None", "Not answerable", "Not answerable.", 0),
    ],
)
def test_rules_of_mmlongbench_doc_by_hand(kind, answer, text, expected):
    assert score("mmlongbench-doc", text, answer, kind)[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["[" * 300, "{[]: 1}", "'\\d' is 1is", "\x00", "9" * 5000, "[1] * 2", "-" * 9000 + "1"]
)
@pytest.mark.parametrize("kind", ["Str", "Int", "Float", "List", "None"])
@pytest.mark.filterwarnings("error")
def test_no_answer_breaks_the_rules(text, kind):
    assert score("mmlongbench-doc", text, "['a']", kind) == (0.0, text)


def test_f1_of_answerable_questions_by_hand():
    """Two of three can be answered, one of them is right: recall 1/2. The model answers one, and is right: 1."""
    scores = [1.0, 0.0, 1.0]
    expected, said = ["12", "red", "Not answerable"], ["12", "not answerable", "Not answerable"]
    assert answerable_f1(scores, expected, said) == pytest.approx(2 * (1 / 2) * 1 / (1 / 2 + 1))
    assert answerable_f1([0.0, 0.0], ["1", "2"], ["3", "4"]) == 0.0
    with pytest.raises(ValueError):
        answerable_f1([1.0], ["1"], [])


@pytest.mark.parametrize(
    "dataset, answer, kind",
    [("mlvu", "B", None), ("video-mme", "B", None), ("mmlongbench-doc", "12", "Int"),
     ("mmlongbench-doc", "Not answerable", "None"), ("mmlongbench-doc", "['red', 'blue']", "List")],
)  # fmt: skip
@pytest.mark.parametrize(
    "thought", ["<think>It is A, 7.</think>\n\n", "It is A, 7.\n</think>\n\n", "<analysis>A 7</analysis>"]
)
def test_what_is_thought_aloud_is_not_scored_as_in_lmms_eval(dataset, answer, kind, thought):
    assert score(dataset, thought + answer, answer, kind) == (1.0, answer)
    assert answerable_f1([1.0, 1.0], ["12", "Not answerable"], ["12", thought + "Not answerable"]) == 1.0


def test_exact_answers():
    assert score("glyphs", " K\n", "K") == (1.0, "K")
    assert score("jsonl", "k", "K") == (0.0, "k")


def test_words_and_distances():
    assert token_f1("a b b", "the b") == pytest.approx(2 / 3)  # "b" once of two, of one; articles go
    assert token_f1("", "x") == 0.0
    assert anls("kitten", "sitting") == pytest.approx(1 - 3 / 7) and anls("", "") == 1.0 and anls("", "ab") == 0.0


def test_what_cannot_be_scored_is_named():
    with pytest.raises(ValueError, match=r"'x' has the answer format None; known are Integer, .*answering=True"):
        score("mmlongbench", "12", "12")
    with pytest.raises(ValueError, match="'x' has the answer format 'String'; known are Int, Float"):
        score("mmlongbench-doc", "12", "12", "String")
    for kind, answer in (("Integer", "many"), ("Integer", "1.5"), ("List", "red"), ("List", "[]"), ("List", "[null]")):
        with pytest.raises(ValueError, match=f"'x': its answer '.*' is no {kind}"):
            score("mmlongbench", "12", answer, kind)
    for wrong in ((1.5, "A"), (float("nan"), "A"), (1.0, None)):
        with pytest.raises(ValueError, match="a score lies in"):
            Scored(*wrong)


def test_without_rapidfuzz_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(ImportError, match=r"pip install 'corehead-hf\[eval\]'"):
        score("mmlongbench-doc", "red", "blue", "Str")
    assert score("mmlongbench", "red", json.dumps(["red"]), "List") == (1.0, "red")  # which needs none
