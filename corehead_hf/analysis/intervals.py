"""A mean over examples with its confidence interval; the arithmetic is scipy's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
SEED = 0
_ENTRIES = 1 << 24  # resampled values held at once, 128 MiB


@dataclass(frozen=True)
class Estimate:
    """A mean over examples and its confidence interval from low to high."""

    value: float
    low: float
    high: float


def mean_estimate(scores: Any, confidence: float = 0.95) -> Estimate:
    """The mean of scores of examples.

    Where every score is 0 or 1 the interval is Wilson's (scipy.stats.binomtest), else the percentile bootstrap over
    examples (scipy.stats.bootstrap, 2000 resamples of a fixed seed). Scores that are all alike, other than 0 or 1, show
    no spread: low = value = high.

    Args:
        scores: [N], finite, N >= 1.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: no scores, another shape, a score that is not finite, or a confidence out of range.
    """
    scores = _checked(scores, confidence)
    value = float(scores.mean())
    if not np.isin(scores, (0.0, 1.0)).all():
        return _bootstrapped(scores, value, confidence)
    found = require_scipy().binomtest(int(scores.sum()), len(scores)).proportion_ci(confidence, method="wilson")
    # Wilson's ends are exactly 0 and 1 there; scipy may miss them by a rounding.
    return Estimate(value, min(float(found.low), value), max(float(found.high), value))


def difference_estimate(first: Any, second: Any, confidence: float = 0.95) -> Estimate:
    """The mean of first - second, paired by example, with its percentile bootstrap interval over examples.

    Args:
        first, second: [N] scores of the same examples in the same order.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: as in mean_estimate, or lengths that differ.
    """
    first, second = _checked(first, confidence), _checked(second, confidence)
    if len(first) != len(second):
        raise ValueError(
            f"the difference of {len(first)} and {len(second)} scores was asked for - they are paired by example - "
            "give both for the same examples."
        )
    differences = first - second
    return _bootstrapped(differences, float(differences.mean()), confidence)


def envelope(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of estimates, say over seeds, from the lowest to the highest end of their intervals."""
    mean = sum(one.value for one in estimates) / len(estimates)
    return Estimate(mean, min(one.low for one in estimates), max(one.high for one in estimates))


def require_scipy() -> Any:
    """scipy.stats, imported where it is used: that takes over a second.

    Raises:
        ImportError: scipy is missing; with the remedy.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError("this analysis needs scipy: pip install 'corehead-hf[analysis]'") from error
    return stats


def check_confidence(confidence: float) -> None:
    """Raises ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} was asked for - it is a share in (0, 1) - pass 0.95, say.")


def _bootstrapped(scores: np.ndarray, value: float, confidence: float) -> Estimate:
    if (scores == scores[0]).all():
        return Estimate(value, value, value)
    found = require_scipy().bootstrap(
        (scores,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, _ENTRIES // len(scores)),
        confidence_level=confidence,
        method="percentile",
        random_state=SEED,
    )
    low, high = found.confidence_interval
    return Estimate(value, float(low), float(high))


def _checked(scores: Any, confidence: float) -> np.ndarray:
    check_confidence(confidence)
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"scores of shape {array.shape} were given - they must be finite numbers [N], N >= 1 - give one an example."
        )
    return array
