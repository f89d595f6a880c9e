"""Slots: the places of a data set in order, each with the means to make its example.

An ExampleSet's rows are cheap and only building one decodes media, so a process builds no example that another process
or an earlier run has measured. Any other iterable holds its examples ready made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from corehead_hf.data.example import Example
from corehead_hf.data.example_set import Changes, ExampleSet, build_example
from corehead_hf.measuring.fingerprint import OtherConfiguration
from corehead_hf.measuring.outcome import Outcome


@dataclass(frozen=True, eq=False)
class Slot:
    """One place of the data: its example can be built, once it is known to be needed.

    Attributes:
        content: what the data say of the example, its pictures and videos left out; None where that is not known.
    """

    index: int
    id: str | None
    build: Callable[[], tuple[Example, Changes]]
    content: Any = None

    @cached_property
    def mark(self) -> str:
        """Hash of the content, "" without; only a run that is kept asks for it."""
        if self.content is None:
            return ""
        # A row may hold its picture's bytes.
        text = json.dumps(self.content, sort_keys=True, default=lambda x: None if isinstance(x, bytes) else repr(x))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def slots(examples: Iterable[Example]) -> Iterator[Slot]:
    """The slots of any iterable of Examples.

    Raises:
        ValueError: an id stands twice, or what the iterable itself raises.
    """
    if isinstance(examples, ExampleSet) and not examples.done:
        seen: set[str] = set()
        for index, row in enumerate(examples.source.iter_rows()):
            build = partial(build_example, row, row.id in seen, examples.on_error)
            # A row that repeats an id has none of its own.
            yield Slot(index, None if row.id in seen else row.id, build, row.content)
            if row.id is not None:
                seen.add(row.id)
        return
    places: dict[str, int] = {}
    for index, example in enumerate(examples):
        if example.id in places:
            raise ValueError(
                f"example {example.id!r} stands at {places[example.id]} and at {index} of the data; ids are unique, "
                "give each its own."
            )
        places[example.id] = index
        content = {name: value for name, value in vars(example).items() if name != "media"}
        yield Slot(index, example.id, partial(_ready, example), content)


def data_options(examples: Iterable[Example]) -> dict[str, Any]:
    """What makes other examples of the same ids: an ExampleSet's options, without where it lies and how much of it."""
    if not isinstance(examples, ExampleSet) or not is_dataclass(examples.source):
        return {}
    options = {item.name: getattr(examples.source, item.name) for item in fields(examples.source)}
    return {
        f"data {name}": value if isinstance(value, (str, int, float, type(None))) else str(value)
        for name, value in options.items()
        if name not in ("num_examples", "path")
    }


def refuse_other_example(folder: Path, slot: Slot, kept: tuple[str | None, str] | None) -> None:
    """Raise where an earlier run kept another example than a slot's at its place of the data.

    Args:
        folder: where it kept it.
        kept: its id and mark; None where nothing is kept of the place.

    Raises:
        OtherConfiguration: the ids differ, or both marks are known and differ.
    """
    if kept is None:
        return
    identity, mark = kept
    if identity != slot.id:
        raise OtherConfiguration(
            f"{folder}: the data has example {slot.id!r} at {slot.index}, the run that is resumed had {identity!r} "
            "there. Resume with the same data in the same order, or begin in another folder."
        )
    if mark and slot.mark and mark != slot.mark:
        raise OtherConfiguration(
            f"{folder}: what the data say of example {slot.id!r} at {slot.index} was changed since the run that is "
            "resumed. Resume with the data as they were, or begin in another folder."
        )


def _ready(example: Example) -> tuple[Example, Changes]:
    return example, ()


def note_in_report(report: Any, outcome: Outcome) -> None:
    """Count an outcome in the data set's report, as iterating over the set would."""
    if outcome.row_error is None:
        report.accept(list(outcome.changes))
    else:
        report.skip(outcome.row_error, outcome.reason)
