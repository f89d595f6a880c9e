import tracemalloc

import pytest
from formats import encoded, mmdocir_layout, mmdocir_page, mmdocir_question, write_lines, write_mmdocir

from corehead_hf import Evidence, data

FIGURE, TABLE = (10, 20, 50, 40), (5, 50, 55, 75)


def layouts(name="a.pdf", value=0):
    """Two pages: a heading and a figure; a text without words, an equation, a table, a text."""
    return [
        mmdocir_layout("text", 0, (5, 5, 55, 10), "Heading", name),
        mmdocir_layout("figure", 0, FIGURE, None, name, value + 40),
        mmdocir_layout("text", 1, (5, 5, 55, 6), " ", name),
        mmdocir_layout("equation", 1, (5, 10, 55, 20), "E = mc", name),
        mmdocir_layout("table", 1, TABLE, None, name, value + 120),
        mmdocir_layout("text", 1, (5, 76, 55, 79), "Footer", name),
    ]


def pages(name="a.pdf", value=0):
    return [mmdocir_page(number, name, value + 40 * number) for number in range(3)]


def one_document(folder, *questions):
    return write_mmdocir(folder, [("a.pdf", [0, 2], [0, 5], list(questions))], layouts(), pages())


def level(image):
    return int(round(float(image.mean())))


def test_interleaved_reads_in_order_and_finds_the_crop(tmp_path):
    one_document(tmp_path, mmdocir_question(" Which? ", [(1, (5, 49.9, 55, 75))]))
    (example,) = data.load("mmdocir", tmp_path)
    assert example.id == "a.pdf-0" and example.question == "Which?" and example.answer == "Less well-off"
    assert example.turn == ("Heading\n\n", 0, "\n\nE = mc\n\n", 1, "\n\nFooter\n\nWhich?")
    assert [level(image) for image in example.media] == [40, 120]
    assert example.evidence == (Evidence(1),)


def test_layout_ranges_include_both_ends(tmp_path):
    """The last layout of a document is its evidence; the next document's first layout is not among its pictures."""
    both = [mmdocir_layout("table", 0, TABLE, None, "a.pdf", 40), mmdocir_layout("image", 0, FIGURE, None, "b.pdf", 90)]
    asked = [mmdocir_question("Which?", [(0, TABLE)]), mmdocir_question("Which?", [(0, FIGURE)])]
    write_mmdocir(tmp_path, [("b.pdf", [1, 1], [1, 1], asked[1:]), ("a.pdf", [0, 0], [0, 0], asked[:1])], both)
    first, second = data.load("mmdocir", tmp_path)  # in the order of the table, whatever the annotations' order
    assert [first.id, second.id] == ["a.pdf-0", "b.pdf-0"]
    assert [level(first.media[0]), level(second.media[0])] == [40, 90] and len(first.media) == len(second.media) == 1


def test_layoutindex_wins_where_it_fits(tmp_path):
    twins = [mmdocir_layout("figure", 0, FIGURE, None, value=value) for value in (40, 120)]
    asked = [
        mmdocir_question("Right?", [(0, FIGURE)], evidence="x", layoutindex=[1]),
        mmdocir_question("Far off?", [(0, FIGURE)], evidence="x", layoutindex=[7]),
        mmdocir_question("None?", [(0, FIGURE)]),
    ]
    write_mmdocir(tmp_path, [("a.pdf", [0, 0], [0, 1], asked)], twins)
    examples = data.load("mmdocir", tmp_path)
    assert [example.evidence for example in examples] == [(Evidence(1),), (Evidence(0),), (Evidence(0),)]
    assert examples.report.changed == {"layoutindex_mismatch": 1}


def test_text_evidence_has_no_picture_and_is_counted(tmp_path):
    heading, equation = (0, (5, 5, 55, 10)), (1, (5, 10, 55, 20))
    one_document(
        tmp_path,
        mmdocir_question("Text?", [heading]),
        mmdocir_question("Equation?", [equation]),
        mmdocir_question("Both?", [heading, (0, FIGURE)]),
        mmdocir_question("Two pictures?", [(0, FIGURE), (1, TABLE)]),
        mmdocir_question("Nothing?", [], page_id=[]),
    )
    examples = data.load("mmdocir", tmp_path)
    assert [(made.question, made.evidence) for made in examples] == [
        ("Both?", (Evidence(0),)),
        ("Two pictures?", (Evidence(0), Evidence(1))),
    ]
    assert examples.report.skipped == {"text_evidence": 2, "no_evidence": 1}
    assert examples.report.changed == {"text_evidence_left_out": 1} and examples.report.rows == 5


