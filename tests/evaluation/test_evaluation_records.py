"""Answers on disk: a kill at any byte loses at most the last line, damage and mixed runs are refused."""

import json
from dataclasses import replace

import pytest
from answers_by_hand import answer, skipped

from corehead_hf.evaluation import Answer, read_answers
from corehead_hf.evaluation.records import Answers
from corehead_hf.measuring.slots import Slot

MARK = {"batch_size": 4, "data path": None}
GIVEN = [
    answer(0, text="naïve\u2028\n{\"x\": 1}\udc80 \x00", details={"task": "a", "options": ["x", 2]}),
    skipped(1, changes=(("clipped", "row 1: so"),)),
    Answer(2, None, 4, row_error="bad_row", reason="broken"),
    answer(3, 1 / 3),
]  # fmt: skip


def slot(answer, content=None):
    return Slot(answer.index, answer.id, None, content)


def filled(folder, answers=GIVEN, mark=MARK):
    kept = Answers(folder, mark)
    kept.append(answers[:2])
    kept.append(answers[2:])
    kept.close()
    return folder / "answers-00000.jsonl"


def test_what_is_kept_is_what_is_read(tmp_path):
    path = filled(tmp_path / "new")
    assert list(read_answers(path.parent)) == GIVEN
    again = Answers(path.parent, MARK)
    assert [again.get(slot(a), 4) for a in GIVEN] == GIVEN
    assert again.get(Slot(0, "e0", None), 3) is None and again.get(Slot(7, "e7", None), 4) is None
    again.close()
    assert [path.name for path in path.parent.iterdir()] == ["answers-00000.jsonl"], (
        "a run that adds nothing writes none"
    )
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()[1:]] == [0, 1, 2, 3]


def test_cut_at_any_byte_what_was_whole_is_kept_and_the_rest_can_be_added(tmp_path):
    path = filled(tmp_path)
    data = path.read_bytes()
    lines = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for size in range(0, len(data), 17):
        path.write_bytes(data[:size])
        kept = Answers(tmp_path, MARK)
        known = [kept.get(slot(a), 4) for a in GIVEN]
        whole = max(0, sum(end <= size for end in lines) - 1)
        assert known == GIVEN[:whole] + [None] * (4 - whole)
        kept.append([a for a, old in zip(GIVEN, known, strict=True) if old is None])
        kept.close()
        assert list(read_answers(tmp_path)) == GIVEN
        (tmp_path / "answers-00001.jsonl").unlink(missing_ok=True)


def test_every_process_has_a_file_of_its_own(tmp_path):
    first, second = Answers(tmp_path, MARK), Answers(tmp_path, MARK)
    first.append(GIVEN[:2])
    second.append(GIVEN[2:])
    first.close()
    second.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers-00000.jsonl", "answers-00001.jsonl"]
    assert list(read_answers(tmp_path)) == GIVEN


@pytest.mark.parametrize("line", [2, 4])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-9],
        lambda text: text.replace('"index"', '"indox"'),
        lambda text: text.replace('"width": 4', '"width": "4"'),
        lambda text: "[1]",
        lambda text: "",
        lambda text: text.replace('"score": 1.0', '"score": 1.5').replace(
            '"row_error": "bad_row"', '"row_error": null'
        ),
    ],
)
def test_a_damaged_line_is_refused(tmp_path, change, line):
    path = filled(tmp_path)
    lines = path.read_text().splitlines()
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines) + "\n")
    for read in (lambda: list(read_answers(tmp_path)), lambda: Answers(tmp_path, MARK)):
        with pytest.raises(ValueError, match=f"line {line} of .*answers-00000.jsonl is damaged"):
            read()


def test_other_files_are_refused(tmp_path):
    path = filled(tmp_path)
    head, *rest = path.read_text().splitlines(keepends=True)
    with pytest.raises(ValueError, match="of another configuration: batch_size: 4 there / 8 now"):
        Answers(tmp_path, {**MARK, "batch_size": 8})
    other = tmp_path / "answers-00001.jsonl"
    other.write_text(head.replace('"batch_size": 4', '"batch_size": 8'))
    with pytest.raises(ValueError, match="00001.jsonl holds answers of another configuration"):
        list(read_answers(tmp_path))
    other.write_text(head.replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(ValueError, match="format_version 3; this version of corehead_hf writes 2"):
        list(read_answers(tmp_path))
    other.write_text('{"x": 1}\n')
    with pytest.raises(ValueError, match="holds no answers of a corehead_hf evaluation"):
        Answers(tmp_path, MARK)
    with pytest.raises(FileNotFoundError, match="no evaluation was kept there"):
        list(read_answers(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="is a file, and answers are kept in a folder"):
        Answers(path, MARK)


@pytest.mark.parametrize(
    "added, message",
    [
        (answer(0, id="other"), "examples 'e0' and 'other' both stand at 0"),
        (answer(9, id="e0"), "example 'e0' stands at 0 and at 9"),
        (replace(GIVEN[0], text="else"), "example 'e0' was answered twice and differently"),
    ],
)
def test_contradictions_are_refused(tmp_path, added, message):
    filled(tmp_path)
    kept = Answers(tmp_path, MARK)
    kept.append([added])
    kept.close()
    with pytest.raises(ValueError, match=message):
        Answers(tmp_path, MARK)


def test_the_same_answer_twice_may_have_taken_another_time(tmp_path):
    filled(tmp_path)
    kept = Answers(tmp_path, MARK)
    kept.append([replace(GIVEN[0], seconds=9.0), replace(GIVEN[3], width=2, text="wider")])
    kept.close()
    assert list(read_answers(tmp_path)) == GIVEN, "of two widths the wider batch's counts"
    assert Answers(tmp_path, MARK).get(Slot(3, "e3", None), 2).text == "wider"
    with pytest.raises(ValueError, match="has example 'z' at 3, the run that is resumed had 'e3'"):
        Answers(tmp_path, MARK).get(Slot(3, "z", None), 4)


def test_an_example_that_says_something_else_now_is_refused(tmp_path):
    filled(tmp_path, [replace(GIVEN[0], mark=slot(GIVEN[0], "a").mark), *GIVEN[1:]])
    kept = Answers(tmp_path, MARK)
    assert kept.get(slot(GIVEN[0], "a"), 4).text == GIVEN[0].text
    with pytest.raises(ValueError, match="what the data say of example 'e0' at 0 was changed"):
        kept.get(slot(GIVEN[0], "b"), 4)
    assert kept.skipped == {GIVEN[1].skipped: 1, "bad_row": 1}
