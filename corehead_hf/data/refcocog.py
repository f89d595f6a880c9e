"""RefCOCOg: the region of a photograph that an expression refers to; evidence is its box.

Two layouts of it are on the Hub, told apart by their columns. With pixels (lmms-lab): `bbox` is [x, y, width, height],
`answer` the list of expressions, `question` a constant instruction that is not the query. Annotations only (jxu124):
`bbox` is [left, top, right, bottom], and the COCO train2014 pictures lie in a folder of their own. Every expression is
one example, its own question; there is no answer text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from corehead_hf.data.example import Box, Evidence, Example
from corehead_hf.data.example_set import Note, Row, RowError, broken
from corehead_hf.data.fields import clip_box, field, numbers, shown
from corehead_hf.data.files import find, parquet_batches, parquet_columns
from corehead_hf.data.image_file import read_image

PIXELS = ("question_id", "image", "answer", "bbox", "file_name")
ANNOTATIONS = ("ref_id", "sentences", "bbox", "raw_anns", "raw_image_info", "file_name")
BOX_TOLERANCE = 0.01  # pixels; float32 loses less, a box read in the wrong order is off by more


@dataclass(frozen=True)
class RefCOCOg:
    """RefCOCOg in either layout.

    Args:
        path: folder with `<split>-*.parquet`, or with `data/` that holds them.
        split: "test" (the umd test set in both layouts); "train" and "validation" with annotations only.
        images: folder with COCO_train2014_*.jpg, for the layout without pixels.
        mixed_val: take split "val" of the layout with pixels although its size (7573 = 2573 + 5000) shows it to be the
            umd and the google validation set in one, and the latter shares pictures with umd train and test.
    """

    name: ClassVar[str] = "refcocog"
    hub_files: ClassVar[tuple[str, ...]] = ("*{split}-*.parquet",)
    path: Path
    split: str = "test"
    images: str | Path | None = None
    mixed_val: bool = False

    def __post_init__(self) -> None:
        pixels = "image" in parquet_columns(self._files()[0])
        if pixels and self.split == "val" and not self.mixed_val:
            raise ValueError(
                "split 'val' of this layout is the umd and the google validation set in one (7573 = 2573 + 5000 rows); "
                "the google part shares pictures with umd train and test. Take split='test', or mixed_val=True."
            )
        if not pixels and (self.images is None or not Path(self.images).is_dir()):
            raise ValueError(
                f"{self.path} holds annotations without pictures, and images={str(self.images)!r} is no folder; give "
                "the folder with COCO_train2014_*.jpg."
            )

    def iter_rows(self) -> Iterator[Row]:
        """One row per expression."""
        number = 0
        for file in self._files():
            pixels = "image" in parquet_columns(file)
            for batch in parquet_batches(file, PIXELS if pixels else ANNOTATIONS):
                for row in batch.to_pylist():
                    yield from self._expressions(row, number, f"{file.name} row {number}", pixels)
                    number += 1

    def _files(self) -> list[Path]:
        names = (f"{self.split}-*.parquet", f"data/{self.split}-*.parquet", f"{self.split}.parquet")
        return find(self.path, *names, need=f"parquet file of split {self.split!r}")

    def _expressions(self, row: Mapping[str, Any], number: int, where: str, pixels: bool) -> Iterator[Row]:
        try:
            if pixels:
                expressions = field(row, "answer", list)
                identity = f"{self.split}-{number}-{field(row, 'question_id', str, int)}"
            else:
                expressions = [field(sentence, "raw", str) for sentence in field(row, "sentences", list)]
                identity = f"{self.split}-{number}-{field(row, 'ref_id', str, int)}"
            if not expressions:
                raise RowError("empty_question", "the row has no referring expression.")
        except ValueError as error:
            yield broken(where, error)
            return
        build = self._with_pixels if pixels else self._from_folder
        for k, text in enumerate(expressions):
            example = partial(build, row, f"{identity}-{k}", text)
            yield Row(f"{where} expression {k}", f"{identity}-{k}", example, (row, text))

    def _with_pixels(self, row: Mapping[str, Any], identity: str, text: Any, note: Note) -> Example:
        x, y, width, height = numbers(field(row, "bbox", list), "bbox", 4)
        encoded = field(field(row, "image", dict), "bytes", bytes)
        image = read_image(encoded, name=field(row, "file_name", str))
        return _example(identity, image, text, (x, y, x + width, y + height), note)

    def _from_folder(self, row: Mapping[str, Any], identity: str, text: Any, note: Note) -> Example:
        box = numbers(field(row, "bbox", list), "bbox", 4)
        x, y, width, height = numbers(_json(row, "raw_anns").get("bbox"), "raw_anns.bbox", 4)
        raw = (x, y, x + width, y + height)
        if max(abs(a - b) for a, b in zip(box, raw, strict=True)) > BOX_TOLERANCE:
            raise RowError(
                "box_mismatch",
                f"'bbox' is {list(box)}, but 'raw_anns' holds x, y, width, height {[x, y, width, height]}, which is "
                f"{list(raw)}.",
            )
        image = read_image(Path(self.images or "") / field(row, "file_name", str))
        info = _json(row, "raw_image_info")
        if (info.get("width"), info.get("height")) != (image.shape[1], image.shape[0]):
            raise RowError(
                "image_size",
                f"{row['file_name']} has {image.shape[1]} x {image.shape[0]} pixels, 'raw_image_info' says "
                f"{info.get('width')} x {info.get('height')}.",
            )
        return _example(identity, image, text, raw, note)


def _json(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = json.loads(field(row, key, str))
    if not isinstance(value, dict):
        raise RowError("bad_row", f"{key!r} holds {shown(value)}; expected a JSON object.")
    return value


def _example(identity: str, image: np.ndarray, text: Any, box: Box, note: Note) -> Example:
    if not isinstance(text, str) or not text.strip():
        raise RowError("empty_question", f"the referring expression is {text!r}.")
    cut = clip_box(box, image.shape[1], image.shape[0], note)
    return Example(identity, (image,), text.strip(), "", (Evidence(0, cut),))
