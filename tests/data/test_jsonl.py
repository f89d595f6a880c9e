import json

import pytest
from formats import frame_numbers, write_bytes, write_image, write_lines, write_video
from PIL import Image

from corehead_hf import Evidence, data


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "a.png", 40, 30, 7)
    write_image(tmp_path / "pictures" / "b.png", 20, 50, 9)
    write_video(tmp_path / "c.mp4", 20)
    return tmp_path


def row(**changes):
    fields = {"media": ["a.png"], "question": "Where?", "evidence": [{"media": 0, "box": [1, 2, 30, 20]}]}
    return {key: value for key, value in {**fields, **changes}.items() if value is not None}


def load(folder, *rows, **options):
    return data.load("jsonl", path=write_lines(folder / "mine.jsonl", rows), **options)


def test_all_of_the_format(folder):
    full = row(
        id="first",
        media=["a.png", {"video": "c.mp4", "frames": 4}, "pictures/b.png", {"video": "c.mp4", "frames": [3, 5]}],
        answer="there",
        evidence=[
            {"media": 0, "box": [0, 0, 40, 30]},
            {"media": 1, "frames": [1, 3]},
            {"media": 2},
            {"media": 3, "box": [1.5, 2, 3, 4], "frames": [0]},
        ],
        content=["Look: ", 0, 1, "and", 2, 3, "Where? Be brief."],
    )
    first, second = load(folder, full, "", row())
    assert (first.id, first.question, first.answer) == ("first", "Where?", "there")
    assert first.turn == ("Look: ", 0, 1, "and", 2, 3, "Where? Be brief.")
    assert [image.shape for image in first.images] == [(30, 40, 3), (50, 20, 3)]
    assert (first.images[0] == 7).all() and (first.images[1] == 9).all()
    assert [video.frame_ids for video in first.videos] == [(0, 6, 13, 19), (3, 5)]
    assert frame_numbers(first.videos[1].frames) == [3, 5] and first.videos[0].fps == 10
    assert first.evidence == (
        Evidence(0, (0, 0, 40, 30)),
        Evidence(1, frames=(1, 3)),
        Evidence(2),
        Evidence(3, (1.5, 2, 3, 4), (0,)),
    )
    assert (second.id, second.answer, second.content) == ("mine-3", "", None)


def test_a_question_that_is_only_answered_has_no_evidence(folder):
    (asked,) = load(folder, row(evidence=None, answer="there"))
    assert (asked.evidence, asked.answer) == ((), "there")


BAD = {
    "unknown key": (row(bbox=[1]), r"unknown key 'bbox'; known are id, media, question, answer, evidence, content"),
    "unknown key in evidence": (row(evidence=[{"media": 0, "bbox": [0, 0, 1, 1]}]), "unknown key 'bbox'"),
    "unknown key of a video": (row(media=[{"video": "c.mp4", "fps": 2, "frames": 2}]), "unknown key 'fps'"),
    "no media": (row(media=None), "has no 'media'"),
    "empty media": (row(media=[]), "'media' has 0"),
    "media of a number": (row(media=[3]), "3 was given; expected an object with video, frames"),
    "missing image": (row(media=["absent.png"]), r"absent\.png does not exist"),
    "missing video": (row(media=[{"video": "absent.mp4", "frames": 2}]), r"absent\.mp4 does not exist"),
    "video without frames": (row(media=[{"video": "c.mp4"}]), "has no 'frames'"),
    "no frames of a video": (row(media=[{"video": "c.mp4", "frames": 0}]), "0 frames of 0..19"),
    "frames behind the end": (row(media=[{"video": "c.mp4", "frames": [1, 20]}]), "frame 20 was asked.*20 frames"),
    "frames that fall": (row(media=[{"video": "c.mp4", "frames": [5, 3]}]), "strictly rising"),
    "empty question": (row(question="  "), "'question' is '  '"),
    "question of a number": (row(question=3), "'question' is 3; expected str"),
    "answer of a number": (row(answer=3), "'answer' is 3; expected str"),
    "id of a number": (row(id=3), "'id' is 3; expected str"),
    "no evidence": (row(evidence=[]), "'evidence' has 0 entries"),
    "evidence of no medium": (row(evidence=[{"box": [0, 0, 1, 1]}]), "has no 'media'"),
    "evidence of a far medium": (row(evidence=[{"media": 1}]), "names medium 1 of 1"),
    "evidence of a negative medium": (row(evidence=[{"media": -1}]), "names medium -1 of 1"),
    "evidence of medium true": (row(evidence=[{"media": True}]), "'media' is True; expected int"),
    "box outside": (row(evidence=[{"media": 0, "box": [40, 0, 50, 9]}]), r"\[40, 0, 50, 9\] lies outside 40 x 30"),
    "box x y w h": (row(evidence=[{"media": 0, "box": [30, 20, 5, 5]}]), r"\[30, 20, 5, 5\] is empty"),
    "box of three": (row(evidence=[{"media": 0, "box": [1, 2, 3]}]), r"\[1, 2, 3\]; expected 4 finite numbers"),
    "box of NaN": ('{"media": ["a.png"], "question": "?", "evidence": [{"media": 0, "box": [0, 0, NaN, 9]}]}', "nan"),
    "frames of an image": (row(evidence=[{"media": 0, "frames": [0]}]), "names frames of an image"),
    "frame not shown": (
        row(media=[{"video": "c.mp4", "frames": 4}], evidence=[{"media": 0, "frames": [4]}]),
        r"outside 0\.\.3",
    ),
    "no frame": (
        row(media=[{"video": "c.mp4", "frames": 4}], evidence=[{"media": 0, "frames": []}]),
        r"outside 0\.\.3",
    ),
    "content that shows another medium": (row(content=[1, "Where?"]), r"shows media \[1\]"),
    "content with a true": (row(content=[True, "Where?"]), "expected texts and numbers of media"),
    "content without the question": (row(content=[0, "What?"]), "not in the last text"),
    "no JSON": ('{"media": ', "not sound JSON in UTF-8"),
    "no object": ("[1, 2]", "expected a JSON object"),
}