def test_pages_turn_points_into_pixels(tmp_path):
    """Pages of 60 x 80 points are 120 x 160 pixels."""
    one_document(tmp_path, mmdocir_question("Where?", [(0, FIGURE), (2, (0, 0.5, 60, 80))]))
    (example,) = data.load("mmdocir", tmp_path, mode="pages")
    assert [level(image) for image in example.media] == [0, 40, 80] and example.turn == (0, 1, 2, "\n\nWhere?")
    assert example.evidence == (Evidence(0, (20, 40, 100, 80)), Evidence(2, (0, 1, 120, 160)))


def test_a_page_rendered_a_little_off_has_a_scale_per_side(tmp_path):
    asked = [mmdocir_question("Where?", [(0, (12, 20, 48, 40))])]
    write_mmdocir(tmp_path, [("a.pdf", [0, 0], [0, 0], asked)], pages=[mmdocir_page(0, size=(150, 201))])
    (example,) = data.load("mmdocir", tmp_path, mode="pages")
    assert example.evidence[0].box == pytest.approx((30, 50.25, 120, 100.5))  # 2.5 and 2.5125 pixels a point


def test_the_same_box_on_another_page_is_another_layout(tmp_path):
    twins = [mmdocir_layout("figure", page, FIGURE) for page in (0, 1, 2)]
    asked = [mmdocir_question(f"{page}?", [(page, FIGURE)]) for page in (2, 0, 1)]
    write_mmdocir(tmp_path, [("a.pdf", [0, 2], [0, 2], asked)], twins)
    assert [made.evidence for made in data.load("mmdocir", tmp_path)] == [(Evidence(n),) for n in (2, 0, 1)]


def test_page_ranges_include_both_ends(tmp_path):
    asked = [mmdocir_question("Where?", [(2, FIGURE)])]
    documents = [("b.pdf", [3, 5], [0, 0], asked), ("a.pdf", [0, 2], [0, 0], asked)]
    write_mmdocir(tmp_path, documents, pages=pages("a.pdf") + pages("b.pdf", 100))
    first, second = data.load("mmdocir", tmp_path, mode="pages")
    assert [[level(image) for image in made.media] for made in (first, second)] == [[0, 40, 80], [100, 140, 180]]
    assert first.evidence[0].media == second.evidence[0].media == 2


def test_a_margin_shows_only_pages_near_the_evidence(tmp_path):
    one_document(tmp_path, mmdocir_question("Where?", [(1, TABLE)]))
    (near,) = data.load("mmdocir", tmp_path, mode="pages", margin=0)
    assert [level(image) for image in near.media] == [40] and near.evidence == (Evidence(0, (10, 100, 110, 150)),)
    (near,) = data.load("mmdocir", tmp_path, margin=0)
    assert near.turn == ("E = mc\n\n", 0, "\n\nFooter\n\nWhere?") and near.evidence == (Evidence(0),)
    (near,) = data.load("mmdocir", tmp_path, mode="pages", margin=1)
    assert len(near.media) == 3 and near.evidence[0].media == 1


KNOWN_BAD = {
    "zero width": (mmdocir_question("Q?", [(0, (10, 20, 10, 40))]), "empty_box", r"\[10, 20, 10, 40\] is empty"),
    "off the page": (mmdocir_question("Q?", [(0, (10, 80, 50, 95))]), "box_outside", r"outside 60\.0 x 80\.0"),
    "pages disagree": (
        mmdocir_question("Q?", [(0, FIGURE)], page_id=[182]),
        "page_mismatch",
        r"'page_id' is \[182\], but its layouts lie on pages \[0\]",
    ),
    "page size of zero": (
        {**mmdocir_question("Q?", []), "layout_mapping": [{"page": 0, "page_size": [0, 80], "bbox": [1, 2, 3, 4]}]},
        "bad_row",
        "'page_size' is",
    ),
    "empty question": (mmdocir_question(" ", [(0, FIGURE)]), "empty_question", "'Q' is ' '"),
    "no object": ("question", "bad_row", "the row is 'question'"),
}


@pytest.mark.parametrize("mode", ["interleaved", "pages"])
@pytest.mark.parametrize("question, reason, message", KNOWN_BAD.values(), ids=KNOWN_BAD)
def test_known_bad_rows_are_named_or_counted(tmp_path, mode, question, reason, message):
    one_document(tmp_path, mmdocir_question("First?", [(0, FIGURE)]), question)
    with pytest.raises(ValueError, match=rf"^MMDocIR_annotations\.jsonl:1 question 1: .*{message}"):
        list(data.load("mmdocir", tmp_path, mode=mode))
    examples = data.load("mmdocir", tmp_path, mode=mode, on_error="skip")
    assert [example.question for example in examples] == ["First?"]
    assert examples.report.skipped == {reason: 1}


