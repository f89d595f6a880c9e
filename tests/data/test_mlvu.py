import json

import pytest
from formats import (
    frame_numbers,
    mlvu_official_row,
    mlvu_row,
    write_bytes,
    write_lines,
    write_mlvu_official,
    write_table,
    write_video,
)

from corehead_hf import data
from corehead_hf.scoring import AVERAGES, SCORERS

TAIL = "\nOnly give the best option.\nBest option: ("
LINES = "\n(A) Yellow\n(B) Red\n(C) Green\n(D) Blue"


def dev(folder, rows, suffix="parquet"):
    write_table(folder / f"test-00000-of-00001.{suffix}", rows)
    for name in {row["video_name"] for row in rows}:
        write_video(folder / name, 20)
    return folder


def test_both_packagings_give_the_same_question(tmp_path):
    write_mlvu_official(tmp_path / "a", {"1_plotQA": [mlvu_official_row()]})
    dev(tmp_path / "b", [mlvu_row()])
    (official,) = data.load("mlvu", tmp_path / "a", frames=3)
    (other,) = data.load("mlvu", tmp_path / "b", frames=3)
    for example in (official, other):
        assert example.id == "plotQA-0" and example.answer == "B" and example.evidence == ()
        assert example.turn == (0, "What colour is the bag?" + LINES + TAIL)
        assert example.details == {
            "task": "plotQA",
            "options": ["Yellow", "Red", "Green", "Blue"],
            "video": "movie101_66.mp4",
        }
        (video,) = example.videos
        assert frame_numbers(video.frames) == [0, 10, 19] == list(video.frame_ids)  # 0, 9.5, 19
        assert (
            SCORERS["mlvu"]("B) Red", example).score == 1.0 and AVERAGES["mlvu"].group_of(example.details) == "plotQA"
        )
        json.dumps(example.details)
    assert official.question == "What colour is the bag?"


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
def test_rows_come_from_every_kind_of_file(tmp_path, suffix):
    rows = [mlvu_row(task=task, answer=letter) for task, letter in (("needle", "A"), ("order", "D"))]
    rows.append(mlvu_row(answer="A", candidates=["B", "A", "C", "D"]))  # here the answer is a letter, not a text
    examples = data.load("mlvu", dev(tmp_path, rows, suffix), frames=2)
    assert [(e.id, e.answer) for e in examples] == [("needle-0", "A"), ("order-1", "D"), ("plotQA-2", "A")]
    first, second, _ = examples
    assert first.media[0] is second.media[0]  # questions about one video: decoded once


def test_official_names_of_tasks_and_folders(tmp_path):
    """findNeedle is needle; a video may lie under its task's name, or straight in the folder."""
    files = {
        "2_needle": [mlvu_official_row(kind="findNeedle")],
        "3_ego": [mlvu_official_row(kind="ego", video="e.mp4")],
    }
    folder = write_mlvu_official(tmp_path, files) / "MLVU" / "video"
    (folder / "2_needle").rename(folder / "needle")
    (folder / "3_ego" / "e.mp4").rename(folder / "e.mp4")
    examples = list(data.load("mlvu", tmp_path, frames=1))
    assert [example.details["task"] for example in examples] == ["needle", "ego"]
    (tmp_path / "MLVU" / "video").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="video is no folder"):
        data.load("mlvu", tmp_path)
    assert len(list(data.load("mlvu", tmp_path / "MLVU", frames=1, videos=tmp_path / "elsewhere"))) == 2


def test_tasks_are_chosen(tmp_path):
    rows = [mlvu_row(task=task) for task in ("ego", "count", "ego")]
    dev(tmp_path, rows)
    assert [e.id for e in data.load("mlvu", tmp_path, frames=1, tasks="ego")] == ["ego-0", "ego-2"]
    assert [e.id for e in data.load("mlvu", tmp_path, frames=1, tasks=["count"])] == ["count-1"]
    with pytest.raises(ValueError, match="tasks=sports were asked; known are topic_reasoning, anomaly_reco, needle"):
        data.load("mlvu", tmp_path, tasks=["ego", "sports"])


