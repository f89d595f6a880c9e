"""Append-only shards: the outcomes of a measuring run on disk, safe against a kill at any moment.

A folder holds fingerprint.json and shard-00000.bin, shard-00001.bin, ...: every process of every run writes a file of
its own and never changes another. A shard is a title, the fingerprint's sha256, and records. A process killed while
writing leaves an incomplete last record: it is ignored, and its example measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from corehead_hf.measuring.fingerprint import OtherConfiguration, differences
from corehead_hf.measuring.outcome import Outcome
from corehead_hf.measuring.records import Place, pack, scan, unpack
from corehead_hf.measuring.slots import Slot, refuse_other_example

logger = logging.getLogger(__name__)

FINGERPRINT_NAME = "fingerprint.json"
_TITLE = b"corehead shard, format 1\n"
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)


class Shards:
    """The outcomes kept in a folder, and room for more.

    Args:
        folder: made if missing.
        fingerprint: of this run; JSON values by name.

    Raises:
        ValueError: the folder was filled by another configuration, a record is damaged, an id stands at two places of
            the data or two ids at one, or one example has two different results.
    """

    def __init__(self, folder: str | Path, fingerprint: dict[str, Any]) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._key = _claim(self._folder, fingerprint)
        self._places = _index(self._folder, self._key)
        headers = [place.header for place in self._places.values()]
        self._seen = {header["index"]: (header["id"], header.get("mark", "")) for header in headers}
        self._file: int | None = None
        if self._places:
            logger.info("%s holds %d examples of this run", self._folder, len(self._seen))

    def get(self, slot: Slot, width: int) -> Outcome | None:
        """The outcome of a slot's example, measured in a batch of this width, or None.

        Raises:
            ValueError: another example was measured at this place, or the data said something else of it.
        """
        refuse_other_example(self._folder, slot, self._seen.get(slot.index))
        place = self._places.get((slot.index, width))
        return None if place is None else unpack(place)

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes; on return they are on disk."""
        if self._file is None:
            self._file = _new_shard(self._folder, self._key)
        _write(self._file, b"".join(pack(outcome) for outcome in outcomes))

    def close(self) -> None:
        """Close this process's shard."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_measured(folder: str | Path) -> Iterator[Outcome]:
    """The outcomes kept in a folder, by place in the data: RAM, rows or the reason of every example of a run.

    A run that was stopped early may hold some beyond its last example.

    Args:
        folder: the `resume_from` of a measuring run.

    Raises:
        FileNotFoundError: no run was kept there.
        ValueError: a record is damaged, or shards of several configurations lie in the folder.
    """
    kept = json.loads((Path(folder) / FINGERPRINT_NAME).read_text(encoding="utf-8"))
    # Data that grew was measured again where its last batch grew; the later result is that of the wider batch.
    widest = {index: place for (index, _), place in sorted(_index(Path(folder), _key_of(kept)).items())}
    for place in widest.values():
        yield unpack(place)


def _claim(folder: Path, fingerprint: dict[str, Any]) -> bytes:
    """The key of the folder's fingerprint, which is this one; written whole or not at all."""
    path = folder / FINGERPRINT_NAME
    if not path.exists():
        if any(folder.glob("shard-*.bin")):
            raise ValueError(f"{folder} has shards but no {FINGERPRINT_NAME}; begin in another folder.")
        name = folder / f".fingerprint-{uuid.uuid4().hex}"
        handle = os.open(name, _NEW, 0o666)
        try:
            _write(handle, json.dumps(fingerprint, indent=1, sort_keys=True).encode())
        finally:
            os.close(handle)
        os.replace(name, path)
        _sync_folder(folder)
    kept = json.loads(path.read_text(encoding="utf-8"))
    if differing := differences(kept, fingerprint):
        raise OtherConfiguration(
            f"{folder} holds a run of another configuration: {'; '.join(differing)}. Results of both would not mix; "
            "resume with the settings it was begun with, or begin in another folder."
        )
    return _key_of(kept)


def _key_of(fingerprint: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).digest()


def _index(folder: Path, key: bytes) -> dict[tuple[int, int], Place]:
    """The sound records of a folder by (index, width)."""
    found: dict[tuple[int, int], Place] = {}
    indices: dict[str | None, int] = {}
    ids: dict[int, str | None] = {}
    for path in sorted(folder.glob("shard-*.bin")):
        with path.open("rb") as file:
            head = file.read(len(_TITLE) + len(key))
        if not (_TITLE + key).startswith(head):  # a shorter one was cut off while it was begun
            raise ValueError(f"{path} is no shard of the run in {FINGERPRINT_NAME}; take it out of the folder.")
        for place in scan(path, len(_TITLE) + len(key)):
            index, identity, width = (place.header[name] for name in ("index", "id", "width"))
            if ids.setdefault(index, identity) != identity:
                raise ValueError(f"{path}: examples {ids[index]!r} and {identity!r} both stand at {index} of the data.")
            if identity is not None and indices.setdefault(identity, index) != index:
                raise ValueError(f"{path}: example {identity!r} stands at {indices[identity]} and at {index}.")
            if found.setdefault((index, width), place).digest != place.digest:
                raise ValueError(
                    f"{path}: example {identity!r} was measured twice with different results; its folder was filled by "
                    "runs that do not repeat bit by bit. Begin in another folder."
                )
    return found


def _new_shard(folder: Path, key: bytes) -> int:
    """An open file of the first free number."""
    number = len(list(folder.glob("shard-*.bin")))
    while True:
        try:
            file = os.open(folder / f"shard-{number:05}.bin", _NEW, 0o666)
        except FileExistsError:
            number += 1
            continue
        _write(file, _TITLE + key)
        _sync_folder(folder)
        return file


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)


def _sync_folder(folder: Path) -> None:
    """A new file's name is on disk only once its folder is."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
