"""Passes: a study scores the same examples again and again; each pass is made once, kept, and shown by one bar."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging as transformers_logging

from corehead_hf.analysis.answers import Scorer, Under
from corehead_hf.analysis.journal import Journal
from corehead_hf.families import Prepared
from corehead_hf.head_map import HeadMap
from corehead_hf.measuring.batch import input_device
from corehead_hf.measuring.fingerprint import fingerprint
from corehead_hf.patching import native_model

logger = logging.getLogger(__name__)


class Passes:
    """The passes of one study.

    Args:
        scorer: of the examples.
        journal: where scores are looked for first and kept.
        progress: a bar of examples.
        total: how many passes there will be.

    Attributes:
        journal: as given.
    """

    def __init__(self, scorer: Scorer, journal: Journal, progress: Any, total: int) -> None:
        self.journal = journal
        self._scorer, self._progress, self._total = scorer, progress, total
        self._examples: int | None = None
        self._shown = self._longest = 0

    def score(self, key: Mapping[str, Any], under: Under | None = None) -> np.ndarray:
        """Scores of every example, float64 [N], from the journal or a pass under `under`.

        Args:
            key: JSON values that tell this pass from the others.

        Raises:
            ValueError: the scores are no finite numbers [N], or fewer or more than before; or `under` was not entered.
        """
        scores, self._shown = self.journal.get(key), 0
        if scores is not None:
            self._check(scores)
        else:
            scores = np.asarray(self._scorer(partial(self._watched, under)), dtype=np.float64)
            self._check(scores)
            if not self._shown:
                raise ValueError(
                    "the scorer never entered under(batch) - so nothing was done to the model while it was scored - "
                    "enter it around the model's work on each batch."
                )
            self.journal.append(key, scores)
        self._progress.update(len(scores) - self._shown)
        return scores

    def warn_if_short(self, window_size: int) -> None:
        """Log where no prompt that was scored is longer than the window."""
        if self._longest:
            warn_if_short("scored", self._longest, window_size)

    @contextmanager
    def _watched(self, under: Under | None, batch: Prepared) -> Iterator[None]:
        self._longest = max(self._longest, batch.question_mask.shape[1])
        with nullcontext() if under is None else under(batch):
            yield
        self._shown += len(batch.examples)
        self._progress.update(len(batch.examples))

    def _check(self, scores: np.ndarray) -> None:
        if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
            raise ValueError(
                f"the scorer gave an array of shape {scores.shape} - a study needs finite numbers [N], N >= 1 - return "
                "one per example."
            )
        if self._examples is None:
            self._examples = len(scores)
            self._progress.total = len(scores) * self._total
            self._progress.refresh()
        if len(scores) != self._examples:
            raise ValueError(
                f"the scorer gave {len(scores)} scores after {self._examples} in the first pass - scores are paired by "
                "example - score the same examples in the same order every time."
            )


def warn_if_short(what: str, longest: int, window_size: int) -> None:
    """Log where streaming heads see whole prompts, so that they are dense.

    Args:
        what: was done with the prompts.
        longest: tokens of the longest, padding included.
    """
    if longest <= window_size:
        logger.warning(
            "no prompt that was %s is longer than window_size=%d (the longest has %d tokens): streaming heads see all "
            "of it and are dense. Take a smaller window or longer prompts.",
            what,
            window_size,
            longest,
        )


def check_subject(study: str, model: Any, head_map: HeadMap) -> None:
    """Raise ValueError where the head map is another model's, or a mode is on."""
    head_map.check_fits(native_model(model))
    if model.core_state.modes:
        on = ", ".join(type(mode).__name__ for mode in model.core_state.modes)
        raise ValueError(
            f"{study} was asked for while {on} is on - the study compares with the model as it came - call "
            "disable_hybrid(), or leave the block that turned it on."
        )


def scores_digest(head_map: HeadMap) -> str:
    """Hash of the scores, 32 hexadecimal digits: another ranking is another digest."""
    return hashlib.sha256(head_map.scores.numpy().tobytes()).hexdigest()[:32]


def ranking_mark(head_map: HeadMap) -> str:
    """What a journal's fingerprint says of the ranking that a study goes by."""
    return f"{head_map.dataset}, sha256 {scores_digest(head_map)}"


@contextmanager
def passes(
    study: str,
    model: Any,
    head_map: HeadMap,
    scorer: Scorer,
    total: int,
    resume_from: str | Path | None,
    **settings: Any,
) -> Iterator[Passes]:
    """The passes of a study of a model; inside the block its journal is open and its bar shown.

    Args:
        study: its name.
        total: how many passes there will be.
        resume_from: the journal's file, or None.
        settings: JSON values the scores depend on.

    Raises:
        ValueError: the head map is another model's, a mode is on, the scorer does not tell what it scores though a
            journal is kept, or the journal cannot be used.
    """
    native = native_model(model)
    check_subject(study, model, head_map)
    mark: dict[str, Any] = {}
    if resume_from is not None:
        about = getattr(scorer, "about", None)
        if about is None:
            raise ValueError(
                f"resume_from={str(resume_from)!r} was given with a scorer that does not tell what it scores - scores "
                "of other data would mix - give it an attribute `about` (JSON values by name), or use AnswerScorer."
            )
        scored = {f"scored {name}": value for name, value in about.items()}
        described = {"study": study, "head_map": ranking_mark(head_map), **scored, **settings}
        mark = fingerprint(native, getattr(scorer, "processor", None), input_device(native), **described)
    with (
        closing(Journal(resume_from, mark)) as journal,
        transformers_logging.tqdm(desc=study.replace("_", " "), unit="example") as progress,
    ):
        yield Passes(scorer, journal, progress, total)
