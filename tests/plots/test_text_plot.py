"""Names of unknown origin: what is drawn is what can be drawn, wrapped and shortened by rules counted by hand."""

import pytest
from hand_made import head_map

from corehead_hf.plots.text import (
    about_map,
    balanced,
    clean,
    counted,
    last_part,
    packed,
    percent,
    short,
    width,
    wrapped,
)

pytest.importorskip("matplotlib")


def test_what_cannot_be_drawn_is_taken_out():
    assert clean("a\n b\t c") == "a b c"
    assert clean("$5 or $6") == r"\$5 or \$6"
    assert clean("ρ ≥ 0.5 é") == "ρ ≥ 0.5 é", "DejaVu Sans has these"
    assert clean("問題 1") == "□□ 1"
    assert clean("_hidden") == "\u00a0_hidden"


def test_the_users_own_font_counts(monkeypatch):
    """Computer Modern, which ships with matplotlib, has no such letter."""
    from matplotlib import rcParams

    monkeypatch.setitem(rcParams, "font.family", ["cmr10"])
    assert clean("éA") == "□A"


def test_long_names_lose_their_middle():
    assert short("abcdefghij", 10) == "abcdefghij"
    assert short("abcdefghijk", 10) == "abcde…hijk"
    assert short("abcdefghijk", 9) == "abcd…hijk"
    assert (
        last_part("Qwen/Qwen3-VL-8B") == "Qwen3-VL-8B"
        and last_part("/a/b/c.jsonl") == "c.jsonl"
        and last_part("") == ""
    )
    assert about_map(head_map([[0.5]], {"model": "o/m", "dataset": "d/e"}, 1)) == ("m", "e", "1 example")
    assert counted(2, "head") == "2 heads" and percent(0.05) == "5\u00a0%" and percent(0.0174) == "1.74\u00a0%"


@pytest.mark.parametrize("text", ["one two three four five six", "a-b_c/" * 20, "x" * 90, ""])
@pytest.mark.parametrize("room", [0.3, 1.0, 2.5])
def test_lines_fit_and_nothing_is_lost(text, room):
    for lines in (wrapped(text, room, 9), balanced(text, room, 9)):
        assert all(width(line, 9) <= room for line in lines.split("\n"))
        assert lines.replace("\n", "").replace(" ", "") == text.replace(" ", "")


def test_lines_break_where_words_end():
    room = width("one two", 9) + 0.01
    assert wrapped("one two three", room, 9) == "one two\nthree"
    assert wrapped("one two-three", width("one two-th", 9), 9) == "one two-\nthree"
    long = wrapped("a bcdefghijklmnop", width("a bcdefghijk", 9), 9)
    assert long == "a bcdefghijk\nlmnop", "a line with one letter was made"
    assert (
        balanced("aaaa bbbb cccc dddd eeee", width("aaaa bbbb cccc dddd", 9) + 0.01, 9) == "aaaa bbbb cccc\ndddd eeee"
    )


def test_parts_stay_whole():
    room = width("model, data set", 9) + 0.1
    assert packed(["model", "data set", "5 examples"], room, 9) == "model, data set,\n5 examples"
    assert packed(["one"], room, 9) == "one" and packed([], room, 9) == ""
