"""Spearman by hand and against counted ranks; when a run stops."""

import numpy as np
import pytest
import torch

from corehead_hf.head_map.sums import RamSums
from corehead_hf.measuring.convergence import Convergence, is_check, spearman


@pytest.mark.parametrize(
    "first, second, rho",
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], 1.0),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [10, 20, 30, 50, 40], 0.9),  # 1 - 6 * 2 / (5 * 24)
        # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, squares 4.5 and 5, so 4.5 / sqrt(22.5).
        ([0.1, 0.2, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4], 4.5 / 22.5**0.5),
        ([1, 1, 1], [1, 2, 3], 0.0),
        ([1, 1, 1], [2, 2, 2], 0.0),
    ],
)
def test_spearman_by_hand(first, second, rho):
    found = spearman(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    assert found == pytest.approx(rho, abs=1e-15)
    assert -1 <= found <= 1


def counted_ranks(values):
    return [sum(x < v for x in values) + (sum(x == v for x in values) + 1) / 2 for v in values]


def test_spearman_is_the_correlation_of_counted_ranks_also_with_ties():
    generator = torch.Generator().manual_seed(0)
    for size in (5, 48, 200):
        a = torch.randint(0, size, (size,), generator=generator).double()
        b = a + torch.randint(0, size, (size,), generator=generator)
        expected = np.corrcoef(counted_ranks(a.tolist()), counted_ranks(b.tolist()))[0, 1]
        assert spearman(a, b) == pytest.approx(expected, abs=1e-12)


def test_the_schedule():
    expected = [*range(16, 257, 16), *range(288, 513, 32), *range(576, 1025, 64), *range(1152, 2049, 128)]
    assert [n for n in range(2049) if is_check(n)] == expected


def settle(noise_until, until_stable, number=200):
    """A run whose heads have one clear order, with noise in the first examples; where it stops, and its curve."""
    generator = torch.Generator().manual_seed(1)
    clear = torch.linspace(0.1, 0.4, 48).view(12, 4)
    convergence, sums = Convergence(until_stable), RamSums.zeros(12, 4)
    for count in range(1, number + 1):
        noise = torch.rand(12, 4, generator=generator) * 0.5 if count <= noise_until else 0
        sums = sums + RamSums.of(clear + noise, 0.1)
        if convergence.add(count, sums):
            return count, convergence.curve
    return None, convergence.curve


def test_it_stops_after_three_stable_checks_and_not_before():
    count, curve = settle(0, 0.99)
    assert count == 48 and curve == [(16, 1.0), (32, 1.0), (48, 1.0)]
    count, curve = settle(40, 0.99)
    rhos = [rho for _, rho in curve]
    assert count == curve[-1][0] > 48 and min(rhos[-3:]) >= 0.99
    assert all(min(rhos[i : i + 3]) < 0.99 for i in range(len(rhos) - 3)), "it could have stopped earlier"


def test_without_a_threshold_it_never_stops_and_keeps_the_curve():
    count, curve = settle(0, None)
    assert count is None and [n for n, _ in curve] == list(range(16, 193, 16))


def test_the_first_half_is_the_first_half():
    """Head 0 leads in the first 16 examples, head 1 by far in the next 16: opposite orders at the check of 32."""
    convergence, sums = Convergence(), RamSums.zeros(1, 2)
    for count in range(1, 33):
        sums = sums + RamSums.of(torch.tensor([[0.2, 0.1]] if count <= 16 else [[0.1, 0.9]]), 0.1)
        convergence.add(count, sums)
    assert convergence.curve == [(16, 1.0), (32, -1.0)]


@pytest.mark.parametrize("value", [0, -0.5, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="until_stable="):
        Convergence(value)
