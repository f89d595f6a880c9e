"""Slots of a data set: built only when needed, counted as iterating over the set counts."""

import json
from dataclasses import replace

import numpy as np
import pytest

from corehead_hf import Evidence, Example
from corehead_hf.data import load
from corehead_hf.data.example_set import ExampleSet, Excluded, NoExample, Row, RowError
from corehead_hf.data.report import Report
from corehead_hf.measuring.outcome import Outcome
from corehead_hf.measuring.slots import Slot, data_options, note_in_report, slots


def example(name):
    return Example(name, (np.zeros((8, 8, 3), np.uint8),), "where?", "there", (Evidence(0),))


class Source:
    name = "made"

    def __init__(self):
        self.built = []

    def iter_rows(self):
        yield Row("row 0", "a", lambda note: self.make("a", note))
        yield Row("row 1", None, lambda note: self.fail(RowError("bad_box", "a box of no width")))
        yield Row("row 2", "b", lambda note: self.make("b", note, "clipped"))
        yield Row("row 3", "a", lambda note: self.make("a", note))
        yield Row("row 4", "c", lambda note: self.fail(Excluded("no_evidence", "text only")))
        yield Row("row 5", "d", lambda note: self.make("d", note))

    def make(self, name, note, change=None):
        self.built.append(name)
        if change:
            note(change, "a box over the edge")
        return example(name)

    def fail(self, error):
        raise error


def outcome_of(slot):
    try:
        made, changes = slot.build()
    except NoExample as why:
        return Outcome(slot.index, slot.id, 1, reason=str(why), row_error=why.kind)
    return Outcome(slot.index, made.id, 1, changes=changes)


def test_rows_are_slots_and_the_report_is_that_of_iterating():
    examples = ExampleSet(Source(), on_error="skip")
    found = list(slots(examples))
    assert examples.source.built == [], "a slot is built before it is needed"
    assert [(slot.index, slot.id) for slot in found] == [(0, "a"), (1, None), (2, "b"), (3, None), (4, "c"), (5, "d")]
    report = Report("made")
    for slot in found:
        note_in_report(report, outcome_of(slot))
    assert [made.id for made in examples] == ["a", "b", "d"]
    assert str(report) == str(examples.report) and report.counts == examples.report.counts
    assert report.described == examples.report.described and report.rows == 6


def test_a_wrong_row_raises_as_iterating_does():
    examples = ExampleSet(Source())
    with pytest.raises(ValueError) as expected:
        list(examples)
    with pytest.raises(ValueError) as found:
        [outcome_of(slot) for slot in slots(examples)]
    assert str(found.value) == str(expected.value)


def test_other_iterables():
    assert [(slot.index, slot.id) for slot in slots(iter([example("a"), example("b")]))] == [(0, "a"), (1, "b")]
    with pytest.raises(ValueError, match="example 'a' stands at 0 and at 2 of the data"):
        list(slots([example("a"), example("b"), example("a")]))
    examples = ExampleSet(Source(), on_error="skip").without({"a"})
    assert [slot.id for slot in slots(examples)] == ["b", "d"]
    assert data_options([]) == {}


def test_a_mark_tells_what_the_data_say(tmp_path):
    row = {"media": ["page.png"], "question": "Which?", "answer": "red", "evidence": [{"media": 0}], "id": "a"}

    def mark(**changes):
        path = tmp_path / "own.jsonl"
        path.write_text(json.dumps({**row, **changes}))
        return next(slots(load("jsonl", path))).mark  # no picture is there: none is read

    assert mark() == mark(**dict(reversed(row.items()))) != ""
    assert (
        len({mark(), mark(answer="blue"), mark(question="Who?"), mark(evidence=[{"media": 0, "box": [0, 0, 1, 1]}])})
        == 4
    )
    given, changed = example("a"), example("a")
    changed.media[0][:] = 255
    assert next(slots([given])).mark == next(slots([changed])).mark, "pictures are left out"
    for field, value in (("answer", "here"), ("question", "who?"), ("evidence", ()), ("details", {"task": "x"})):
        assert next(slots([given])).mark != next(slots([replace(given, **{field: value})])).mark


def test_a_mark_leaves_the_bytes_of_a_picture_out():
    def mark(picture, text):
        return Slot(0, "a", None, {"image": {"bytes": picture}, "text": text}).mark

    assert mark(b"one", "x") == mark(b"two", "x") != mark(b"one", "y")
    assert Slot(0, "a", None).mark == ""
