"""Count: the answers so far. It is fed in the order of the data, so every process counts the same."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from corehead_hf.data.example import Example
from corehead_hf.data.example_set import ExampleSet
from corehead_hf.data.report import Report
from corehead_hf.evaluation.records import Answer

logger = logging.getLogger(__name__)


class Count:
    """What has been answered so far.

    Args:
        examples: the data; of an ExampleSet the report is filled and the limit kept.
        logs: whether this process tells.
    """

    def __init__(self, examples: Iterable[Example], logs: bool) -> None:
        self._answers: list[Answer] = []
        self._logs = logs
        self._report: Report | None = None
        self._limit: int | None = None
        if isinstance(examples, ExampleSet) and not examples.done:
            self._report = examples.report = Report(examples.source.name)
            self._limit = examples.limit

    def add(self, answer: Answer) -> bool:
        """Count an answer; True where the data's limit is reached."""
        self._answers.append(answer)
        if answer.failure is not None and self._logs:  # a row that gave no example stands in the data set's report
            logger.warning("skipped example %r at %d: %s", answer.id, answer.index, answer.reason)
        if self._report is None:
            return False
        if answer.row_error is None:
            self._report.accept(list(answer.changes))
        else:
            self._report.skip(answer.row_error, answer.reason or "")
        return self._limit is not None and self._report.yielded >= self._limit

    def finished(self, dataset: str) -> list[Answer]:
        """All answers; also logs the data set's report.

        Raises:
            ValueError: none has a score.
        """
        if self._report is not None and self._logs:
            self._report.log()
        if not self._answers:
            raise ValueError(f"dataset {dataset!r} gave no examples; an accuracy needs at least one.")
        if all(answer.skipped for answer in self._answers):
            raise ValueError(
                f"dataset {dataset!r} gave no examples that could be answered and scored; all {len(self._answers)} "
                f"were skipped, the first because: {self._answers[0].reason}"
            )
        return self._answers