def test_what_cannot_be_answered_is_counted(tmp_path):
    rows = [
        mlvu_official_row(answer="Blue"),
        mlvu_official_row(answer="Pink"),
        mlvu_official_row(kind="sports"),
        mlvu_official_row(candidates="Red"),
        mlvu_official_row(candidates=["Red"]),
        mlvu_official_row(video="gone.mp4"),
        mlvu_official_row(video="broken.mp4"),
        mlvu_official_row(question=" "),
    ]
    summary = [{"video": "s.mp4", "question": "Summarise.", "answer": "A bag.", "question_type": "summary"}]
    folder = write_mlvu_official(tmp_path, {"1_plotQA": rows, "9_summary": summary}) / "MLVU" / "video" / "1_plotQA"
    (folder / "gone.mp4").unlink()
    write_bytes(folder / "broken.mp4", (folder / "movie101_66.mp4").read_bytes()[:200])
    examples = data.load("mlvu", tmp_path, frames=2, on_error="skip")
    assert [(example.id, example.answer) for example in examples] == [("plotQA-0", "D")]
    counts = {"bad_row": 3, "unknown_task": 1, "missing_media": 1, "corrupt_media": 1, "empty_question": 1}
    assert examples.report.skipped == {**counts, "open_ended": 1}
    assert "gone.mp4 is none of" in examples.report.described["missing_media"][0]
    with pytest.raises(ValueError, match=r"^1_plotQA\.json row 1: 'answer' is 'Pink'; expected one of \['Yellow'"):
        list(data.load("mlvu", tmp_path, frames=2))


def test_a_video_cut_off_is_broken(tmp_path):
    """Its index stands at the end, and was lost with it."""
    dev(tmp_path, [mlvu_row()])
    video = tmp_path / "movie101_66.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    examples = data.load("mlvu", tmp_path, on_error="skip")
    assert list(examples) == [] and examples.report.skipped == {"corrupt_media": 1}


def test_options_missing_from_a_question_are_added_and_counted(tmp_path):
    examples = data.load("mlvu", dev(tmp_path, [mlvu_row() | {"question": "What colour?"}]), frames=1)
    (example,) = examples
    assert example.turn[1] == "What colour?" + LINES + TAIL
    assert examples.report.changed == {"options_added": 1}


def test_options_of_the_official_files_always_follow(tmp_path):
    question = "Yellow, Red, Green or Blue?"
    write_mlvu_official(tmp_path, {"1_plotQA": [mlvu_official_row(question)]})
    examples = data.load("mlvu", tmp_path, frames=1)
    assert next(iter(examples)).turn[1] == question + LINES + TAIL and not examples.report.changed


def test_broken_lines_and_wrong_settings_are_named(tmp_path):
    write_lines(tmp_path / "dev.jsonl", ["{", mlvu_row()])
    with pytest.raises(ValueError, match=r"^dev\.jsonl:1: the line is not sound JSON"):
        list(data.load("mlvu", tmp_path))
    with pytest.raises(ValueError, match="frames=0 was given; show at least 1"):
        data.load("mlvu", tmp_path, frames=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no annotations of MLVU; looked for MLVU/json"):
        data.load("mlvu", tmp_path / "empty")


def test_rows_of_several_shards_are_counted_on(tmp_path):
    rows = [mlvu_row(task=task, answer="A") for task in ("needle", "order", "needle")]
    write_video(tmp_path / "video" / "movie101_66.mp4", 20)
    for number, part in enumerate((rows[:2], rows[2:])):
        write_table(tmp_path / "data" / f"test-{number:05}-of-00002.parquet", part)
    examples = data.load("mlvu", tmp_path, frames=2, videos=tmp_path / "video")
    assert [e.id for e in examples] == ["needle-0", "order-1", "needle-2"]
