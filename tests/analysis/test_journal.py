import json
import os
from contextlib import closing

import numpy as np
import pytest

from corehead_hf.analysis.journal import Journal

MARK = {"study": "hand", "dtype": "torch.float32", "examples": "3, sha256 ab", "window_size": 16}
NUMBERS = {1: np.array([0.1, 1 / 3, 5e-324]), 2: np.array([[1.0, 2.0], [3.0, 1e300]]), 3: np.array([0.0, 1.0, 1.0])}


def filled(path, mark=MARK, keys=(1, 2, 3)):
    with closing(Journal(path, mark)) as journal:
        for key in keys:
            journal.append({"count": key, "seed": None}, NUMBERS[key])


def read(path, mark=MARK):
    with closing(Journal(path, mark)) as journal:
        found = {key: journal.get({"seed": None, "count": key}) for key in NUMBERS}
    return {key: numbers for key, numbers in found.items() if numbers is not None}


def same(found, keys):
    assert list(found) == list(keys)
    for key in keys:
        assert found[key].dtype == np.float64 and np.array_equal(found[key], NUMBERS[key])


@pytest.mark.parametrize("path", [None, "deep/study.jsonl"])
def test_numbers_come_back_bit_by_bit(path, tmp_path):
    path = path and tmp_path / path
    with closing(Journal(path, MARK)) as journal:
        for key, numbers in NUMBERS.items():
            assert journal.get({"count": key}) is None
            journal.append({"count": key}, numbers)
        for key, numbers in NUMBERS.items():
            assert np.array_equal(journal.get({"count": key}), numbers)
    if path:
        filled(path, keys=(1,))
        same(read(path), [1])


def test_every_cut_loses_only_the_line_it_cuts_and_the_file_can_be_filled_up(tmp_path):
    path = tmp_path / "study.jsonl"
    filled(path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 4
    for cut in {0, 1, *(end + step for end in ends for step in (-20, -1, 0, 1, 20))}:
        path.write_bytes(whole[:cut])
        kept = [key for key, end in zip(NUMBERS, ends[1:], strict=True) if end <= cut]
        same(read(path), kept)
        filled(path, keys=[key for key in NUMBERS if key not in kept])
        assert path.read_bytes() == whole, f"cut at {cut}"


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "study.jsonl"
    filled(path)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match="another configuration: dtype: 'torch.float32' there / 'torch.bfloat16' now"
    ) as e:
        Journal(path, {**MARK, "dtype": "torch.bfloat16"})
    assert "window_size" not in str(e.value)
    with pytest.raises(ValueError, match="reference: None there / 'r' now; window_size: 16 there / 8 now"):
        Journal(path, {**MARK, "window_size": 8, "reference": "r"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"my notes", b"my notes\nof today\n", b"[1]\n", b'{"a": 1}\n', b"\xff\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "study.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no journal of a corehead_hf study|line 1 of .* is damaged"):
        Journal(path, MARK)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"{}", b"x", b'{"key": {}}', b'{"key": {}, "values": ["a"]}', b'[{"key": 1}]', b""])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "study.jsonl"
    filled(path)
    lines = path.read_bytes().splitlines()
    lines[2] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ValueError, match="line 3 of .*study.jsonl is damaged"):
        Journal(path, MARK)


def test_a_later_format_and_a_folder_are_refused(tmp_path):
    path = tmp_path / "study.jsonl"
    filled(path)
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2', 1))
    with pytest.raises(ValueError, match="format_version 2; this version of corehead_hf writes 1"):
        Journal(path, MARK)
    with pytest.raises(ValueError, match=r"is a folder.*study\.jsonl"):
        Journal(tmp_path, MARK)


def test_numbers_that_json_cannot_hold_are_refused(tmp_path):
    with closing(Journal(tmp_path / "study.jsonl", MARK)) as journal, pytest.raises(ValueError):
        journal.append({"count": 1}, np.array([np.nan]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="files are locked on POSIX")
def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "study.jsonl"
    with closing(Journal(path, MARK)):
        with pytest.raises(ValueError, match="in use by another process"):
            Journal(path, MARK)
    Journal(path, MARK).close()


def test_the_file_is_plain_json_lines(tmp_path):
    path = tmp_path / "study.jsonl"
    filled(path)
    head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert head["fingerprint"] == MARK
    assert lines[2] == {"key": {"count": 3, "seed": None}, "values": [0.0, 1.0, 1.0]}
