"""Report: what became of every row of a data set in one iteration over it."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

SHOWN = 5  # descriptions kept per reason; counts are always complete


@dataclass
class Report:
    """Counts of one iteration, filled while it runs.

    Every row is either yielded or skipped, so `rows == yielded + sum(skipped.values())`. A row that was yielded after a
    change stands in `changed` as well, once per kind of change.

    Attributes:
        dataset: the data set's name.
        yielded: examples handed out.
        changed: reason -> rows that were yielded after a change: a clipped box, frames mapped by time, ...
        skipped: reason -> rows that gave no example.
        described: reason -> the first few of its rows, with file, row and value.
    """

    dataset: str
    yielded: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    described: dict[str, list[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows seen so far."""
        return self.yielded + self.skipped.total()

    @property
    def counts(self) -> dict[str, int]:
        """All counts under one key each: "yielded" and the reasons."""
        return {"yielded": self.yielded, **self.changed, **self.skipped}

    def skip(self, reason: str, description: str) -> None:
        """Count a row that gave no example."""
        self.skipped[reason] += 1
        self._describe(reason, description)

    def accept(self, changes: list[tuple[str, str]]) -> None:
        """Count a yielded row; changes are (reason, description)."""
        self.yielded += 1
        self.changed.update({reason for reason, _ in changes})
        for reason, description in changes:
            self._describe(reason, description)

    def log(self) -> None:
        """To the log: a warning where a row was changed or skipped."""
        logger.log(logging.WARNING if self.changed or self.skipped else logging.INFO, "%s", self)

    def _describe(self, reason: str, description: str) -> None:
        kept = self.described.setdefault(reason, [])
        if len(kept) < SHOWN:
            kept.append(description)

    def __str__(self) -> str:
        lines = [f"{self.dataset}: {self.yielded} examples from {self.rows} rows"]
        for title, counts in (("changed", self.changed), ("skipped", self.skipped)):
            for reason, count in counts.most_common():
                lines.append(f"  {title}: {reason} {count}, e.g. {self.described[reason][0]}")
        return "\n".join(lines)
