"""Glyphs as a data set that can be loaded by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar

from corehead_hf.data.example import Example
from corehead_hf.data.example_set import Note, Row
from corehead_hf.data.glyphs import generate


@dataclass(frozen=True)
class Glyphs:
    """Generated examples; the options are those of `corehead_hf.data.glyphs.generate`."""

    name: ClassVar[str] = "glyphs"
    num_examples: int
    seed: int
    pages: int = 6
    rows: int = 4
    columns: int = 4
    num_letters: int = 24
    margin: int = 24

    def iter_rows(self) -> Iterator[Row]:
        """One row per example."""
        for number, example in enumerate(generate(**asdict(self))):
            yield Row(f"glyphs row {number}", example.id, partial(_given, example))


def _given(example: Example, note: Note) -> Example:
    return example