@pytest.mark.parametrize("line, reason", BAD.values(), ids=BAD)
def test_bad_lines_are_named_or_counted(folder, line, reason):
    good = row(id="good")
    with pytest.raises(ValueError, match=rf"^mine\.jsonl:2: .*{reason}"):
        list(load(folder, good, line))
    examples = load(folder, line, good, on_error="skip")
    assert [example.id for example in examples] == ["good"]
    assert examples.report.yielded == 1 and examples.report.skipped.total() == 1
    ((description,),) = examples.report.described.values()
    assert description.startswith("mine.jsonl:1: ")


def test_boxes_over_the_edge_are_clipped_and_counted(folder):
    over = row(evidence=[{"media": 0, "box": [-3, 5, 20, 45]}, {"media": 0, "box": [30, 0, 44, 9]}])
    examples = load(folder, over, row())
    first, _ = examples
    assert [part.box for part in first.evidence] == [(0, 5, 20, 30), (30, 0, 40, 9)]
    assert examples.report.counts == {"yielded": 2, "clipped": 1}
    assert examples.report.described["clipped"] == [
        "mine.jsonl:1: the box [-3, 5, 20, 45] was clipped to [0, 5, 20, 30]",
        "mine.jsonl:1: the box [30, 0, 44, 9] was clipped to [30, 0, 40, 9]",
    ]


def test_ids_must_differ(folder):
    with pytest.raises(ValueError, match=r"mine\.jsonl:2: the id 'x' stands in an earlier row"):
        list(load(folder, row(id="x"), row(id="x")))


def test_lines_that_are_not_utf8_are_named(folder):
    write_bytes(folder / "mine.jsonl", json.dumps(row()).encode() + b'\n{"question": "\xff"}\n')
    iterator = iter(data.load("jsonl", folder / "mine.jsonl"))
    assert next(iterator).id == "mine-1"
    with pytest.raises(ValueError, match=r"mine\.jsonl:2: .*UTF-8"):
        next(iterator)


def test_a_byte_order_mark_and_exif(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(folder / "turned.jpg", exif=exif)
    tall = row(media=["turned.jpg"], evidence=[{"media": 0, "box": [0, 0, 20, 40]}])
    write_bytes(folder / "mine.jsonl", "\ufeff".encode() + json.dumps(tall).encode())
    (turned,) = data.load("jsonl", folder / "mine.jsonl", exif=True)
    assert turned.media[0].shape == (40, 20, 3) and turned.evidence[0].box == (0, 0, 20, 40)
    stored = data.load("jsonl", folder / "mine.jsonl")
    assert next(iter(stored)).evidence[0].box == (0, 0, 20, 20) and stored.report.changed == {"clipped": 1}


def test_a_folder_is_refused(folder):
    with pytest.raises(ValueError, match="needs one JSON lines file"):
        data.load("jsonl", folder)
    with pytest.raises(ValueError, match="needs one JSON lines file"):
        data.load("jsonl", "folder/absent.jsonl")  # has the form of a Hub id


def test_a_name_that_no_file_can_have_costs_its_row_only(folder):
    long = "x" * 300 + ".mp4"
    examples = load(folder, row(), row(media=[{"video": long, "frames": 2}]), on_error="skip")
    assert len(list(examples)) == 1 and sum(examples.report.skipped.values()) == 1
