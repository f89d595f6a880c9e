"""Journal: the numbers of a study's passes on disk, a line each, safe against a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from corehead_hf.measuring.fingerprint import differences

_KIND, _FORMAT_VERSION = "journal of a corehead_hf study", 1


class Journal:
    """Numbers by key, kept in memory and, where there is a path, in a file of JSON lines.

    The file's first line names what the numbers depend on; every further one is {"key": ..., "values": ...}. Lines are
    only ever added, and each is on disk before append returns. A process killed while it writes leaves a last line
    without an end: it is cut off when the file is opened again.

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
            _append(self._file, {"key": dict(key), "values": values.tolist()})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, path: Path, file: BinaryIO, fingerprint: Mapping[str, Any]) -> None:
        head = {"kind": _KIND, "format_version": _FORMAT_VERSION, "fingerprint": dict(fingerprint)}
        file.seek(0)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole == 0:
            if not _line(head).encode().startswith(data):  # else it is empty, or was cut short while it was begun
                raise _no_journal(path)
            file.truncate(0)
            _append(file, head)
            return
        first, *rest = data[:whole].splitlines()
        _refuse_other(path, _parsed(path, 1, first), json.loads(_line(head)))
        for number, text in enumerate(rest, start=2):
            found = _parsed(path, number, text)
            try:
                self._known[_line(found["key"])] = np.array(found["values"], dtype=np.float64)
            except (KeyError, TypeError, ValueError):
                raise _damaged(path, number) from None
        file.truncate(whole)


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _append(file: BinaryIO, value: Any) -> None:
    file.write(f"{_line(value)}\n".encode())
    file.flush()
    os.fsync(file.fileno())


def _parsed(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise _damaged(path, number) from None
    if not isinstance(found, dict):
        raise _damaged(path, number)
    return found


def _damaged(path: Path, number: int) -> ValueError:
    return ValueError(
        f"line {number} of {path} is damaged: it was altered after it was written. Take the line out, and its pass is "
        "made again; or begin in another file."
    )


def _no_journal(path: Path) -> ValueError:
    return ValueError(f"{path} is no journal of a study - nothing was written to it - give another file.")


def _refuse_other(path: Path, kept: dict[str, Any], now: dict[str, Any]) -> None:
    if kept.get("kind") != _KIND or not isinstance(kept.get("fingerprint"), dict):
        raise _no_journal(path)
    if kept.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{path} is a journal of format_version {kept.get('format_version')!r:.40} - this version of corehead_hf "
            f"writes {_FORMAT_VERSION} - begin in another file."
        )
    if differing := differences(kept["fingerprint"], now["fingerprint"]):
        raise ValueError(
            f"{path} holds a study of another configuration: {'; '.join(differing)}. Numbers of both would not mix; "
            "resume with the settings it was begun with, or begin in another file."
        )


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
