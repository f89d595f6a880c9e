"""Annotation files and folders: local or from the Hub, read a few rows at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BATCH = 16  # rows of a parquet file held at once; rows carry pictures
CHUNK = 1 << 16  # characters of a JSON file read at once


def resolve(path: str | Path, *, revision: str | None = None, patterns: Sequence[str] = ()) -> Path:
    """A local file or folder as it is; a Hub id ("owner/name") as the local snapshot of that data set.

    Args:
        revision: of the Hub id.
        patterns: files of the repository to fetch.

    Raises:
        ValueError: it is neither.
    """
    local = Path(path).expanduser()
    if local.exists():
        return local
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)):
        raise ValueError(f"path {str(path)!r} was given; there is no such file or folder, and it is no Hub id.")
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            str(path), repo_type="dataset", revision=revision, allow_patterns=list(patterns) or None
        )
    except (OSError, ValueError) as error:  # what the client raises for a missing repository, offline mode, no access
        raise ValueError(
            f"path {str(path)!r} was given; there is no such folder, and fetching it from the Hub as a data set "
            f"failed: {error}"
        ) from error
    return Path(found)


def find(folder: Path, *patterns: str, need: str) -> list[Path]:
    """Files below a folder, by the first pattern that matches any, sorted by name.

    Raises:
        ValueError: none does; `need` says what was looked for.
    """
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found
    raise ValueError(f"{folder} holds no {need}; looked for {', '.join(patterns)}.")


def json_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of the lines that are not blank."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:  # parse_object names what is no UTF-8
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """(number from 0, object) of the objects in a JSON list, without holding the file.

    Raises:
        ValueError: the file is not a JSON list, or breaks off; the objects before that have been yielded.
    """
    decoder, number = json.JSONDecoder(), 0
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError(f"{path} begins with {text[:20]!r}; expected a JSON list.")
        place = 1
        while True:
            while place < len(text) and text[place] in " \t\r\n,":
                place += 1
            if text.startswith("]", place):
                if (text[place + 1 :] + file.read(CHUNK)).strip():
                    raise ValueError(f"{path}: more stands behind the end of its list.")
                return
            try:
                value, place = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                more = file.read(CHUNK)
                if not more:
                    raise ValueError(f"{path}: row {number} is not sound JSON: {error.msg}.") from error
                text, place = text[place:] + more, 0
                continue
            yield number, value
            number += 1


def parquet_columns(path: Path) -> list[str]:
    """Names of a parquet file's columns."""
    with _parquet_file(path) as file:
        return file.schema_arrow.names


def parquet_batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """A parquet file as record batches of a few rows.

    Raises:
        ValueError: the file is no parquet file, or lacks one of the columns.
    """
    with _parquet_file(path) as file:
        if missing := [name for name in columns if name not in file.schema_arrow.names]:
            raise ValueError(
                f"{path} has no column {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}. "
                "Is it a file of this data set?"
            )
        try:
            yield from file.iter_batches(BATCH, columns=list(columns), use_threads=False)
        except (ValueError, OSError) as error:  # pyarrow's own errors are one or the other
            raise ValueError(f"{path} is broken: {error}") from error


class RowCursor:
    """Rows of a parquet file by number; rows asked in rising order are read in one pass."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._start = 0  # row number of the first row of the batch
        self._rewind()

    def take(self, first: int, last: int) -> list[dict[str, Any]]:
        """Rows first..last, both included."""
        if first < self._start:
            self._rewind()
        rows: list[dict[str, Any]] = []
        while len(rows) < last - first + 1:
            while self._batch is None or self._start + self._batch.num_rows <= first + len(rows):
                self._start += 0 if self._batch is None else self._batch.num_rows
                self._batch = next(self._batches, None)
                if self._batch is None:
                    raise ValueError(f"rows {first}..{last} were asked of {self.path}, which has {self._start} rows.")
            begin = first + len(rows) - self._start
            rows += self._batch.slice(begin, last - first + 1 - len(rows)).to_pylist()
        return rows

    def _rewind(self) -> None:
        self._batches, self._batch, self._start = parquet_batches(self.path, self.columns), None, 0


def _parquet_file(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ImportError("Reading parquet files needs pyarrow: pip install 'corehead-hf[data]'.") from error
    try:
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a parquet file: {error}") from error
