import pytest
from formats import mmlongbench_doc_row, mmlongbench_row, pdf, write_bytes, write_image, write_lines, write_mmlongbench

from corehead_hf import Evidence, data
from corehead_hf.scoring import SCORERS

DOC = "longdocurl/4190345/4190345_page{}.jpg"
OTHER = "longdocurl/99/99_page{}.jpg"


def test_evidence_is_found_by_name_not_by_place(tmp_path):
    """Pages 3, 4, 5 of the document behind two pages of another one, which has a page 4 too."""
    pages = [OTHER.format(4), OTHER.format(3), *(DOC.format(page) for page in (3, 4, 5))]
    write_mmlongbench(tmp_path, [mmlongbench_row(pages, [4, 3])])
    (example,) = data.load("mmlongbench", tmp_path, task="longdocurl")
    assert example.evidence == (Evidence(2), Evidence(3))
    assert [round(float(image.mean())) for image in example.media] == [0, 8, 16, 24, 32]
    assert example.id == "longdocurl_K8-longdocurl_1" and example.answer == "12"


def test_the_prompt_is_the_official_one(tmp_path):
    name = "a-document-with-a-long-name"
    pages = [f"longdocurl/{name}/{name}_page{page}.jpg" for page in (0, 1)]
    question = "What is the total?"
    write_mmlongbench(tmp_path, [mmlongbench_row(pages, [1], doc_name=name)])
    (example,) = data.load("mmlongbench", tmp_path, task="longdocurl")
    text = "".join("<image>" if isinstance(part, int) else part for part in example.turn)
    assert text == (
        "You are given a document with text and images, and a question. Answer the question as concisely as you can, "
        "using a single phrase or sentence if possible. If the question cannot be answered based on the information in "
        "the article, write 'Not answerable.' Write your answer in the following format:\nAnswer: [answer]\n\n"
        "Document a-document-with: <image>\n\nDocument a-document-with: <image>\n\n"
        "Question: Based on Document a-document-with, answer the following question. What is the total?"
    )
    assert example.question == question and text.rfind(question) == len(text) - len(question)


def test_slides_count_from_one_in_their_names(tmp_path):
    pages = [f"slidevqa/deck-2019/the-deck-2019-{number}-1024.jpg" for number in (1, 2, 3)]
    write_mmlongbench(tmp_path, [mmlongbench_row(pages, [2], doc_name="deck-2019")], task="slidevqa", length=16)
    (example,) = data.load("mmlongbench", tmp_path, task="slidevqa", length=16)
    assert example.evidence == (Evidence(2),)  # page 2 counted from 0 is slide 3


def test_documents_may_be_named_with_or_without_pdf(tmp_path):
    pages = ["mmlongdoc/PH_2016/PH_2016_page7.jpg"]
    write_mmlongbench(tmp_path, [mmlongbench_row(pages, [7], doc_name="PH_2016.pdf")], task="mmlongdoc")
    (example,) = data.load("mmlongbench", tmp_path)
    assert example.evidence == (Evidence(0),)


def test_what_cannot_be_measured_is_counted(tmp_path):
    own, other = [DOC.format(page) for page in (3, 4)], [OTHER.format(page) for page in (3, 4)]
    rows = [
        mmlongbench_row(own, [4], identity="sound"),
        mmlongbench_row(own, [4, 9], identity="one page is missing"),
        mmlongbench_row(own, [], identity="not answerable"),
        mmlongbench_row(own, [4], identity="a list", answer=["x", "y"], answer_format="List"),
    ]
    bad = [
        mmlongbench_row(other, [4], identity="another document"),
        mmlongbench_row(["longdocurl/4190345/cover.jpg"], [4], identity="no number"),
        mmlongbench_row(["4190345_page4.jpg"], [4], identity="no folder"),
        mmlongbench_row(own, ["4"], identity="text"),
    ]
    write_mmlongbench(tmp_path, rows + bad)
    (tmp_path / "mmlb_image" / OTHER.format(3)).unlink()  # not asked of a row that is left out
    examples = data.load("mmlongbench", tmp_path, task="longdocurl", on_error="skip")
    assert [example.id for example in examples] == ["longdocurl_K8-sound", "longdocurl_K8-a list"]
    assert next(iter(examples)).answer == "12"
    skipped = {"evidence_truncated": 1, "no_evidence": 1, "wrong_document": 1, "bad_row": 3}
    list(examples)
    assert examples.report.skipped == skipped
    assert "evidence pages [9] are not in 'page_list'" in examples.report.described["evidence_truncated"][0]
    with pytest.raises(ValueError, match=r"^longdocurl_K8\.jsonl:5: no page of document '4190345' is in 'page_list'"):
        list(data.load("mmlongbench", tmp_path, task="longdocurl"))


