"""ExampleSet: the rows of an annotated data set as Examples, made one at a time, with every row accounted for.

A data set's own file yields Rows, which are cheap; only Row.build decodes media. So a broken row hurts no other, and
an example that is not wanted costs no decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

from corehead_hf.data.example import Example
from corehead_hf.data.report import Report

Note: TypeAlias = Callable[[str, str], None]  # (reason, what happened): the example stays, but was changed
Changes: TypeAlias = tuple[tuple[str, str], ...]  # every note of one example, with its row


class RowError(ValueError):
    """A row that is wrong: raised, or counted under `reason` where on_error="skip"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Excluded(Exception):
    """A sound row without visual evidence that can be measured: counted under `reason`, never raised to the user."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NoExample(Exception):
    """A row that gives no example and is left out; `kind` counts it in the report."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Row:
    """One question of a data set before its media are decoded.

    Args:
        where: file and row, for messages.
        id: of its example, unique in the data set; None where the row is too broken to have one.
        build: makes the example; raises ValueError or Excluded.
        content: what the data set's own file says of it, by which a resumed run sees that it was changed since.
    """

    where: str
    id: str | None
    build: Callable[[Note], Example]
    content: Any = None


def broken(where: str, error: ValueError) -> Row:
    """A row that was found to be wrong before it could be built."""

    def build(note: Note) -> Example:
        raise error

    return Row(where, None, build)


def build_example(row: Row, repeated: bool, on_error: str) -> tuple[Example, Changes]:
    """A row's example, and what was changed in it: (reason, row and what happened).

    Args:
        row: of a data set.
        repeated: whether its id stands in an earlier row.
        on_error: "raise" or "skip", see ExampleSet.

    Raises:
        NoExample: the row gives none and is left out.
        ValueError: the row is wrong and on_error is "raise".
    """
    changes: list[tuple[str, str]] = []
    try:
        if repeated:
            raise RowError("duplicate_id", f"the id {row.id!r} stands in an earlier row too")
        example = row.build(lambda reason, what: changes.append((reason, f"{row.where}: {what}")))
    except Excluded as why:
        raise NoExample(why.reason, f"{row.where}: {why}") from why
    except (ValueError, OSError) as error:  # OSError: of a name that no file can have
        if on_error == "raise":
            hint = "Mend the row, or take on_error='skip' to leave such rows out and count them."
            raise ValueError(f"{row.where}: {error} {hint}") from error
        raise NoExample(getattr(error, "reason", "bad_row"), f"{row.where}: {error}") from error
    return example, tuple(changes)


class Source(Protocol):
    """A data set on disk."""

    name: ClassVar[str]

    def iter_rows(self) -> Iterator[Row]:
        """Its rows from the beginning, in an order that never changes."""


class ExampleSet:
    """An iterable of Examples; iterating again starts again.

    Attributes:
        report: what became of the rows in the iteration that was started last; logged when that ends.
    """

    def __init__(
        self,
        source: Source,
        *,
        on_error: str = "raise",
        limit: int | None = None,
        done: Collection[str] = frozenset(),
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error={on_error!r} was given; it is 'raise' or 'skip'.")
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit} was given; it counts examples, at least 1, or is None for all.")
        self.source, self.on_error, self.limit, self.done = source, on_error, limit, done
        self.report = Report(source.name)

    def without(self, ids: Collection[str]) -> ExampleSet:
        """The same set less the examples with these ids, whose media are not decoded; they still count for limit."""
        return ExampleSet(self.source, on_error=self.on_error, limit=self.limit, done=frozenset(self.done) | set(ids))

    def __iter__(self) -> Iterator[Example]:
        report = self.report = Report(self.source.name)
        try:
            yield from self._examples(report)
        finally:
            report.log()

    def __repr__(self) -> str:
        return f"ExampleSet({self.source!r}, on_error={self.on_error!r}, limit={self.limit})"

    def _examples(self, report: Report) -> Iterator[Example]:
        seen: set[str] = set()
        for row in self.source.iter_rows():
            repeated = row.id in seen
            if row.id is not None:
                seen.add(row.id)
            if row.id in self.done and not repeated:
                report.skip("done_before", f"{row.where}: {row.id}")
            else:
                try:
                    example, changes = build_example(row, repeated, self.on_error)
                except NoExample as why:
                    report.skip(why.kind, str(why))
                    continue
                report.accept(list(changes))
                yield example
            if self.limit is not None and report.yielded + report.skipped["done_before"] >= self.limit:
                return
