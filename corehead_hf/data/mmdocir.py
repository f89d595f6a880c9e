"""MMDocIR: questions about long documents; evidence is layouts (figures, tables) or boxes on pages.

Read from its three files as they are published: annotations (a JSON line per document), pages and layouts (parquet,
rows of all documents in one table). Row ranges include both ends, pages count from 0, boxes are (left, top, right,
bottom) in PDF points. Documents come in the order of the tables, so that each table is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from corehead_hf.data.example import Evidence, Example
from corehead_hf.data.example_set import Excluded, Note, Row, RowError, broken
from corehead_hf.data.fields import answer_of, clip_box, field, integers, interleave, numbers, parse_object, question_of
from corehead_hf.data.files import RowCursor, find, json_lines
from corehead_hf.data.image_file import read_image

PICTURES = ("image", "figure", "table")  # layout types shown as their crops; all others are shown as text
LAYOUTS = ("doc_name", "type", "page_id", "image_path", "image_binary", "text", "bbox", "page_size")
PAGES = ("doc_name", "image_path", "image_binary")
MIN_IOU = 0.5  # an annotated box and its layout are the same box up to rounding
MAX_ASPECT_ERROR = 0.01


@dataclass(frozen=True)
class MMDocIR:
    """MMDocIR in one of two forms of input.

    Args:
        path: folder with MMDocIR_annotations.jsonl, MMDocIR_layouts.parquet and, for pages, MMDocIR_pages.parquet.
        mode: "interleaved": a document's text layouts as text and its figures and tables as pictures, in reading order;
            evidence is the pictures. "pages": its page pictures; evidence is the boxes on them.
        margin: show only pages at most so far from an evidence page; None shows the whole document.
    """

    name: ClassVar[str] = "mmdocir"
    hub_files: ClassVar[tuple[str, ...]] = ("MMDocIR_annotations.jsonl", "MMDocIR_*.parquet")
    path: Path
    mode: str = "interleaved"
    margin: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("interleaved", "pages") or (self.margin is not None and self.margin < 0):
            raise ValueError(
                f"mode={self.mode!r}, margin={self.margin} were given; mode is 'interleaved' or 'pages', margin at "
                "least 0 or None."
            )
        self._file("annotations.jsonl"), self._table()

    def iter_rows(self) -> Iterator[Row]:
        """One row per question. The annotations (under 1 MB) are read first, the tables one document at a time."""
        key = "layout_indices" if self.mode == "interleaved" else "page_indices"
        file, documents = self._file("annotations.jsonl"), []
        for number, text in json_lines(file):
            where = f"{file.name}:{number}"
            try:
                document = parse_object(text)
                first, last = numbers(field(document, key, list), key, 2)
                field(document, "doc_name", str), field(document, "questions", list)
                if not 0 <= first <= last:
                    raise RowError("bad_row", f"{key!r} is {document[key]}; expected first <= last row.")
            except ValueError as error:
                yield broken(where, error)
                continue
            documents.append((int(first), int(last), where, document))
        cursor = RowCursor(self._table(), LAYOUTS if self.mode == "interleaved" else PAGES)
        for first, last, where, document in sorted(documents, key=lambda entry: entry[0]):
            failure: ValueError | None = None
            try:
                parts = cursor.take(first, last)
                _check_document(parts, document["doc_name"])
            except ValueError as error:
                failure = error
            for k, qa in enumerate(document["questions"]):
                identity, asked = f"{document['doc_name']}-{k}", f"{where} question {k}"
                if failure is not None:
                    yield broken(asked, failure)
                else:
                    yield Row(asked, identity, partial(self._example, qa, identity, parts), qa)

    def _table(self) -> Path:
        return self._file("layouts.parquet" if self.mode == "interleaved" else "pages.parquet")

    def _file(self, name: str) -> Path:
        return find(self.path, f"MMDocIR_{name}", f"dataset/MMDocIR_{name}", need=f"MMDocIR_{name}")[0]

    def _example(self, qa: Any, identity: str, parts: Sequence[Mapping[str, Any]], note: Note) -> Example:
        question, answer = question_of(qa, "Q"), answer_of(qa, "A")
        targets = _targets(qa, note)
        shown = {page for page, _, _ in targets}
        if self.margin is not None:
            reach = range(-self.margin, self.margin + 1)
            shown = {page + step for page in shown for step in reach}
        build = self._interleaved if self.mode == "interleaved" else self._pages
        media, evidence, content = build(qa, targets, parts, None if self.margin is None else shown, note)
        texts = interleave((*content, f"\n\n{question}"))
        return Example(identity, tuple(media), question, answer, tuple(evidence), texts)

    def _interleaved(self, qa: Any, targets: Any, parts: Any, shown: set[int] | None, note: Note) -> tuple[Any, ...]:
        chosen = _layouts_of(qa, targets, parts, note)
        pictures = [row for row in chosen if parts[row]["type"] in PICTURES]
        if not pictures:
            raise Excluded("text_evidence", "the evidence is text, which has no picture in interleaved mode.")
        if len(pictures) < len(chosen):
            note("text_evidence_left_out", f"{len(chosen) - len(pictures)} of {len(chosen)} evidence layouts are text")
        media: list[Any] = []
        content: list[str | int] = []
        numbers_of: dict[int, int] = {}
        for row, part in enumerate(parts):
            if shown is not None and field(part, "page_id", int) not in shown:
                continue
            piece: str | int = (part["text"] or "").strip()
            if part["type"] in PICTURES:
                piece = numbers_of[row] = len(media)
                media.append(read_image(field(part, "image_binary", bytes), name=part["image_path"]))
            if piece != "":
                content += ["\n\n", piece] if content else [piece]
        return media, [Evidence(numbers_of[row]) for row in pictures], content

    def _pages(self, qa: Any, targets: Any, parts: Any, shown: set[int] | None, note: Note) -> tuple[Any, ...]:
        if off := sorted({page for page, _, _ in targets if not 0 <= page < len(parts)}):
            raise RowError("page_outside", f"'layout_mapping' names pages {off} of {len(parts)}, counted from 0.")
        kept = [page for page in range(len(parts)) if shown is None or page in shown]
        media = [read_image(field(parts[page], "image_binary", bytes), name=parts[page]["image_path"]) for page in kept]
        evidence = []
        for page, box, (width, height) in targets:
            number = kept.index(page)
            pixel_height, pixel_width = media[number].shape[:2]
            if abs(pixel_width / pixel_height * height / width - 1) > MAX_ASPECT_ERROR:
                raise RowError(
                    "aspect",
                    f"page {page} has {pixel_width} x {pixel_height} pixels, its annotation {width} x {height} points: "
                    "not the same shape.",
                )
            scale = (pixel_width / width, pixel_height / height) * 2
            pixels = [side * factor for side, factor in zip(box, scale, strict=True)]
            evidence.append(Evidence(number, clip_box(pixels, pixel_width, pixel_height, lambda *_: None)))
        return media, evidence, list(range(len(media)))


def _targets(qa: Any, note: Note) -> list[tuple[int, Any, tuple[float, ...]]]:
    """(page, box, page size) of the evidence in points, boxes clipped to the page."""
    entries, pages = field(qa, "layout_mapping", list), integers(field(qa, "page_id", list), "page_id")
    if not entries:
        raise Excluded("no_evidence", "the question has no evidence layout.")
    targets = []
    for entry in entries:
        size = numbers(field(entry, "page_size", list), "page_size", 2)
        if min(size) <= 0:
            raise RowError("bad_row", f"'page_size' is {list(size)}; expected width and height in points.")
        box = clip_box(numbers(field(entry, "bbox", list), "bbox", 4), size[0], size[1], note)
        targets.append((field(entry, "page", int), box, size))
    found = {page for page, _, _ in targets}
    if found != set(pages):
        raise RowError("page_mismatch", f"'page_id' is {sorted(pages)}, but its layouts lie on pages {sorted(found)}.")
    return targets


def _layouts_of(qa: Any, targets: Any, parts: Sequence[Mapping[str, Any]], note: Note) -> list[int]:
    """Rows of the evidence layouts in a document: by `layoutindex` where it fits, else by the best overlap."""
    given = integers(qa["layoutindex"], "layoutindex") if qa.get("layoutindex") is not None else ()
    chosen: list[int] = []
    for k, (page, box, size) in enumerate(targets):
        overlap = {row: _iou(part, page, box, size) for row, part in enumerate(parts)}
        row = given[k] if len(given) == len(targets) else -1
        if given and overlap.get(row, 0) < MIN_IOU:
            note("layoutindex_mismatch", f"'layoutindex' {list(given)} misses evidence {k}; matched by box")
        if overlap.get(row, 0) < MIN_IOU:
            row = max(overlap, key=lambda candidate: overlap[candidate])
        if overlap[row] < MIN_IOU:
            raise RowError(
                "no_matching_layout",
                f"no layout on page {page} matches the evidence box {list(box)}; the best overlap (IoU) is "
                f"{overlap[row]:.2f}.",
            )
        if row not in chosen:
            chosen.append(row)
    return chosen


def _iou(part: Mapping[str, Any], page: int, box: Sequence[float], size: Sequence[float]) -> float:
    """Overlap over union of a layout with a box on a page, both as shares of their page; 0 on another page."""
    if part["page_id"] != page:
        return 0.0
    own, own_size = numbers(part["bbox"], "bbox", 4), numbers(part["page_size"], "page_size", 2)
    a = [side / own_size[i % 2] for i, side in enumerate(own)]
    b = [side / size[i % 2] for i, side in enumerate(box)]
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def _check_document(parts: Sequence[Mapping[str, Any]], name: str) -> None:
    found = {str(part["doc_name"]).removesuffix(".pdf") for part in parts}
    if found != {name.removesuffix(".pdf")}:
        raise RowError("wrong_document", f"its rows of the table belong to {', '.join(sorted(found))}, not to {name}.")
