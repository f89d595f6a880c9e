import json
from pathlib import Path

import pytest
from formats import frame_numbers, subtitle, video_mme_row, write_bytes, write_lines, write_video, write_video_mme

from corehead_hf import data
from corehead_hf.scoring import AVERAGES, SCORERS

LMMS_EVAL = json.loads((Path(__file__).parent.parent / "scoring" / "lmms_eval_figures.json").read_text())
SUBTITLES = "This video's subtitles are listed below: \n"


def text_of(folder, **options):
    (example,) = data.load("video-mme", folder, frames=2, **options)
    assert example.turn[0] == 0 and len(example.turn) == 2
    return example.turn[1]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
def test_questions_by_hand(tmp_path, suffix):
    rows = [video_mme_row(), video_mme_row("001-2", "Counting Problem", answer="A")]
    write_video_mme(tmp_path, rows, suffix)
    path = tmp_path if suffix == "parquet" else tmp_path / "videomme"
    first, second = data.load("video-mme", path, frames=3, videos=tmp_path / "data")
    assert [first.id, second.id] == ["001-1", "001-2"] and [first.answer, second.answer] == ["C", "A"]
    assert first.question == "Which fruit is shown?" and first.evidence == ()
    assert frame_numbers(first.videos[0].frames) == [0, 10, 19]
    assert first.media[0] is second.media[0]  # decoded once
    assert first.details == {
        "task": "OCR Problems",
        "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. Nuts."],
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "videoID": "fFjv93ACGo8",
    }
    average = AVERAGES["video-mme"]
    assert average.group_of(first.details) == "OCR Problems" and all(key in first.details for key in average.also)
    assert SCORERS["video-mme"]("(C) Berries", first).score == 1.0


def test_prompts_are_lmms_evals(tmp_path):
    row = video_mme_row(question=LMMS_EVAL["question"], options=LMMS_EVAL["options"])
    write_video_mme(tmp_path, [row])
    (tmp_path / "subtitle").mkdir()
    for prompt in ("default", "qwen3_vl"):
        assert text_of(tmp_path, prompt=prompt) == LMMS_EVAL["prompts"][f"video-mme {prompt}"]
        found = text_of(tmp_path, prompt=prompt, subtitles=tmp_path / "subtitle")
        assert found == LMMS_EVAL["prompts"][f"video-mme {prompt}, no subtitles"]


def test_subtitles_of_shown_frames_are_given(tmp_path):
    """Frames 0 and 19 of ten a second are shown: 0 s and 1.9 s."""
    write_video_mme(tmp_path, [video_mme_row(), video_mme_row("002-1", video="other")])
    blocks = [
        subtitle(1, 0, 0.5, "first"),
        subtitle(2, 0.5, 1.9, "between, ends at the frame"),
        subtitle(3, 1.9, 2.5, 'at last</font> <font color="red" size=".72c">not this'),  # lmms-eval takes the first
        "4\n00:00:01,000 --> 00:00:02,000\ntwo <i>lines</i>\nwithout a font\n\n",
        "5\n00:00:00,000 --> 00:00:02,000\n\n",
    ]
    write_bytes(tmp_path / "srt" / "fFjv93ACGo8.srt", "".join(blocks).replace("\n", "\r\n").encode("utf-8-sig"))
    examples = data.load("video-mme", tmp_path, frames=2, subtitles=tmp_path / "srt")
    first, second = examples
    assert first.turn[1].startswith(f"{SUBTITLES}first\nat last\ntwo lines without a font\nSelect the best")
    assert first.turn[1].endswith("\nThe best answer is:")
    assert second.turn[1].startswith(f"{SUBTITLES}No subtitles available\n")
    assert examples.report.changed == {"no_subtitles": 1}
    write_bytes(tmp_path / "srt" / "other.srt", b"1\nat noon\ntext\n")
    with pytest.raises(ValueError, match=r"other\.srt has 'at noon' where the times of a subtitle are expected"):
        list(data.load("video-mme", tmp_path, frames=2, subtitles=tmp_path / "srt"))


def test_durations_are_chosen(tmp_path):
    rows = [video_mme_row(f"00{i}-1", duration=name) for i, name in enumerate(("short", "medium", "long", "short"))]
    write_video_mme(tmp_path, rows)
    assert [e.id for e in data.load("video-mme", tmp_path, frames=1, duration="short")] == ["000-1", "003-1"]
    assert len(list(data.load("video-mme", tmp_path, frames=1))) == 4


def test_other_video_containers_are_found(tmp_path):
    write_video_mme(tmp_path, [video_mme_row()])
    (tmp_path / "data" / "fFjv93ACGo8.mp4").unlink()
    write_video(tmp_path / "data" / "fFjv93ACGo8.mkv", 20)
    (example,) = data.load("video-mme", tmp_path, frames=1)
    assert example.videos[0].frame_ids == (0,)


def test_what_cannot_be_answered_is_counted(tmp_path):
    rows = [
        video_mme_row("001-1"),
        video_mme_row("001-1"),
        video_mme_row("002-1", task="Smelling"),
        video_mme_row("003-1", answer="E"),
        video_mme_row("004-1", answer="AB"),
        video_mme_row("005-1", duration="endless"),
        video_mme_row("006-1", video="gone"),
        video_mme_row("007-1", video="broken"),
        video_mme_row("008-1", question=""),
    ]
    write_video_mme(tmp_path, rows)
    (tmp_path / "data" / "gone.mp4").unlink()
    write_bytes(tmp_path / "data" / "broken.mp4", b"no video")
    examples = data.load("video-mme", tmp_path, frames=2, on_error="skip")
    assert [example.id for example in examples] == ["001-1"]
    assert examples.report.skipped == {
        "duplicate_id": 1,
        "unknown_task": 1,
        "bad_row": 3,
        "missing_media": 1,
        "corrupt_media": 1,
        "empty_question": 1,
    }
    assert "known are Temporal Perception" in examples.report.described["unknown_task"][0]


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no questions of Video-MME; looked for videomme"):
        data.load("video-mme", tmp_path)
    write_lines(tmp_path / "rows.jsonl", ["[]"])
    with pytest.raises(ValueError, match="data is no folder; the videos are looked for there"):
        data.load("video-mme", tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="srt is no folder; the subtitles are looked for there"):
        data.load("video-mme", tmp_path, subtitles=tmp_path / "srt")
    with pytest.raises(ValueError, match=r"^rows\.jsonl:1: the line is \[\]; expected a JSON object"):
        list(data.load("video-mme", tmp_path))
    for wrong in ({"duration": "all"}, {"prompt": "mine"}, {"frames": 0}):
        with pytest.raises(ValueError, match="duration is None or one of short, medium, long, prompt one of default"):
            data.load("video-mme", tmp_path, **wrong)
