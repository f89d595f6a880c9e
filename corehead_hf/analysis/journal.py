"""Journal: the numbers of a study's passes on disk, a line each, safe against a kill at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from corehead_hf.measuring.kept_lines import KeptLines

_LINES = KeptLines("journal of a corehead_hf study", 1, "a study", "file", "its pass is made again")


class Journal:
    """Numbers by key, kept in memory and, where there is a path, in a file of JSON lines.

    Every line of the file but the first is {"key": ..., "values": ...}. What a killed process left unfinished is cut
    off when the file is opened again.

    Args:
        path: of the file, made if missing; None keeps nothing on disk.
        fingerprint: what the numbers depend on, JSON values by name.

    Raises:
        ValueError: the path is a folder or no journal, it is in use, a line is damaged, or its numbers depend on
            something else.
    """

    def __init__(self, path: str | Path | None, fingerprint: Mapping[str, Any]) -> None:
        self._known: dict[str, np.ndarray] = {}
        self._file: BinaryIO | None = None
        if path is None:
            return
        path = Path(path)
        if path.is_dir():
            raise ValueError(
                f"resume_from={str(path)!r} was given - it is a folder, and a study keeps its numbers in one file - "
                f"give {str(path / 'study.jsonl')!r}, say."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            _lock(self._file, path)
            self._read(path, self._file, fingerprint)
        except BaseException:
            self.close()
            raise

    def get(self, key: Mapping[str, Any]) -> np.ndarray | None:
        """The numbers under a key, float64, or None."""
        return self._known.get(_line(key))

    def append(self, key: Mapping[str, Any], values: np.ndarray) -> None:
        """Keep finite numbers under a key; on return they are on disk."""
        self._known[_line(key)] = values
        if self._file is not None:
            _LINES.append(self._file, [{"key": dict(key), "values": values.tolist()}])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, path: Path, file: BinaryIO, fingerprint: Mapping[str, Any]) -> None:
        head = _LINES.head(fingerprint)
        file.seek(0)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole == 0:
            if not _LINES.encode(head).startswith(data):  # else it is empty, or was cut short while it was begun
                raise _LINES.foreign(path)
            file.truncate(0)
            _LINES.append(file, [head])
            return
        for number, found in _LINES.read(path, data):
            if number == 1:
                _LINES.refuse_other(path, _LINES.fingerprint(path, found), fingerprint)
                continue
            try:
                self._known[_line(found["key"])] = np.array(found["values"], dtype=np.float64)
            except (KeyError, TypeError, ValueError):
                raise _LINES.damaged(path, number) from None
        file.truncate(whole)


def _line(key: Any) -> str:
    return json.dumps(key, sort_keys=True, allow_nan=False)


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other processes out for as long as the file is open; where the system cannot, nothing is done."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ValueError(f"{path} is in use by another process - wait for it, or begin in another file.") from None
