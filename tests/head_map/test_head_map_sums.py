"""RamSums against Python's fractions: exact, in any order and grouping."""

import random
from fractions import Fraction

import pytest
import torch

from corehead_hf.head_map.sums import RamSums


def drawn(number, seed=0, smallest=-56):
    """RAM float32 [number, 2, 3] over many magnitudes, and chance levels."""
    rng = random.Random(seed)
    values = [rng.random() * 2.0 ** -rng.randint(0, -smallest) for _ in range(number * 6)]
    ram = torch.tensor(values).view(number, 2, 3)
    ram[ram < 2.0**smallest] = 0
    return ram, [rng.random() for _ in range(number)]


def summed(ram, chance, order=None):
    total = RamSums.zeros(2, 3)
    for i in range(len(ram)) if order is None else order:
        total = total + RamSums.of(ram[i], chance[i])
    return total


def exact(ram):
    return [Fraction(x) for x in ram.double().flatten().tolist()]


def test_sums_of_ram_are_exact_where_a_float64_sum_rounds():
    ram, chance = drawn(200)
    sums = summed(ram, chance)
    high, low = sums.ram.tolist()
    rounded = 0
    for layer in range(2):
        for head in range(3):
            true = sum(exact(ram[:, layer, head]))
            assert Fraction(high[layer][head], 2**40) + Fraction(low[layer][head], 2**80) == true
            rounded += Fraction(float(ram[:, layer, head].double().sum())) != true
    assert rounded >= 3, "float64 would have done"


def test_moments_are_the_correctly_rounded_mean_and_deviation():
    ram, chance = drawn(50, seed=1, smallest=-12)  # their squares are exact too
    mean, spread = summed(ram, chance).moments(torch.tensor([50, 50]))
    for place, values in enumerate(ram.flatten(1).T):
        xs = exact(values)
        true = sum(xs) / 50
        variance = sum((x - true) ** 2 for x in xs) / 50
        assert mean.flatten()[place] == torch.tensor(float(true), dtype=torch.float64).float()
        assert spread.flatten()[place] == torch.tensor(float(variance) ** 0.5, dtype=torch.float64).float()


def test_layers_may_have_other_counts():
    ram, _ = drawn(4, smallest=-12)
    mean, _ = summed(ram, [0.5] * 4).moments(torch.tensor([4, 8]))
    torch.testing.assert_close(mean, ram.sum(dim=0) / torch.tensor([[4], [8]]))


def test_order_and_grouping_change_no_bit():
    ram, chance = drawn(64, seed=2)
    whole = summed(ram, chance)
    for seed in range(5):
        order = random.Random(seed).sample(range(64), 64)
        assert summed(ram, chance, order).equal(whole)
        cut = random.Random(seed).randint(1, 63)
        assert (summed(ram, chance, order[:cut]) + summed(ram, chance, order[cut:])).equal(whole)
    assert not summed(ram[:63], chance).equal(whole)


@pytest.mark.parametrize("value", [0.0, 2.0**-80, 2.0**-56, 1 / 3, 1.0, 1.0 + 2**-23])
def test_the_spread_of_equal_values_is_zero_and_the_mean_is_the_value(value):
    ram = torch.full((7, 2, 3), value)
    mean, spread = summed(ram, [0.25] * 7).moments(torch.tensor([7, 7]))
    assert torch.equal(mean, ram[0].clamp(max=1))
    if value > 2.0**-16 or not value:  # smaller squares are held to 4e-25
        assert torch.equal(spread, torch.zeros(2, 3))
    assert float(spread.max()) < 1e-12


def test_mean_chance():
    assert summed(torch.zeros(4, 2, 3), [0.125, 0.25, 0.5, 0.125]).mean_chance(4) == 0.25


def test_two_million_examples_do_not_overflow():
    sums = RamSums.of(torch.full((1, 1), 1.01), 1.0)
    for _ in range(21):
        sums = sums + sums
    assert int(sums.ram.min()) >= 0
    mean, _ = sums.moments(torch.tensor([1 << 21]))
    assert float(mean) == 1 and sums.mean_chance(1 << 21) == 1
