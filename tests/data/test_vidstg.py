import json

import numpy as np
import pytest
from formats import frame_numbers, vidstg_row, write_video, write_vidor, write_vidstg

from corehead_hf import Evidence, data

VID = "10712559773"


def video_of(folder, frames=20, vid=VID, **options):
    return write_video(folder / "video" / "1025" / f"{vid}.mp4", frames, **options)


def test_segment_and_ground_truth_by_hand(tmp_path):
    """Segment 2..19 with both ends, ground truth 5..9 without the second; all 18 frames are shown."""
    write_vidstg(tmp_path, [vidstg_row()])
    video_of(tmp_path)
    caption, question = data.load("vidstg", tmp_path)
    assert caption.question == "the child is watching the adult." and question.question == "who is watching?"
    assert [caption.id, question.id] == [f"{VID}-0-caption-0", f"{VID}-0-question-0"]
    (video,) = question.videos
    assert video.frame_ids == tuple(range(2, 20)) and video.fps == 10.0
    assert frame_numbers(video.frames) == list(range(2, 20)) and video.frames.shape[1:] == (48, 64, 3)
    assert question.evidence == (Evidence(0, frames=(3, 4, 5, 6)),)  # frames 5, 6, 7, 8
    assert caption.media[0] is question.media[0] and question.answer == ""  # decoded once


def test_sampled_frames_by_the_rule(tmp_path):
    write_vidstg(tmp_path, [vidstg_row(gt=(8, 20))])
    video_of(tmp_path)
    (example,) = data.load("vidstg", tmp_path, max_frames=4, texts="questions")
    assert example.videos[0].frame_ids == (2, 8, 13, 19)  # 2, 7.67, 13.33, 19
    assert frame_numbers(example.videos[0].frames) == [2, 8, 13, 19]
    assert example.evidence == (Evidence(0, frames=(1, 2, 3)),)  # 8 is inside; 19 is, although gt ends at frame_count


def test_a_ground_truth_between_the_sampled_frames_is_counted(tmp_path):
    write_vidstg(tmp_path, [vidstg_row(gt=(9, 13)), vidstg_row(gt=(9, 14))])
    video_of(tmp_path)
    examples = data.load("vidstg", tmp_path, max_frames=4, texts="questions")
    assert [example.evidence[0].frames for example in examples] == [(2,)]
    assert examples.report.counts == {"yielded": 1, "no_sampled_frame": 1}


def test_tubes_take_the_targets_boxes(tmp_path):
    write_vidstg(tmp_path, [vidstg_row()])
    video_of(tmp_path)
    boxes = {
        5: [(0, (0, 0, 5, 5)), (2, (10, 11, 20, 21))],
        6: [(0, (0, 0, 5, 5))],  # the target is hidden
        7: [(2, (50, 40, 70, 50))],  # over the edge
        8: [(2, (1, 2, 3, 4))],
        9: [(2, (9, 9, 19, 19))],  # behind the end
    }
    write_vidor(tmp_path, VID, boxes)
    examples = data.load("vidstg", tmp_path, mode="tube", texts="questions")
    (example,) = examples
    assert example.evidence == (
        Evidence(0, (10, 11, 20, 21), (3,)),
        Evidence(0, (50, 40, 64, 48), (5,)),
        Evidence(0, (1, 2, 3, 4), (6,)),
    )
    assert examples.report.counts == {"yielded": 1, "clipped": 1, "frames_without_box": 1}


def test_bad_targets(tmp_path):
    write_vidstg(tmp_path, [vidstg_row(), vidstg_row(target_id=5), vidstg_row(vid="2")])
    for vid in (VID, "2"):
        video_of(tmp_path, vid=vid)
    write_vidor(tmp_path, VID, {5: [(2, (1, 2, 3, 4))]})
    frames = data.load("vidstg", tmp_path, texts="questions")
    assert len(list(frames)) == 3 and frames.report.changed == {"dangling_tid": 1}  # whole frames need no box
    tubes = data.load("vidstg", tmp_path, texts="questions", mode="tube", on_error="skip")
    assert len(list(tubes)) == 1
    assert tubes.report.skipped == {"dangling_tid": 1, "missing_annotation": 1}
    with pytest.raises(ValueError, match=r"test_annotations\.json row 1 question 0: target_id 5 has no box"):
        list(data.load("vidstg", tmp_path, texts="questions", mode="tube"))