def test_missing_pages_archives_and_tasks_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"mmlongdoc_K8\.jsonl; the published mmlb_data archive must be unpacked"):
        data.load("mmlongbench", tmp_path)
    write_lines(tmp_path / "documentQA" / "mmlongdoc_K8.jsonl", [mmlongbench_row([DOC.format(3)], [3])])
    with pytest.raises(ValueError, match="mmlb_image is no folder"):
        data.load("mmlongbench", tmp_path)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match=r"4190345_page3\.jpg does not exist"):
        list(data.load("mmlongbench", tmp_path, images=tmp_path / "pictures"))
    with pytest.raises(ValueError, match="task='docqa' was given"):
        data.load("mmlongbench", tmp_path, task="docqa")


def test_answering_gives_rows_without_evidence_too(tmp_path):
    own = [DOC.format(page) for page in (3, 4)]
    rows = [
        mmlongbench_row(own, [4], identity="sound", answer=12, answer_format="Integer"),
        mmlongbench_row(own, [4, 9], identity="one page is missing"),
        mmlongbench_row(own, [], identity="not answerable", answer="Not answerable", answer_format="None"),
        mmlongbench_row(own, [4], identity="a list", answer=["x", "y"], answer_format="List"),
        mmlongbench_row(own, [4], identity="a new format", answer_format="Colour"),
    ]
    write_mmlongbench(tmp_path, rows)
    examples = data.load("mmlongbench", tmp_path, task="longdocurl", answering=True, on_error="skip")
    found = list(examples)
    assert [example.evidence for example in found] == [(Evidence(1),), (), (), (Evidence(1),)]
    assert found[0].details == {
        "task": "longdocurl",
        "length": 8,
        "answer_format": "Integer",
        "doc_name": "4190345",
    }
    assert all(example.answer_prefix == "Answer:" for example in found)
    assert examples.report.skipped == {"bad_row": 1}
    assert "'answer_format' is 'Colour'; known are String, Integer" in examples.report.described["bad_row"][0]
    texts = ("it is 12", "a 12", "Not answerable", "y")
    scores = [SCORERS["mmlongbench"](text, example).score for text, example in zip(texts, found, strict=True)]
    assert scores == [1.0, 1.0, 1.0, pytest.approx(2 / 3)]  # "x y" against "y": precision 1, recall 1/2
    (measured, _, _) = data.load("mmlongbench", tmp_path, task="longdocurl")
    assert measured.turn == found[0].turn and measured.answer_prefix == "" and measured.details == {}


# --- MMLongBench-Doc ------------------------------------------------------------------------------------------------


def write_doc(folder, rows, pages=3):
    import json

    write_bytes(folder / "data" / "samples.json", json.dumps(rows, indent=2).encode())
    for number in range(1, pages + 1):
        write_image(folder / "pages" / "PH_2016" / f"{number:03d}.png", value=number)
    return folder


def test_pages_of_the_doc_set_count_from_one(tmp_path):
    write_doc(tmp_path, [mmlongbench_doc_row("[2, 3]"), mmlongbench_doc_row("[1]")])
    first, second = data.load("mmlongbench-doc", tmp_path, pages=tmp_path / "pages")
    assert first.evidence == (Evidence(1), Evidence(2)) and second.evidence == (Evidence(0),)
    assert [int(image[0, 0, 0]) for image in first.media] == [1, 2, 3]
    assert first.turn == (0, 1, 2, "How many?") and first.answer == "Less well-off"
    assert [first.id, second.id] == ["PH_2016.pdf-0", "PH_2016.pdf-1"]
    assert first.media[0] is second.media[0]  # pages of one document are decoded once


def test_rows_of_the_doc_set_that_cannot_be_measured_are_counted(tmp_path):
    texts = ("[0]", "[]", "[2]", "[4]", "Not a list", "[1.5]", "{[]}")
    write_doc(tmp_path, [*map(mmlongbench_doc_row, texts), mmlongbench_doc_row("[1]", doc_id="absent.pdf")])
    examples = data.load("mmlongbench-doc", tmp_path, pages=tmp_path / "pages", on_error="skip")
    assert [example.id for example in examples] == ["PH_2016.pdf-2"]
    skipped = {"page_outside": 2, "no_evidence": 1, "bad_row": 3, "missing_media": 1}
    assert examples.report.skipped == skipped
    with pytest.raises(ValueError, match=r"^samples\.json row 0: 'evidence_pages' is \[0\]; pages count from 1"):
        list(data.load("mmlongbench-doc", tmp_path, pages=tmp_path / "pages"))
    cut = data.load("mmlongbench-doc", tmp_path, pages=tmp_path / "pages", on_error="skip", max_pages=1)
    assert list(cut) == [] and cut.report.skipped["evidence_truncated"] == 2


