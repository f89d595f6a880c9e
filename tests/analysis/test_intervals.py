"""Intervals against closed formulas, resamples that can be counted, and a bootstrap written out."""

import math
import sys

import numpy as np
import pytest

from corehead_hf.analysis import Estimate, difference_estimate, mean_estimate

Z = 1.959963984540054  # of 95 %


def wilson(right, n, z=Z):
    centre = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    return centre - half, centre + half


@pytest.mark.parametrize("right, n", [(7, 10), (1, 1), (0, 4), (50, 50), (123, 1000)])
def test_right_and_wrong_answers_have_wilsons_interval(right, n):
    scores = [1] * right + [0] * (n - right)
    found = mean_estimate(scores)
    assert found.value == pytest.approx(right / n)
    assert (found.low, found.high) == pytest.approx(wilson(right, n), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert mean_estimate(np.array(scores, dtype=bool)) == found == mean_estimate(np.array(scores, dtype=np.float32))


def test_confidence_widens_wilsons_interval():
    found = mean_estimate([1, 0, 0, 1, 1], confidence=0.99)
    assert (found.low, found.high) == pytest.approx(wilson(3, 5, 2.5758293035489004), abs=1e-9)


def test_the_bootstrap_of_two_scores_by_hand():
    """Means of resamples: 0 with probability 1/4, 0.25 with 1/2, 0.5 with 1/4."""
    assert mean_estimate([0.0, 0.5]) == Estimate(0.25, 0.0, 0.5)
    assert mean_estimate([0.0, 0.5], confidence=0.4) == Estimate(0.25, 0.25, 0.25)


def test_the_bootstrap_of_one_score_apart_by_hand():
    """It is drawn Binomial(10, 0.1) times: never with probability 0.35, up to 2 times with 0.93, up to 3 with 0.987."""
    found = mean_estimate([0.0] * 9 + [0.5])
    assert (found.low, found.value, found.high) == pytest.approx((0.0, 0.05, 0.15))


def test_the_bootstrap_is_the_one_written_out():
    rng = np.random.default_rng(1)
    scores = rng.random(60) ** 3
    means = np.sort(scores[rng.integers(0, 60, (100_000, 60))].mean(axis=1))
    found = mean_estimate(scores, confidence=0.9)
    assert found.value == pytest.approx(scores.mean(), abs=1e-12)
    for end, level in ((found.low, 0.05), (found.high, 0.95)):
        error = math.sqrt(level * (1 - level) / 2000)  # of the share below an end, of 2000 resamples
        assert abs(np.searchsorted(means, end) / len(means) - level) < 5 * error
    assert mean_estimate(scores, confidence=0.9) == found, "the seed is not fixed"


def test_scores_all_alike_have_no_spread():
    assert mean_estimate([0.25] * 8) == Estimate(0.25, 0.25, 0.25)
    assert mean_estimate([0.25]) == Estimate(0.25, 0.25, 0.25)


def test_a_difference_is_paired():
    rng = np.random.default_rng(2)
    first = rng.random(40)
    apart = difference_estimate(first, first - 0.125)
    assert (apart.low, apart.value, apart.high) == pytest.approx((0.125,) * 3, abs=1e-12)
    ablated = np.where(rng.random(40) < 0.3, 0.0, first)
    assert difference_estimate(first, ablated) == mean_estimate(first - ablated)
    turned = difference_estimate(ablated, first)
    assert turned.value == -difference_estimate(first, ablated).value and turned.high < 0
    same = difference_estimate([1, 0, 1], [1, 0, 1])
    assert same == Estimate(0.0, 0.0, 0.0)
    whole = difference_estimate([1, 1, 1], [0, 0, 0])
    assert whole == Estimate(1.0, 1.0, 1.0), "a difference of answers is no share"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mean_estimate([]), r"shape \(0,\) were given"),
        (lambda: mean_estimate([[1.0, 0.0]]), r"shape \(1, 2\) were given"),
        (lambda: mean_estimate([1.0, math.nan]), "finite"),
        (lambda: mean_estimate([1.0], confidence=1.0), "confidence=1.0 was asked for"),
        (lambda: difference_estimate([1.0, 0.0], [1.0]), "the difference of 2 and 1 scores"),
        (lambda: difference_estimate([1.0], [0.5], confidence=95), "confidence=95 was asked for"),
    ],
)
def test_bad_scores_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"pip install 'corehead-hf\[analysis\]'"):
        mean_estimate([0, 1])