def test_a_file_with_other_frames_is_mapped_by_time(tmp_path):
    """40 annotated frames at 10 fps; the file shows 20 frames, each for two of them."""
    write_vidstg(tmp_path, [vidstg_row(frames=40, segment=(4, 39), gt=(20, 30))])
    video_of(tmp_path, 20, times=range(0, 40, 2))
    examples = data.load("vidstg", tmp_path, max_frames=4, texts="questions")
    (example,) = examples
    assert example.videos[0].frame_ids == (4, 16, 27, 39)  # the annotation's numbers, its fps
    assert frame_numbers(example.videos[0].frames) == [2, 8, 13, 19]  # 0.4, 1.6, 2.7, 3.9 s; file frame k at 0.2 k s
    assert example.evidence[0].frames == (2,)
    assert examples.report.counts == {"yielded": 1, "frames_by_time": 1}
    assert "has 20 frames, not 40" in examples.report.described["frames_by_time"][0]


def test_frames_that_fall_together_are_shown_once(tmp_path):
    write_vidstg(tmp_path, [vidstg_row(frames=40, segment=(10, 15), gt=(12, 14))])
    video_of(tmp_path, 20, times=range(0, 40, 2))
    examples = data.load("vidstg", tmp_path, texts="questions")
    (example,) = examples
    shown = example.videos[0].frame_ids
    assert len(shown) < 6 and frame_numbers(example.videos[0].frames) == sorted({round(i / 2) for i in shown})
    assert set(examples.report.changed) == {"frames_by_time", "frames_missing"}


def test_one_missing_last_frame_is_no_other_frame_rate(tmp_path):
    write_vidstg(tmp_path, [vidstg_row(gt=(5, 20))])
    video_of(tmp_path, 19)
    examples = data.load("vidstg", tmp_path, texts="questions")
    (example,) = examples
    assert example.videos[0].frame_ids == tuple(range(2, 19))
    assert frame_numbers(example.videos[0].frames) == list(range(2, 19))
    assert examples.report.counts == {"yielded": 1, "frames_missing": 1}


BAD = {
    "segment behind the end": ({"segment": (2, 20)}, "bad_segment", r"2\.\.20 of 20 frames, both ends included"),
    "segment backwards": ({"segment": (9, 2)}, "bad_segment", "ends before it begins"),
    "number as vid": ({"vid": 107}, "bad_row", "'vid' is 107; expected str"),
    "no video": ({"vid": "3"}, "missing_media", r"there is no 3\.mp4"),
    "empty question": ({"question": " "}, "empty_question", "'description' is ' '"),
    "no fps": ({"fps": 0}, "bad_row", "fps"),
}


@pytest.mark.parametrize("changes, reason, message", BAD.values(), ids=BAD)
def test_bad_rows_are_named_or_counted(tmp_path, changes, reason, message):
    write_vidstg(tmp_path, [vidstg_row(**changes), vidstg_row()])
    video_of(tmp_path)
    with pytest.raises(ValueError, match=rf"^test_annotations\.json row 0.*{message}"):
        list(data.load("vidstg", tmp_path, texts="questions"))
    examples = data.load("vidstg", tmp_path, texts="questions", on_error="skip")
    assert [example.id for example in examples] == [f"{VID}-1-question-0"]
    assert examples.report.skipped == {reason: 1}


def test_another_size_matters_for_boxes_only(tmp_path):
    write_vidstg(tmp_path, [vidstg_row()])
    video_of(tmp_path, width=32, height=48)
    write_vidor(tmp_path, VID, {5: [(2, (1, 2, 3, 4))]})
    assert len(list(data.load("vidstg", tmp_path))) == 2
    with pytest.raises(ValueError, match="the video has 32 x 48 pixels, its annotation says 64 x 48"):
        list(data.load("vidstg", tmp_path, mode="tube"))


def test_a_file_that_breaks_off_yields_what_stands_before(tmp_path):
    write_vidstg(tmp_path, [vidstg_row(), vidstg_row()])
    video_of(tmp_path)
    file = tmp_path / "annotations" / "test_annotations.json"
    file.write_text(json.dumps([vidstg_row(), vidstg_row()])[:-30])
    iterator = iter(data.load("vidstg", tmp_path, texts="questions"))
    assert np.array_equal(frame_numbers(next(iterator).videos[0].frames)[:2], [2, 3])
    with pytest.raises(ValueError, match=r"test_annotations\.json: row 1 is not sound JSON"):
        next(iterator)


def test_wrong_settings_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no annotations of split 'val'"):
        data.load("vidstg", tmp_path, split="val")
    write_vidstg(tmp_path, [vidstg_row()])
    for options in ({"mode": "boxes"}, {"texts": "all"}, {"max_frames": 0}):
        with pytest.raises(ValueError, match="were given"):
            data.load("vidstg", tmp_path, **options)
    with pytest.raises(ValueError, match="is no folder; .json files of VidOR"):
        list(data.load("vidstg", tmp_path, mode="tube"))
