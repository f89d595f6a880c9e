"""MMLongBench-Doc: questions about whole PDF documents; evidence is whole pages, counted from 1.

Pages are shown as pictures: from a folder of pictures, or rendered from the PDFs where pypdfium2 is installed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from corehead_hf.data.example import Evidence, Example
from corehead_hf.data.example_set import Excluded, Note, Row, RowError, broken
from corehead_hf.data.fields import answer_of, field, integers, question_of
from corehead_hf.data.files import find, json_array, parquet_batches
from corehead_hf.data.image_file import read_image

COLUMNS = ("doc_id", "question", "answer", "evidence_pages")
ANSWER_FORMATS = ("Str", "Int", "Float", "List", "None")
INSTRUCTION = "\nAnswer with a single word or phrase. If the answer is not in the document, answer 'Not answerable'."
POINTS_PER_INCH = 72


@dataclass(frozen=True)
class MMLongBenchDoc:
    """MMLongBench-Doc.

    Args:
        path: folder with `samples.json`, itself or in `data/`, or with the Hub's parquet files in `data/`.
        pages: folder of page pictures, `<doc_id without .pdf>/<number>.png` or .jpg, numbers from 1 without a gap, any
            zero padding; None renders `documents/<doc_id>` in path (needs pypdfium2).
        dpi: of rendering; the official harness takes 144.
        max_pages: show at most the first so many pages; examples whose evidence lies behind are excluded and counted.
        answering: give examples to be answered: also those without evidence, because the question cannot be answered
            or its pages are not shown, with what the scorer needs in `details`. The prompt then ends as lmms-eval's
            does, asking for a word or a phrase. False gives what can be measured.
    """

    name: ClassVar[str] = "mmlongbench-doc"
    hub_files: ClassVar[tuple[str, ...]] = ("data/*", "documents/*")
    path: Path
    pages: str | Path | None = None
    dpi: int = 144
    max_pages: int | None = None
    answering: bool = False

    def __post_init__(self) -> None:
        if self.dpi < 1 or (self.max_pages is not None and self.max_pages < 1):
            raise ValueError(f"dpi={self.dpi}, max_pages={self.max_pages} were given; both are at least 1.")
        folder = Path(self.pages or self.path / "documents")
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; the documents' pages are looked for there. Give pages=.")
        self._files()

    def iter_rows(self) -> Iterator[Row]:
        """One row per question."""
        shown = lru_cache(maxsize=1)(self._pages)  # questions about one document follow each other
        for number, (where, row) in enumerate(self._raw()):
            try:
                document = field(row, "doc_id", str)
            except ValueError as error:
                yield broken(where, error)
                continue
            identity = f"{document}-{number}"
            yield Row(where, identity, partial(self._example, row, document, identity, shown), row)

    def _files(self) -> list[Path]:
        names = ("data/samples.json", "samples.json", "data/*.parquet")
        return find(self.path, *names, need="questions of MMLongBench-Doc")

    def _raw(self) -> Iterator[tuple[str, Any]]:
        for file in self._files():
            if file.suffix == ".json":
                for number, row in json_array(file):
                    yield f"{file.name} row {number}", row
                continue
            number = 0
            for batch in parquet_batches(file, COLUMNS + ("answer_format",) * self.answering):
                for row in batch.to_pylist():
                    yield f"{file.name} row {number}", row
                    number += 1

    def _example(self, row: Mapping[str, Any], document: str, identity: str, shown: Any, note: Note) -> Example:
        question, answer = question_of(row, "question"), answer_of(row, "answer")
        if not self.answering:
            wanted = _evidence_pages(row)  # before the pages are decoded
            media = shown(document)
            return Example(identity, media, question, answer, self._evidence(wanted, document, media))
        kind = field(row, "answer_format", str)
        if kind not in ANSWER_FORMATS:
            raise RowError("bad_row", f"'answer_format' is {kind!r}; known are {', '.join(ANSWER_FORMATS)}.")
        media = shown(document)
        evidence: tuple[Evidence, ...] = ()
        try:
            evidence = self._evidence(_evidence_pages(row), document, media)
        except Excluded:
            pass  # it is answered all the same
        except RowError as error:
            if error.reason != "page_outside":
                raise
            note(error.reason, str(error))
        details = {"answer_format": kind, "doc_id": document}
        content = (*range(len(media)), question + INSTRUCTION)
        return Example(identity, media, question, answer, evidence, content, details=details)

    def _evidence(self, wanted: list[int], document: str, media: tuple[np.ndarray, ...]) -> tuple[Evidence, ...]:
        if missing := [page for page in wanted if page > len(media)]:
            count = f"pages {missing} of the evidence are asked of {document}, of which {len(media)} are shown."
            if self.max_pages is not None and len(media) == self.max_pages:
                raise Excluded("evidence_truncated", count)
            raise RowError("page_outside", count)
        return tuple(Evidence(page - 1) for page in wanted)

    def _pages(self, document: str) -> tuple[np.ndarray, ...]:
        if self.pages is None:
            return _rendered(self.path / "documents" / document, self.dpi, self.max_pages)
        folder = Path(self.pages) / document.removesuffix(".pdf")
        found = {int(file.stem): file for file in folder.glob("*") if file.stem.isdecimal()}
        if sorted(found) != list(range(1, len(found) + 1)) or not found:
            raise RowError(
                "missing_media",
                f"{folder} holds pages {sorted(found)}; expected <number>.png from 1 without a gap.",
            )
        return tuple(read_image(found[number]) for number in sorted(found)[: self.max_pages])


def _evidence_pages(row: Mapping[str, Any]) -> list[int]:
    """The pages in the string `evidence_pages`, such as "[5, 6]", counted from 1."""
    text = field(row, "evidence_pages", str)
    try:
        pages = sorted(set(integers(ast.literal_eval(text), "evidence_pages")))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise RowError("bad_row", f"'evidence_pages' is {text!r}; expected a list of page numbers.") from error
    if not pages:
        raise Excluded("no_evidence", "the question has no evidence page.")
    if pages[0] < 1:
        raise RowError("page_outside", f"'evidence_pages' is {text}; pages count from 1.")
    return pages


def _rendered(file: Path, dpi: int, max_pages: int | None) -> tuple[np.ndarray, ...]:
    try:
        import pypdfium2
    except ImportError as error:
        raise ImportError(
            "Rendering PDF pages needs pypdfium2: pip install 'corehead-hf[pdf]'; or give pages=, a folder of pictures."
        ) from error
    if not file.is_file():
        raise RowError("missing_media", f"the document {file} does not exist.")
    try:
        with pypdfium2.PdfDocument(file) as document:
            count = len(document) if max_pages is None else min(max_pages, len(document))
            pictures = (document[i].render(scale=dpi / POINTS_PER_INCH).to_pil() for i in range(count))
            return tuple(np.asarray(picture.convert("RGB")) for picture in pictures)
    except pypdfium2.PdfiumError as error:
        raise RowError("corrupt_media", f"the document {file} cannot be rendered: {error}.") from error