def test_a_box_partly_off_the_page_is_clipped_and_counted(tmp_path):
    one_document(tmp_path, mmdocir_question("Q?", [(1, (5, 50, 55, 95))]))  # as the one that ends at 780 of 576
    examples = data.load("mmdocir", tmp_path, mode="pages")
    (example,) = examples
    assert example.evidence == (Evidence(1, (10, 100, 110, 160)),) and examples.report.changed == {"clipped": 1}
    interleaved = data.load("mmdocir", tmp_path)
    assert next(iter(interleaved)).evidence == (Evidence(1),)  # overlap 25 / 30


def test_a_box_without_a_layout_is_refused_rather_than_matched_to_the_nearest(tmp_path):
    one_document(tmp_path, mmdocir_question("Q?", [(0, (10, 30, 50, 60))]))  # 10 of 40 points in common
    with pytest.raises(ValueError, match=r"no layout on page 0 matches .*; the best overlap \(IoU\) is 0\.25"):
        list(data.load("mmdocir", tmp_path))


def test_a_page_of_another_shape_is_refused(tmp_path):
    table = [mmdocir_page(0, size=(120, 158)), mmdocir_page(1, size=(120, 120))]  # 1.3 % off, and square
    asked = [mmdocir_question("A?", [(0, FIGURE)]), mmdocir_question("B?", [(1, FIGURE)])]
    write_mmdocir(tmp_path, [("a.pdf", [0, 1], [0, 0], asked)], pages=table)
    examples = data.load("mmdocir", tmp_path, mode="pages", on_error="skip")
    assert list(examples) == [] and examples.report.skipped == {"aspect": 2}
    assert "120 x 120 pixels, its annotation 60.0 x 80.0 points" in examples.report.described["aspect"][1]


def test_a_page_behind_the_document_is_refused(tmp_path):
    one_document(tmp_path, mmdocir_question("Q?", [(3, FIGURE)]))
    with pytest.raises(ValueError, match=r"names pages \[3\] of 3, counted from 0"):
        list(data.load("mmdocir", tmp_path, mode="pages"))


def test_ranges_of_another_document_lose_every_question_visibly(tmp_path):
    asked = [mmdocir_question("A?", [(0, FIGURE)]), mmdocir_question("B?", [(0, FIGURE)])]
    documents = [
        ("a", [0, 2], [1, 6], asked),
        ("b.pdf", [3, 5], [6, 11], asked[:1]),
        ("c.pdf", [6, 9], [12, 20], asked),
    ]
    write_mmdocir(tmp_path, documents, layouts("a.pdf") + layouts("b.pdf"))
    examples = data.load("mmdocir", tmp_path, on_error="skip")
    assert [example.id for example in examples] == ["b.pdf-0"]
    assert examples.report.skipped == {"wrong_document": 2, "bad_row": 2}
    assert "belong to a, b, not to a." in examples.report.described["wrong_document"][0]
    assert "which has 12 rows" in examples.report.described["bad_row"][0]


def test_a_broken_annotation_line_hurts_no_other(tmp_path):
    one_document(tmp_path, mmdocir_question("Q?", [(0, FIGURE)]))
    path = tmp_path / "MMDocIR_annotations.jsonl"
    write_lines(
        path, [path.read_text().strip(), "{", '{"doc_name": "b.pdf", "layout_indices": [5, 2], "questions": []}']
    )
    examples = data.load("mmdocir", tmp_path, on_error="skip")
    assert len(list(examples)) == 1 and examples.report.skipped == {"bad_row": 2}


def test_documents_are_held_one_at_a_time(tmp_path):
    count, heavy = 60, encoded(120, 160) + bytes(100_000)  # what follows the end of a JPEG is not looked at
    tables = [{**mmdocir_page(0, f"{n}.pdf"), "image_binary": heavy} for n in range(count)]
    asked = [mmdocir_question("Q?", [(0, FIGURE)])]
    write_mmdocir(tmp_path, [(f"{n}.pdf", [n, n], [0, 0], asked) for n in range(count)], pages=tables)
    del tables
    tracemalloc.start()
    assert sum(1 for _ in data.load("mmdocir", tmp_path, mode="pages")) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000 < count * len(heavy) / 4


def test_missing_files_and_wrong_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no MMDocIR_annotations\.jsonl"):
        data.load("mmdocir", tmp_path)
    write_mmdocir(tmp_path, [], layouts())
    with pytest.raises(ValueError, match=r"holds no MMDocIR_pages\.parquet"):
        data.load("mmdocir", tmp_path, mode="pages")
    for options in ({"mode": "text"}, {"margin": -1}):
        with pytest.raises(ValueError, match="were given"):
            data.load("mmdocir", tmp_path, **options)
