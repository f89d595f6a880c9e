"""Records: outcomes as bytes, and finding the sound ones in a file that may end in the middle of one.

    b"CORE" | header bytes u32 | body bytes u64 | blake2b-128 of lengths, header and body | header, JSON | body, float32

all little-endian. The body holds the chance level, RAM [L, Hq], and the attention rows [L, Hq, S] if they are kept.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corehead_hf.measuring.outcome import Outcome

_MARK = b"CORE"
_LENGTHS = struct.Struct("<IQ")
_DIGEST_BYTES = 16
_FIXED_BYTES = len(_MARK) + _LENGTHS.size + _DIGEST_BYTES


@dataclass(frozen=True)
class Place:
    """Where a sound record stands in a file.

    Attributes:
        path: of the file.
        body: the body's first byte.
        size: of the body.
        header: the record's fields that are not tensors.
        digest: of the whole record; the same for the same outcome.
    """

    path: Path
    body: int
    size: int
    header: dict[str, Any]
    digest: bytes


def pack(outcome: Outcome) -> bytes:
    """An outcome as a record."""
    header = {
        name: getattr(outcome, name) for name in ("index", "id", "width", "reason", "row_error", "changes", "mark")
    }
    parts = []
    if outcome.ram is not None:
        header["heads"] = list(outcome.ram.shape)
        parts = [torch.tensor([outcome.chance]), outcome.ram.flatten()]
        if outcome.rows is not None:
            header["columns"] = outcome.rows.shape[-1]
            parts.append(outcome.rows.flatten())
    text = json.dumps(header).encode()
    body = torch.cat(parts).numpy().astype("<f4").tobytes() if parts else b""
    lengths = _LENGTHS.pack(len(text), len(body))
    return b"".join((_MARK, lengths, _digest(lengths, text, body), text, body))


def unpack(place: Place) -> Outcome:
    """The outcome of a record."""
    header = dict(place.header)
    heads, columns = header.pop("heads", None), header.pop("columns", None)
    header["changes"] = tuple(tuple(change) for change in header["changes"])
    if heads is None:
        return Outcome(**header)
    with place.path.open("rb") as file:
        file.seek(place.body)
        values = torch.from_numpy(np.frombuffer(file.read(place.size), "<f4").astype(np.float32))
    count = heads[0] * heads[1]
    rows = None if columns is None else values[1 + count :].view(*heads, columns)
    return Outcome(ram=values[1 : 1 + count].view(*heads), chance=float(values[0]), rows=rows, **header)


def scan(path: Path, start: int) -> Iterator[Place]:
    """The sound records of a file from byte `start` on.

    Raises:
        ValueError: a damaged record stands before a sound one, so it is no write that was cut short.
    """
    if path.stat().st_size <= start:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = start
        while position < len(data):
            place = _at(path, data, position)
            if place is None:
                _refuse_damage(path, data, position)
                return
            yield place
            position = place.body + place.size


def _at(path: Path, data: mmap.mmap, position: int) -> Place | None:
    """The record at a position, if there is a sound and complete one."""
    if data[position : position + len(_MARK)] != _MARK or position + _FIXED_BYTES > len(data):
        return None
    first = position + len(_MARK)
    lengths = data[first : first + _LENGTHS.size]
    text_bytes, body_bytes = _LENGTHS.unpack(lengths)
    text_start = position + _FIXED_BYTES
    body_start = text_start + text_bytes
    if body_start + body_bytes > len(data):
        return None
    text, body = data[text_start:body_start], data[body_start : body_start + body_bytes]
    digest = data[text_start - _DIGEST_BYTES : text_start]
    if digest != _digest(lengths, text, body):
        return None
    return Place(path, body_start, body_bytes, json.loads(text), digest)


def _refuse_damage(path: Path, data: mmap.mmap, position: int) -> None:
    later = data.find(_MARK, position + 1)
    while later >= 0:
        if _at(path, data, later) is not None:
            raise ValueError(
                f"{path}: the record at byte {position} is damaged and a sound one follows at {later}: the file was "
                "altered after it was written. Delete the file; its examples are then measured again."
            )
        later = data.find(_MARK, later + 1)


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=_DIGEST_BYTES).digest()
