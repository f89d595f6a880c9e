import tracemalloc

import pytest
from formats import (
    encoded,
    refcocog_annotation,
    refcocog_row,
    write_bytes,
    write_image,
    write_refcocog,
    write_refcocog_annotations,
)

from corehead_hf import Evidence, data


def test_every_expression_is_an_example_and_its_own_question(tmp_path):
    rows = [
        refcocog_row(["guy petting elephant", " foremost person "], [10, 20, 30, 15], value=50),
        refcocog_row(["the dog"], [0, 0, 64, 48], value=200),
    ]
    first, second, third = data.load("refcocog", write_refcocog(tmp_path, rows))
    assert [example.question for example in (first, second, third)] == [
        "guy petting elephant",
        "foremost person",
        "the dog",
    ]
    assert first.evidence == second.evidence == (Evidence(0, (10, 20, 40, 35)),)  # x + width, y + height
    assert first.media[0].shape == (48, 64, 3) and abs(int(first.media[0][0, 0, 0]) - 50) <= 2
    assert third.evidence[0].box == (0, 0, 64, 48) and first.answer == "" and first.turn == (0, "guy petting elephant")
    assert [first.id, second.id, third.id] == ["test-0-469306-0", "test-0-469306-1", "test-1-469306-0"]


def test_bad_rows_with_pixels_are_counted_one_by_one(tmp_path):
    rows = [
        refcocog_row(["sound"], [1, 2, 3, 4]),
        refcocog_row(["zero width"], [1, 2, 0, 4]),
        refcocog_row(["outside"], [64, 2, 5, 4]),
        refcocog_row(["over the edge"], [60, 2, 5, 4]),
        refcocog_row(["no rounding error"], [33.7, 20.3, 30.3, 27.7]),  # float32: the sum is 64.00000095
        refcocog_row([], [1, 2, 3, 4]),
        refcocog_row(["", "fine"], [1, 2, 3, 4]),
        refcocog_row(["short box"], [1, 2, 3]),
        refcocog_row(["broken picture", "twice"], [1, 2, 3, 4], image=b"no jpeg"),
    ]
    examples = data.load("refcocog", write_refcocog(tmp_path, rows), on_error="skip")
    assert [example.question for example in examples] == ["sound", "over the edge", "no rounding error", "fine"]
    skipped = {"empty_box": 1, "box_outside": 1, "empty_question": 2, "bad_row": 1, "corrupt_media": 2}
    assert examples.report.skipped == skipped and examples.report.changed == {"clipped": 1}
    assert examples.report.rows == 11
    assert examples.report.described["corrupt_media"][1].startswith(
        "test-00000-of-00001.parquet row 8 expression 1: the image COCO_train2014_000000296747_0.jpg cannot be decoded"
    )
    with pytest.raises(ValueError, match=r"row 1 expression 0: the box \[1.0, 2.0, 1.0, 6.0\] is empty"):
        list(data.load("refcocog", tmp_path))


def test_val_with_pixels_is_two_sets_in_one(tmp_path):
    write_refcocog(tmp_path, [refcocog_row(["x"], [1, 2, 3, 4])], split="val")
    with pytest.raises(ValueError, match="7573 = 2573 \\+ 5000.*split='test', or mixed_val=True"):
        data.load("refcocog", tmp_path, split="val")
    assert len(list(data.load("refcocog", tmp_path, split="val", mixed_val=True))) == 1
    with pytest.raises(ValueError, match="holds no parquet file of split 'test'"):
        data.load("refcocog", tmp_path)


def test_annotations_only_have_corner_boxes_and_coco_pictures(tmp_path):
    row = refcocog_annotation(["The dog", "A brown dog"], bbox=[10, 5, 40, 25], xywh=[10, 5, 30, 20])
    write_refcocog_annotations(tmp_path / "annotations", [row])
    write_image(tmp_path / "train2014" / "COCO_train2014_000000000009.jpg", 64, 48, 90)
    examples = data.load("refcocog", tmp_path / "annotations", images=tmp_path / "train2014")
    first, second = examples
    assert (first.question, second.question) == ("The dog", "A brown dog")
    assert first.evidence == (Evidence(0, (10, 5, 40, 25)),) and first.media[0].shape == (48, 64, 3)
    assert [first.id, second.id] == ["test-0-7-0", "test-0-7-1"]
    for images in (None, tmp_path / "absent"):
        with pytest.raises(ValueError, match=r"give the folder with COCO_train2014_\*\.jpg"):
            data.load("refcocog", tmp_path / "annotations", images=images)


def test_bad_rows_of_annotations_are_counted(tmp_path):
    box, xywh = [10, 5, 40, 25], [10, 5, 30, 20]
    rows = [
        refcocog_annotation(["sound"], box, xywh),
        refcocog_annotation(["box is x, y, width, height"], xywh, xywh),
        refcocog_annotation(["another size"], box, xywh, size=(640, 480)),
        refcocog_annotation(["no picture"], box, xywh, file_name="COCO_train2014_000000000010.jpg"),
        {**refcocog_annotation(["no json"], box, xywh), "raw_anns": "{"},
        {**refcocog_annotation(["no box"], box, xywh), "raw_anns": "{}"},
    ]
    write_refcocog_annotations(tmp_path, rows)
    write_image(tmp_path / "images" / "COCO_train2014_000000000009.jpg", 64, 48)
    examples = data.load("refcocog", tmp_path, images=tmp_path / "images", on_error="skip")
    assert [example.question for example in examples] == ["sound"]
    assert examples.report.skipped == {"box_mismatch": 1, "image_size": 1, "missing_media": 1, "bad_row": 2}
    assert "640 x 480" in examples.report.described["image_size"][0]


def test_another_parquet_file_is_refused(tmp_path):
    from pyarrow import parquet, table

    (tmp_path / "data").mkdir()
    parquet.write_table(table({"image": [1], "text": ["x"]}), tmp_path / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="has no column question_id, answer, bbox, file_name; it has image, text"):
        list(data.load("refcocog", tmp_path))
    write_bytes(tmp_path / "data" / "test-00000-of-00001.parquet", b"no parquet")
    with pytest.raises(ValueError, match="cannot be read as a parquet file"):
        data.load("refcocog", tmp_path)


def test_rows_are_not_held(tmp_path):
    count, heavy = 200, encoded(64, 48) + bytes(50_000)
    write_refcocog(tmp_path, [refcocog_row(["x"], [1, 2, 3, 4], image=heavy) for _ in range(count)])
    tracemalloc.start()
    assert sum(1 for _ in data.load("refcocog", tmp_path)) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_400_000 < count * len(heavy) / 4  # two batches of 16 rows
