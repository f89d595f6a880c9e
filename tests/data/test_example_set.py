"""What every data set shares: laziness, iterating again, the account of rows."""

import gc
import logging
import weakref

import numpy as np
import pytest

from corehead_hf import Evidence, Example, data
from corehead_hf.data import glyphs
from corehead_hf.data.example_set import ExampleSet, Excluded, Row, RowError, broken
from corehead_hf.data.fields import answer_of, clip_box, field, integers, interleave, numbers, question_of

PAGE = np.zeros((30, 40, 3), dtype=np.uint8)


def example(name):
    return Example(name, (PAGE,), "Where?", "", (Evidence(0),))


class Rows:
    """One row per character: 'e' excluded, 'b' bad, 'x' unreadable, 'd' a duplicate id, 'c' changed twice."""

    name = "rows"

    def __init__(self, plan):
        self.plan, self.built = plan, []

    def iter_rows(self):
        for number, kind in enumerate(self.plan):
            where = f"rows:{number}"
            if kind == "x":
                yield broken(where, RowError("bad_row", "unreadable."))
            else:
                yield Row(
                    where, "same" if kind == "d" else f"{number}", lambda note, n=number, k=kind: self.build(n, k, note)
                )

    def build(self, number, kind, note):
        self.built.append(number)
        if kind == "c":
            note("clipped", "a")
            note("clipped", "b")
        if kind == "e":
            note("clipped", "never counted")
            raise Excluded("no_evidence", "nothing to see.")
        if kind == "b":
            raise ValueError("value 7 is wrong.")
        return example("same" if kind == "d" else f"{number}")


def test_every_row_is_accounted_for(caplog):
    examples = ExampleSet(Rows(".cexb.dd."), on_error="skip")
    with caplog.at_level(logging.INFO):
        names = [made.id for made in examples]
    assert names == ["0", "1", "5", "same", "8"]
    report = examples.report
    counts = {"yielded": 5, "clipped": 1, "no_evidence": 1, "bad_row": 2, "duplicate_id": 1}
    assert report.counts == counts and report.rows == 9 == report.yielded + sum(report.skipped.values())
    assert report.described["bad_row"] == ["rows:3: unreadable.", "rows:4: value 7 is wrong."]
    assert report.described["clipped"] == ["rows:1: a", "rows:1: b"]
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "5 examples from 9 rows" in record.message
    assert "skipped: bad_row 2, e.g. rows:3: unreadable." in record.message


def test_a_clean_run_is_logged_quietly(caplog):
    with caplog.at_level(logging.INFO):
        list(ExampleSet(Rows("..")))
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "rows: 2 examples from 2 rows")
    ]


def test_a_wrong_row_raises_with_its_place_and_the_way_out():
    examples = ExampleSet(Rows(".eb."))
    with pytest.raises(ValueError, match=r"^rows:2: value 7 is wrong\. .*on_error='skip'"):
        list(examples)
    assert examples.report.counts == {"yielded": 1, "no_evidence": 1}


def test_only_a_few_rows_are_described_but_all_are_counted():
    examples = ExampleSet(Rows("b" * 50), on_error="skip")
    assert list(examples) == []
    assert examples.report.skipped == {"bad_row": 50} and len(examples.report.described["bad_row"]) == 5


def test_iterating_again_starts_again():
    examples = ExampleSet(Rows(".e."), on_error="skip")
    first, second = [[made.id for made in examples] for _ in range(2)]
    assert first == second == ["0", "2"] and examples.report.rows == 3


def test_rows_are_built_one_at_a_time_and_not_kept():
    source = Rows("." * 6)
    iterator = iter(ExampleSet(source))
    held = weakref.ref(next(iterator))
    assert source.built == [0]
    next(iterator)
    gc.collect()
    assert source.built == [0, 1] and held() is None


def test_a_broken_last_row_does_not_hurt_the_first():
    iterator = iter(ExampleSet(Rows("..b")))
    assert [next(iterator).id, next(iterator).id] == ["0", "1"]
    with pytest.raises(ValueError, match="rows:2"):
        next(iterator)


def test_limit_counts_examples_and_reads_no_further():
    source = Rows(".e.b...")
    examples = ExampleSet(source, on_error="skip", limit=2)
    assert [made.id for made in examples] == ["0", "2"] and source.built == [0, 1, 2]


