"""MMLongBench, its DocQA part: questions about long documents shown as page pictures; evidence is whole pages.

`ans_page_list` counts the pages of the original document from 0, while `page_list` is what is shown: cut to a length,
or filled up with pages of other documents. So evidence is found by document and file name, never by place in the list.
The prompt is the official harness's; what it lets the answer begin with ("Answer:") is not part of the user's turn, and
ends the prompt only where answers are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from corehead_hf.data.example import Evidence, Example
from corehead_hf.data.example_set import Excluded, Note, Row, RowError, broken
from corehead_hf.data.fields import answer_of, field, integers, interleave, parse_object, question_of, shown
from corehead_hf.data.files import find, json_lines
from corehead_hf.data.image_file import read_image

TASKS = ("mmlongdoc", "longdocurl", "slidevqa")
ANSWER_FORMATS = ("String", "Integer", "Float", "List", "None")
ANSWER_PREFIX = "Answer:"
INSTRUCTION = (
    "You are given a document with text and images, and a question. Answer the question as concisely as you can, using "
    "a single phrase or sentence if possible. If the question cannot be answered based on the information in the "
    "article, write 'Not answerable.' Write your answer in the following format:\nAnswer: [answer]\n\n"
)
DOCUMENT_CHARACTERS = 15  # of a document's name in the prompt
PAGE_NAME = re.compile(r".*_page(\d+)\.\w+")  # counted from 0
SLIDE_NAME = re.compile(r".*-(\d+)-\d+\.\w+")  # counted from 1, before the picture's width


@dataclass(frozen=True)
class MMLongBench:
    """One task of MMLongBench DocQA at one length.

    Args:
        path: folder with `mmlb_data/documentQA/` and `mmlb_image/`, or with `documentQA/`.
        task: "mmlongdoc", "longdocurl" or "slidevqa".
        length: thousands of tokens the prompts were made for: 8, 16, 32, 64 or 128.
        images: folder that the paths in `page_list` count from; None means `mmlb_image/` in path.
        answering: give examples to be answered: also those without evidence, because the question cannot be answered
            or its pages are not shown, with what the scorer needs in `details`. False gives what can be measured.
    """

    name: ClassVar[str] = "mmlongbench"
    hub_files: ClassVar[tuple[str, ...]] = ("mmlb_data/documentQA/{task}_K{length}.jsonl", "mmlb_image/*")
    path: Path
    task: str = "mmlongdoc"
    length: int = 8
    images: str | Path | None = None
    answering: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task={self.task!r} was given; it is one of {', '.join(TASKS)}.")
        self._file()
        if not self._images().is_dir():
            raise ValueError(
                f"{self._images()} is no folder; the pages are looked for there. Unpack the published mmlb_image "
                "archive for DocQA, or give images=."
            )

    def iter_rows(self) -> Iterator[Row]:
        """One row a line."""
        file = self._file()
        for number, text in json_lines(file):
            where = f"{file.name}:{number}"
            try:
                row = parse_object(text)
                identity = f"{file.stem}-{field(row, 'id', str, int)}"
            except ValueError as error:
                yield broken(where, error)
                continue
            yield Row(where, identity, partial(self._example, row, identity), row)

    def _file(self) -> Path:
        name = f"documentQA/{self.task}_K{self.length}.jsonl"
        need = f"{name}; the published mmlb_data archive must be unpacked there"
        return find(self.path, f"mmlb_data/{name}", name, need=need)[0]

    def _images(self) -> Path:
        return Path(self.images or self.path / "mmlb_image")

    def _example(self, row: Mapping[str, Any], identity: str, note: Note) -> Example:
        question, answer, document = question_of(row, "question"), answer_of(row, "answer"), field(row, "doc_name", str)
        pages = field(row, "page_list", list)
        try:
            evidence = _evidence(row, pages, document)
        except Excluded:
            if not self.answering:
                raise
            evidence = ()
        details = self._details(row) if self.answering else {}
        content: list[str | int] = [INSTRUCTION]
        for number, page in enumerate(pages):
            content += [f"Document {_document(page):.{DOCUMENT_CHARACTERS}}: ", number, "\n\n"]
        based = f"Based on Document {document:.{DOCUMENT_CHARACTERS}}, answer the following question. "
        content.append(f"Question: {based}{question}")
        media = tuple(read_image(self._images() / page) for page in pages)
        prefix = ANSWER_PREFIX if self.answering else ""
        return Example(identity, media, question, answer, evidence, interleave(content), prefix, details)

    def _details(self, row: Mapping[str, Any]) -> dict[str, Any]:
        kind = field(row, "answer_format", str)
        if kind not in ANSWER_FORMATS:
            raise RowError("bad_row", f"'answer_format' is {kind!r}; known are {', '.join(ANSWER_FORMATS)}.")
        return {"task": self.task, "length": self.length, "answer_format": kind, "doc_name": row["doc_name"]}


def _evidence(row: Mapping[str, Any], pages: list[Any], document: str) -> tuple[Evidence, ...]:
    wanted = set(integers(field(row, "ans_page_list", list), "ans_page_list"))
    if not wanted:
        raise Excluded("no_evidence", "the question has no evidence page.")
    places: dict[int, list[int]] = {}
    for place, page in enumerate(pages):
        if _document(page).removesuffix(".pdf") == document.removesuffix(".pdf"):
            places.setdefault(_number(page), []).append(place)
    if not places:
        raise RowError("wrong_document", f"no page of document {document!r} is in 'page_list' {shown(pages)}.")
    if missing := sorted(wanted - set(places)):
        raise Excluded("evidence_truncated", f"evidence pages {missing} are not in 'page_list'.")
    return tuple(Evidence(place) for page in sorted(wanted) for place in places[page])


def _document(page: Any) -> str:
    """The document a page belongs to: the folder of its path."""
    if not isinstance(page, str) or len(PurePosixPath(page).parts) < 2:
        raise RowError("bad_row", f"'page_list' holds {shown(page)}; expected paths '.../<document>/<page file>'.")
    return PurePosixPath(page).parts[-2]


def _number(page: str) -> int:
    """A page's number in its document, counted from 0."""
    name = PurePosixPath(page).name
    if match := PAGE_NAME.fullmatch(name):
        return int(match[1])
    if match := SLIDE_NAME.fullmatch(name):
        return int(match[1]) - 1
    raise RowError("bad_row", f"the page number cannot be read from {name!r}; known: <doc>_page<n>, <deck>-<n>-<w>.")
