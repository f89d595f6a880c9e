"""The bootstrap of the stability study: its numbers again on resampled examples, and what they are computed with."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from corehead_hf.analysis.intervals import require_scipy
from corehead_hf.analysis.result import Floats
from corehead_hf.head_map import HeadMap

TOLERANCE = 1e-5  # between the mean of float32 RAM and the map's


def rank_correlation(scores: Floats) -> Floats:
    """Spearman's rho of every pair of rows, float64 [M, M] in [-1, 1], ties by average rank.

    A row of equal values ranks nothing: its rho with the others is 0 here, where scipy's is NaN.

    Args:
        scores: float64 [M, n].
    """
    rho = np.zeros((len(scores), len(scores)))
    varied = np.flatnonzero(np.ptp(scores, axis=1) > 0)
    if len(varied) > 1:
        found = require_scipy().spearmanr(scores[varied], axis=1).statistic
        rho[np.ix_(varied, varied)] = found  # for two rows a number, right off the diagonal
    np.fill_diagonal(rho, 1.0)
    return np.clip(rho, -1.0, 1.0)


def thresholds_of(scores: Floats, share: float) -> Floats:
    """tau of eq. (20) over the last axis."""
    found: Floats = np.percentile(scores, 100 * (1 - share), axis=-1)
    return found


def resampled_means(maps: Mapping[str, HeadMap], per_example: Mapping[str, Any], resamples: int, seed: int) -> Floats:
    """Mean RAM of bootstrap samples, [M, R, n]."""
    if resamples < 1:
        raise ValueError(f"resamples={resamples} were asked for - an interval needs some - pass 1000, say.")
    if set(per_example) != set(maps):
        raise ValueError(
            f"per_example of {sorted(per_example)} was given for maps of {sorted(maps)} - give it for every map."
        )
    # index() because PCG64(None) would draw its seed from the system.
    generator = np.random.Generator(np.random.PCG64(operator.index(seed)))
    means = []
    for name, head_map in maps.items():
        ram = np.asarray(per_example[name], dtype=np.float64)
        _check_ram(name, ram, head_map)
        # How often each example is drawn: a resample's mean is then a matrix product.
        weights = generator.multinomial(len(ram), np.full(len(ram), 1 / len(ram)), size=resamples)  # [R, N]
        means.append(weights / len(ram) @ ram.reshape(len(ram), -1))
    return np.stack(means)


def _check_ram(name: str, ram: Floats, head_map: HeadMap) -> None:
    shape = tuple(head_map.scores.shape)
    if ram.ndim != 3 or ram.shape[1:] != shape or not len(ram):
        raise ValueError(
            f"per_example[{name!r}] of shape {list(ram.shape)} was given - the map has {list(shape)} heads - give "
            "[N, layers, heads], as ram_per_example does."
        )
    worst = float(np.abs(ram.mean(axis=0) - head_map.scores.double().numpy()).max())
    if not worst <= TOLERANCE:  # also where it is NaN
        raise ValueError(
            f"per_example[{name!r}] of {len(ram)} examples was given - its mean is {worst:.2g} off the map's scores of "
            f"{head_map.num_examples} examples - give the very examples the map was measured on."
        )


def bootstrap_intervals(means: Floats, share: float, confidence: float) -> dict[str, Any]:
    """The fields of Stability that the resampled means [M, R, n] give; frequency [n]."""
    inside = (means >= thresholds_of(means, share)[..., None]).all(axis=0)  # [R, n]
    rho = np.stack([rank_correlation(means[:, r]) for r in range(means.shape[1])])  # [R, M, M]
    ends = [50 * (1 - confidence), 50 * (1 + confidence)]
    low, high = np.percentile(rho, ends, axis=0)
    # A number of heads that was seen, not one between two.
    fewest, most = np.percentile(inside.sum(axis=1), ends, method="inverted_cdf")
    return {
        "spearman_low": low,
        "spearman_high": high,
        "universal_low": int(fewest),
        "universal_high": int(most),
        "frequency": inside.mean(axis=0),
    }
