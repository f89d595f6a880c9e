"""Tally: outcomes in, the fields of a head map out, with a log of what was skipped and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch

from corehead_hf.data.example import Example
from corehead_hf.data.example_set import ExampleSet
from corehead_hf.data.report import Report
from corehead_hf.head_map.sums import MAX_EXAMPLES, RamSums
from corehead_hf.measuring.convergence import Convergence
from corehead_hf.measuring.outcome import Outcome
from corehead_hf.measuring.slots import note_in_report

logger = logging.getLogger(__name__)


class Tally:
    """What has been measured so far. It is fed in the order of the data, so every process counts the same.

    Args:
        num_layers, num_heads: L and Hq.
        until_stable: see Convergence.
        examples: the data; of an ExampleSet the report is filled and the limit kept.
        logs: whether this process tells.
    """

    def __init__(
        self, num_layers: int, num_heads: int, until_stable: float | None, examples: Iterable[Example], logs: bool
    ) -> None:
        self.sums, self.count, self.skipped = RamSums.zeros(num_layers, num_heads), 0, 0
        self._convergence, self._num_layers, self._logs = Convergence(until_stable), num_layers, logs
        self._first_reason: str | None = None
        self._report: Report | None = None
        self._limit: int | None = None
        if isinstance(examples, ExampleSet) and not examples.done:
            self._report = examples.report = Report(examples.source.name)
            self._limit = examples.limit

    def add(self, outcome: Outcome) -> bool:
        """Count an outcome; True where measuring is done."""
        if self._report is not None:
            note_in_report(self._report, outcome)
        settled = self._skip(outcome) if outcome.ram is None else self._measured(outcome.ram, outcome.chance)
        return settled or (self._report is not None and self._limit is not None and self._report.yielded >= self._limit)

    def _measured(self, ram: torch.Tensor, chance: float) -> bool:
        self.count += 1
        if self.count > MAX_EXAMPLES:
            raise ValueError(f"more than {MAX_EXAMPLES} examples were given; sums are exact up to that many.")
        self.sums = self.sums + RamSums.of(ram, chance)
        settled = self._convergence.add(self.count, self.sums)
        if settled and self._logs:
            logger.info("the ranking of the heads is stable after %d examples", self.count)
        return settled

    def _skip(self, outcome: Outcome) -> bool:
        self.skipped += 1
        self._first_reason = self._first_reason or outcome.reason
        if self._logs and outcome.row_error is None:  # a row that gave no example stands in the data set's report
            logger.warning("skipped example %r at %d: %s", outcome.id, outcome.index, outcome.reason)
        return False

    def fields(self, dataset: str) -> dict[str, Any]:
        """Arguments of the HeadMap; also logs the data set's report.

        Raises:
            ValueError: nothing was measured.
        """
        if self._report is not None and self._logs:
            self._report.log()
        if self.count == 0:
            if not self.skipped:
                raise ValueError(f"dataset {dataset!r} gave no examples; a head map needs at least one.")
            raise ValueError(
                f"dataset {dataset!r} gave no examples that could be measured; all {self.skipped} were skipped, the "
                f"first because: {self._first_reason}"
            )
        count = torch.full((self._num_layers,), self.count)
        scores, spread = self.sums.moments(count)
        return {
            "scores": scores,
            "spread": spread,
            "count": count,
            "sums": self.sums,
            "num_examples": self.count,
            "num_skipped": self.skipped,
            "convergence": tuple(self._convergence.curve),
        }
