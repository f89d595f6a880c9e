"""JSON lines that are only ever added, safe against a kill at any moment: a study's journal, an evaluation's answers.

The first line of a file says what it holds and what that depends on. A line is on disk before its writer goes on. A
process killed while it writes leaves a last line without an end, which is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from corehead_hf.measuring.fingerprint import OtherConfiguration, differences


@dataclass(frozen=True)
class KeptLines:
    """One kind of such files.

    Attributes:
        kind: what the first line calls it, e.g. "answers of a corehead_hf evaluation".
        version: of its format.
        holds: what a file holds, in a sentence: "answers".
        elsewhere: where another run can begin: "file" or "folder".
        redo: what happens after a damaged line was taken out: "its pass is made again".
    """

    kind: str
    version: int
    holds: str
    elsewhere: str
    redo: str

    def head(self, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
        """The first line's value."""
        return {"kind": self.kind, "format_version": self.version, "fingerprint": dict(fingerprint)}

    def encode(self, value: Mapping[str, Any]) -> bytes:
        """A value's line."""
        return f"{json.dumps(value, allow_nan=False)}\n".encode()

    def append(self, file: BinaryIO, values: Sequence[Mapping[str, Any]]) -> None:
        """Write a line each; on return they are on disk."""
        file.write(b"".join(map(self.encode, values)))
        file.flush()
        os.fsync(file.fileno())

    def read(self, path: Path, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number from 1, value) of every whole line of a file's bytes.

        Raises:
            ValueError: a line is damaged.
        """
        for number, text in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                value = json.loads(text)
            except ValueError:
                value = None
            if not isinstance(value, dict):
                raise self.damaged(path, number)
            yield number, value

    def fingerprint(self, path: Path, head: Mapping[str, Any]) -> dict[str, Any]:
        """What the lines under this first one depend on.

        Raises:
            ValueError: the file is of another kind or format.
        """
        found, version = head.get("fingerprint"), head.get("format_version")
        if head.get("kind") != self.kind or not isinstance(found, dict):
            raise self.foreign(path)
        if version != self.version:
            raise ValueError(
                f"{path} has format_version {version!r:.40}; this version of corehead_hf writes {self.version}. Begin "
                f"in another {self.elsewhere}."
            )
        return found

    def refuse_other(self, path: Path, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raise OtherConfiguration where a file's fingerprint is not this run's."""
        if differing := differences(dict(kept), json.loads(json.dumps(dict(now)))):
            raise OtherConfiguration(
                f"{path} holds {self.holds} of another configuration: {'; '.join(differing)}. Both would not mix; "
                f"resume with the settings it was begun with, or begin in another {self.elsewhere}."
            )

    def foreign(self, path: Path) -> ValueError:
        """The error of a file that is of another kind."""
        return ValueError(f"{path} holds no {self.kind}; nothing was written to it. Give another {self.elsewhere}.")

    def damaged(self, path: Path, number: int) -> ValueError:
        """The error of a line that was altered after it was written."""
        return ValueError(
            f"line {number} of {path} is damaged: it was altered after it was written. Take the line out, and "
            f"{self.redo}; or begin in another {self.elsewhere}."
        )
