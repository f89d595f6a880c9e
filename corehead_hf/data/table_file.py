"""Rows of annotation files that come as JSON, JSON lines or parquet alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corehead_hf.data.example_set import RowError
from corehead_hf.data.fields import parse_object
from corehead_hf.data.files import json_array, json_lines, parquet_batches, parquet_columns


def table_rows(file: Path) -> Iterator[tuple[str, int, Any]]:
    """(where a row stands, for messages; its number from 0; the row) of every row, in order.

    A line of JSON lines that is broken is yielded as the RowError that says so.

    Args:
        file: .json holding one list, .jsonl, or .parquet, of which all columns are read.

    Raises:
        ValueError: the file is broken as a whole.
    """
    if file.suffix == ".json":
        for number, row in json_array(file):
            yield f"{file.name} row {number}", number, row
    elif file.suffix == ".jsonl":
        for number, (line, text) in enumerate(json_lines(file)):
            yield f"{file.name}:{line}", number, _parsed(text)
    else:
        number = 0
        for batch in parquet_batches(file, parquet_columns(file)):
            for row in batch.to_pylist():
                yield f"{file.name} row {number}", number, row
                number += 1


def _parsed(text: str) -> Any:
    try:
        return parse_object(text)
    except RowError as error:
        return error
