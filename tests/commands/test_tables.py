"""Tables, bars and escapes, character by character; argparse types at their limits."""

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from corehead_hf.analysis.ablation import GROUPS
from corehead_hf.analysis.intervals import Estimate
from corehead_hf.commands import ablate
from corehead_hf.commands.tables import bar, heads_text, printable, table
from corehead_hf.commands.values import count_or_share, figure_path, named_path, natural, positive, probability, share
from corehead_hf.modes import ABLATION_VARIANTS


def test_a_table():
    lines = table(["name", "n", "value"], [["a", 1, 0.25], ["long", 100, Estimate(0.5, 0.25, 1.0)], ["b", 7, None]])
    assert lines == [
        "name    n                 value",
        "a       1                 0.250",
        "long  100  0.500 [0.250, 1.000]",
        "b       7                     -",
    ]
    assert table(["only"], []) == ["only"]


@pytest.mark.parametrize(
    "share_, blocks, drawn",
    [(0, True, ""), (0, False, ""), (1, True, "████"), (1, False, "####"), (0.5, False, "##"), (1e-9, True, "▏")]
    + [(1e-9, False, "#"), (0.25 + 1 / 32, True, "█▏"), (0.5 - 1 / 32, True, "█▉"), (0.375, True, "█▌")],
)
def test_bars_of_four_characters(share_, blocks, drawn):
    assert bar(share_, 4, blocks) == drawn


def test_lists_of_heads():
    assert heads_text([]) == "none"
    assert heads_text([(0, 1), (22, 3)]) == "(0, 1), (22, 3)"
    assert heads_text([(n, 0) for n in range(5)], most=2) == "(0, 0), (1, 0) and 3 more"


def test_escapes():
    assert printable("a\tb\x1b[1mé\u202e") == "a\\tb\\x1b[1mé\\u202e"


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (count_or_share, "1", 1),
        (count_or_share, "1.0", 1.0),
        (count_or_share, "0.05", 0.05),
        (share, "1", 1.0),
        (positive, "3", 3),
        (natural, "0", 0),
        (probability, "0", 0.0),
        (figure_path, "a/b.PDF", Path("a/b.PDF")),
        (named_path, "a=b=c", ("a", Path("b=c"))),
    ],
)
def test_values(kind, text, value):
    found = kind(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "kind, text",
    [(count_or_share, text) for text in ("0", "-1", "1.5", "nan", "x")]
    + [(share, "0"), (share, "1.01"), (positive, "0"), (positive, "1.0"), (natural, "-1"), (probability, "1.1")]
    + [(probability, "nan"), (figure_path, "a.gif"), (figure_path, "png")]
    + [(named_path, text) for text in ("a", "=b", "a=")],
)
def test_values_that_are_refused(kind, text):
    with pytest.raises(ArgumentTypeError, match="was given"):
        kind(text)


def test_the_choices_of_ablate_are_those_of_the_study():
    assert ablate.GROUPS == GROUPS and ablate.VARIANTS == ABLATION_VARIANTS