def test_page_pictures_counted_from_zero_are_refused(tmp_path):
    write_doc(tmp_path, [mmlongbench_doc_row("[1]")])
    write_image(tmp_path / "pages" / "PH_2016" / "0.png")
    with pytest.raises(ValueError, match=r"holds pages \[0, 1, 2, 3\]; expected <number>\.png from 1 without a gap"):
        list(data.load("mmlongbench-doc", tmp_path, pages=tmp_path / "pages"))


def test_pdf_pages_are_rendered(tmp_path):
    from pyarrow import Table, parquet

    (tmp_path / "data").mkdir()
    rows = [mmlongbench_doc_row("[2]"), mmlongbench_doc_row("[1]", doc_id="broken.pdf")]
    parquet.write_table(Table.from_pylist(rows), tmp_path / "data" / "train-00000-of-00001.parquet")  # as on the Hub
    write_bytes(tmp_path / "documents" / "PH_2016.pdf", pdf([(60, 80), (80, 60)]))
    write_bytes(tmp_path / "documents" / "broken.pdf", b"no pdf")
    examples = data.load("mmlongbench-doc", tmp_path, on_error="skip")
    (example,) = examples
    assert [image.shape for image in example.media] == [(160, 120, 3), (120, 160, 3)]  # 144 dpi is twice the points
    assert (example.media[0] == 255).all() and example.evidence == (Evidence(1),)
    assert examples.report.skipped == {"corrupt_media": 1}
    (small,) = data.load("mmlongbench-doc", tmp_path, dpi=72, limit=1)
    assert small.media[0].shape == (80, 60, 3)


def test_wrong_settings_of_the_doc_set_are_refused(tmp_path):
    with pytest.raises(ValueError, match="documents is no folder"):
        data.load("mmlongbench-doc", tmp_path)
    (tmp_path / "documents").mkdir()
    with pytest.raises(ValueError, match=r"holds no questions of MMLongBench-Doc; looked for data/samples\.json"):
        data.load("mmlongbench-doc", tmp_path)
    with pytest.raises(ValueError, match="both are at least 1"):
        data.load("mmlongbench-doc", tmp_path, dpi=0)


def test_answering_the_doc_set(tmp_path):
    """Evidence that is missing, cut off or wrong hinders no answer; the prompt ends as lmms-eval's."""
    rows = [mmlongbench_doc_row(text) for text in ("[2]", "[]", "[3]", "[0]")]
    rows[1] |= {"answer": "Not answerable", "answer_format": "None"}
    write_doc(tmp_path, [*rows, mmlongbench_doc_row("[1]") | {"answer_format": "String"}])
    options = {"pages": tmp_path / "pages", "max_pages": 2, "on_error": "skip"}
    examples = data.load("mmlongbench-doc", tmp_path, answering=True, **options)
    found = list(examples)
    assert [example.evidence for example in found] == [(Evidence(1),), (), (), ()]
    tail = "\nAnswer with a single word or phrase. If the answer is not in the document, answer 'Not answerable'."
    assert found[0].turn == (0, 1, f"How many?{tail}")
    assert found[1].details == {"answer_format": "None", "doc_id": "PH_2016.pdf"}
    assert examples.report.counts == {"yielded": 4, "page_outside": 1, "bad_row": 1}
    texts = ("less well-off", "Not answerable", "Less", "well-off")
    scores = [SCORERS["mmlongbench-doc"](text, example).score for text, example in zip(texts, found, strict=True)]
    assert scores == [1.0, 1.0, 0.0, pytest.approx(1 - 5 / 13)]
    (measured,) = data.load("mmlongbench-doc", tmp_path, limit=1, **options)
    assert measured.turn == (0, 1, "How many?") and measured.details == {}


def test_answering_the_doc_set_from_parquet(tmp_path):
    from pyarrow import Table, parquet

    (tmp_path / "data").mkdir()
    parquet.write_table(
        Table.from_pylist([mmlongbench_doc_row("[1]")]), tmp_path / "data" / "train-00000-of-00001.parquet"
    )
    write_image(tmp_path / "pages" / "PH_2016" / "1.png")
    (example,) = data.load("mmlongbench-doc", tmp_path, pages=tmp_path / "pages", answering=True)
    assert example.details["answer_format"] == "Str"
