"""Answers on disk: JSON lines, only ever added, safe against a kill at any moment.

A folder holds answers-00000.jsonl, answers-00001.jsonl, ...: every process of every run writes a file of its own and
never changes another. Every line but the first is an Answer. What a killed process left unfinished is answered again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from corehead_hf.measuring.kept_lines import KeptLines
from corehead_hf.measuring.slots import Slot, refuse_other_example

_LINES = KeptLines("answers of a corehead_hf evaluation", 2, "answers", "folder", "its example is answered again")
_NAMES = "answers-*.jsonl"


@dataclass(frozen=True)
class Answer:
    """What became of one example of an evaluation, or of one row of a data set that gave none.

    Attributes:
        index: its place in the data, from 0.
        id: of the example; None for a row too broken to have one.
        width: how many stood in its batch. Bits depend on what shares a batch, and index and width tell that.
        text: what the model generated; None where it was not asked, or gave nothing.
        parsed: what the scorer read as the answer; None where it could read none.
        score: in [0, 1]; None where the example was skipped.
        expected: Example.answer.
        details: Example.details.
        prompt_tokens: of the example, without padding.
        seconds: of encoding and generating, its share of the batch's.
        row_error: of a row that gave no example, its kind in the data set's report.
        failure: of an example that was skipped: "no_answer", "refused", "out_of_memory" or "not_scored".
        reason: what went wrong, in words.
        changes: (kind, what) of a row that gave an example after a change, for that report.
        mark: Slot.mark; "" where nothing is kept.
    """

    index: int
    id: str | None
    width: int
    text: str | None = None
    parsed: str | None = None
    score: float | None = None
    expected: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    seconds: float = 0.0
    row_error: str | None = None
    failure: str | None = None
    reason: str | None = None
    changes: tuple[tuple[str, str], ...] = ()
    mark: str = ""

    @property
    def skipped(self) -> str | None:
        """Why there is no score, as a kind that is counted; None where there is one."""
        return self.row_error or self.failure


class Answers:
    """The answers kept in a folder, and room for more.

    Args:
        folder: made if missing.
        fingerprint: what this run's answers depend on; JSON values by name.

    Raises:
        ValueError: the folder was filled by another configuration, a line is damaged, an id stands at two places of the
            data or two ids at one, or one example has two different answers.
    """

    def __init__(self, folder: str | Path, fingerprint: Mapping[str, Any]) -> None:
        self._folder = Path(folder)
        if self._folder.is_file():
            raise ValueError(f"{folder} was given; it is a file, and answers are kept in a folder. Give a folder.")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._fingerprint = dict(fingerprint)
        self._known = _known(self._folder, self._fingerprint)
        self._seen = {answer.index: (answer.id, answer.mark) for answer in self._known.values()}
        self._file: BinaryIO | None = None

    @property
    def skipped(self) -> Counter[str]:
        """Of the examples that have no score here, how many for which reason."""
        return Counter(answer.skipped for answer in self._known.values() if answer.skipped)

    def get(self, slot: Slot, width: int) -> Answer | None:
        """The answer to a slot's example, given in a batch of this width, or None.

        Raises:
            ValueError: another example was answered at this place, or the data said something else of it.
        """
        refuse_other_example(self._folder, slot, self._seen.get(slot.index))
        return self._known.get((slot.index, width))

    def append(self, answers: Sequence[Answer]) -> None:
        """Write answers; on return they are on disk."""
        if self._file is None:
            self._file = _new_file(self._folder)
            _LINES.append(self._file, [_LINES.head(self._fingerprint)])
        _LINES.append(self._file, [asdict(answer) for answer in answers])

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_answers(folder: str | Path) -> Iterator[Answer]:
    """The answers kept in a folder, by place in the data; a run that has a limit may hold some beyond its last example.

    Args:
        folder: the `resume_from` of an evaluation.

    Raises:
        FileNotFoundError: no evaluation was kept there.
        ValueError: a line is damaged, or files of several configurations lie in the folder.
    """
    if not any(Path(folder).glob(_NAMES)):
        raise FileNotFoundError(f"{folder} was asked for its answers; no evaluation was kept there.")
    # Data that grew was answered again where its last batch grew; the later answer is that of the wider batch.
    widest = {index: answer for (index, _), answer in sorted(_known(Path(folder), None).items())}
    yield from widest.values()


def _known(folder: Path, fingerprint: Mapping[str, Any] | None) -> dict[tuple[int, int], Answer]:
    """The whole answers of a folder by (index, width); without a fingerprint that of its first file is taken."""
    found: dict[tuple[int, int], Answer] = {}
    indices: dict[str | None, int] = {}
    ids: dict[int, str | None] = {}
    for path in sorted(folder.glob(_NAMES)):
        for number, value in _LINES.read(path, path.read_bytes()):
            if number == 1:
                kept = _LINES.fingerprint(path, value)
                fingerprint = kept if fingerprint is None else fingerprint
                _LINES.refuse_other(path, kept, fingerprint)
                continue
            answer = _answer(path, number, value)
            if ids.setdefault(answer.index, answer.id) != answer.id:
                raise ValueError(
                    f"{path}: examples {ids[answer.index]!r} and {answer.id!r} both stand at {answer.index} of the "
                    "data. Begin in another folder."
                )
            if answer.id is not None and indices.setdefault(answer.id, answer.index) != answer.index:
                raise ValueError(
                    f"{path}: example {answer.id!r} stands at {indices[answer.id]} and at {answer.index}. Begin in "
                    "another folder."
                )
            first = found.setdefault((answer.index, answer.width), answer)
            if replace(first, seconds=answer.seconds) != answer:
                raise ValueError(
                    f"{path}: example {answer.id!r} was answered twice and differently; its folder was filled by runs "
                    "that do not repeat bit by bit. Begin in another folder."
                )
    return found


def _answer(path: Path, number: int, value: dict[str, Any]) -> Answer:
    try:
        changes = tuple((str(kind), str(what)) for kind, what in value.pop("changes"))
        answer = Answer(**value, changes=changes)
        sound = type(answer.index) is int and type(answer.width) is int and isinstance(answer.details, dict)
        sound &= answer.score is None if answer.skipped else 0 <= float(answer.score) <= 1  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound or len(value) != len(fields(Answer)) - 1:
        raise _LINES.damaged(path, number)
    return answer


def _new_file(folder: Path) -> BinaryIO:
    """An open file of the first free number."""
    number = len(list(folder.glob(_NAMES)))
    while True:
        try:
            return (folder / f"answers-{number:05}.jsonl").open("xb")
        except FileExistsError:
            number += 1