def test_known_ids_are_not_built_and_count_for_the_limit():
    source = Rows("....")
    examples = ExampleSet(source, limit=3).without({"0"}).without(["1"])
    assert [made.id for made in examples] == ["2"] and source.built == [2]
    assert examples.report.counts == {"yielded": 1, "done_before": 2}


@pytest.mark.parametrize("arguments", [{"on_error": "warn"}, {"limit": 0}])
def test_wrong_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="was given"):
        ExampleSet(Rows("."), **arguments)


def test_clipping_by_hand():
    notes = []

    def clip(*box):
        return clip_box(box, 40, 30, lambda *note: notes.append(note))

    assert clip(0, 0, 40, 30) == (0, 0, 40, 30) and clip(1.5, 2, 3, 4) == (1.5, 2, 3, 4)
    assert clip(30, 20, 40.00003, 30) == (30, 20, 40, 30) and notes == []  # float32 noise
    assert clip(-5, 2, 50, 31) == (0, 2, 40, 30)
    assert notes == [("clipped", "the box [-5, 2, 50, 31] was clipped to [0, 2, 40, 30]")]
    for box, reason in [((3, 2, 3, 9), "empty_box"), ((3, 9, 8, 9), "empty_box"), ((8, 2, 3, 9), "empty_box")]:
        with pytest.raises(RowError) as error:
            clip(*box)
        assert error.value.reason == reason and str(list(box)) in str(error.value)
    for box in [(40, 0, 50, 9), (-9, 0, 0, 9), (0, 30, 9, 31), (0, -9, 9, 0)]:
        with pytest.raises(RowError, match="outside 40 x 30") as error:
            clip(*box)
        assert error.value.reason == "box_outside"


@pytest.mark.parametrize(
    "check, reason",
    [
        (lambda: field({"a": 1}, "b", int), "no 'b'; it has a"),
        (lambda: field({"a": True}, "a", int), "'a' is True; expected int"),
        (lambda: field([1], "a", int), r"the row is \[1\]"),
        (lambda: numbers([1, 2, 3], "bbox", 4), "4 finite numbers"),
        (lambda: numbers([1, 2, 3, float("nan")], "bbox", 4), "4 finite numbers"),
        (lambda: numbers([1, 2, 3, True], "bbox", 4), "4 finite numbers"),
        (lambda: numbers("1234", "bbox", 4), "4 finite numbers"),
        (lambda: integers([1, 2.0], "pages"), "whole numbers"),
        (lambda: question_of({"q": " \n"}, "q"), "question rows would be undefined"),
    ],
)
def test_wrong_values_are_named(check, reason):
    with pytest.raises(RowError, match=reason):
        check()


def test_small_helpers_by_hand():
    assert question_of({"q": "  Where? "}, "q") == "Where?"
    assert answer_of({"a": ["x", 2]}, "a") == '["x", 2]' and answer_of({"a": "x"}, "a") == "x"
    assert interleave(["a", "b", 0, 1, "c", "d"]) == ("ab", 0, 1, "cd")


def test_glyphs_by_name():
    examples = data.load("glyphs", num_examples=3, seed=5, pages=2, rows=4, margin=8)
    assert [made.id for made in examples] == [f"glyphs-5-2x4x4-{i}" for i in range(3)]
    expected = next(glyphs.generate(1, seed=5, pages=2, margin=8))
    assert (next(iter(examples)).media[0] == expected.media[0]).all()


@pytest.mark.parametrize(
    "arguments, error, reason",
    [
        (("coco",), ValueError, "'coco' was asked; known are glyphs, jsonl, mlvu, mmdocir"),
        (("refcocog",), ValueError, "needs path"),
        (("glyphs", "folder"), ValueError, "takes none"),
    ],
)
def test_load_refuses(arguments, error, reason):
    options = {"num_examples": 1, "seed": 0} if arguments[0] == "glyphs" else {}
    with pytest.raises(error, match=reason):
        data.load(*arguments, **options)


def test_load_names_options():
    with pytest.raises(TypeError, match=r"'refcocog'\) has no option mod; options: split, images, mixed_val"):
        data.load("refcocog", ".", mod="x")
    with pytest.raises(TypeError, match="needs num_examples, seed"):
        data.load("glyphs")
