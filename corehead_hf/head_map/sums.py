"""RamSums: exact sums over examples, so that maps of parts merge to the very bits of the map of the whole.

Every value is taken to a multiple of 2^-80 and summed in integers, in two limbs of 40 fraction bits: integer sums do
not depend on order or grouping. A RAM of 2^-56 or more is held exactly, a smaller one to 4e-25.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

BITS = 40  # fraction bits of a limb
MAX_EXAMPLES = 1 << 21  # that many values below 2 stay within an int64 limb
HIGHEST_RAM = 1.01  # a softmax row may sum to a rounding error above 1


@dataclass(frozen=True, eq=False)
class RamSums:
    """Sums over examples; value = limb 0 * 2^-40 + limb 1 * 2^-80.

    Attributes:
        ram: int64 [2, L, Hq], of RAM.
        squares: int64 [2, L, Hq], of its square.
        chance: int64 [2], of the chance level.
    """

    ram: torch.Tensor
    squares: torch.Tensor
    chance: torch.Tensor

    @classmethod
    def zeros(cls, num_layers: int, num_heads: int) -> RamSums:
        """Of no examples."""
        full = (2, num_layers, num_heads)
        return cls(*(torch.zeros(shape, dtype=torch.int64) for shape in (full, full, (2,))))

    @classmethod
    def of(cls, ram: torch.Tensor, chance: float) -> RamSums:
        """Of one example: RAM float32 [L, Hq] in [0, 1.01], chance level in [0, 1]."""
        exact = ram.double()
        return cls(_limbs(exact), _limbs(exact * exact), _limbs(torch.tensor(chance, dtype=torch.float64)))

    def __add__(self, other: RamSums) -> RamSums:
        return RamSums(self.ram + other.ram, self.squares + other.squares, self.chance + other.chance)

    def equal(self, other: RamSums) -> bool:
        """Whether all sums are the same."""
        return all(torch.equal(a, b) for a, b in zip(self.tensors.values(), other.tensors.values(), strict=True))

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """By their names in a head map's file."""
        return {"ram_sum": self.ram, "ram_square_sum": self.squares, "chance_sum": self.chance}

    def moments(self, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of RAM, each float32 [L, Hq] in [0, 1], the same on every platform.

        Args:
            count: int64 [L], examples behind each layer.
        """
        shape = self.ram.shape[1:]
        counts = count.repeat_interleave(shape[1]).tolist()
        means, spreads = [], []
        for n, total, squares in zip(counts, _integers(self.ram), _integers(self.squares), strict=True):
            # Division of Python's integers rounds once, correctly; the variance loses nothing to cancellation.
            means.append(total / (n << 2 * BITS))
            spreads.append((max(0, (n * squares << 2 * BITS) - total * total) / (n * n << 4 * BITS)) ** 0.5)
        mean, spread = (torch.tensor(values, dtype=torch.float64).view(shape) for values in (means, spreads))
        return mean.float().clamp(0, 1), spread.float().clamp(0, 1)

    def mean_chance(self, count: int) -> float:
        """Mean chance level of `count` examples, in [0, 1]."""
        return _integers(self.chance)[0] / (count << 2 * BITS)


def _limbs(values: torch.Tensor) -> torch.Tensor:
    """int64 [2, ...] of float64 values in [0, 2)."""
    scaled = values * 2.0**BITS
    high = scaled.floor()
    return torch.stack((high, ((scaled - high) * 2.0**BITS).round())).long()


def _integers(limbs: torch.Tensor) -> list[int]:
    """Sums in units of 2^-80."""
    high, low = limbs.reshape(2, -1).tolist()
    return [(a << BITS) + b for a, b in zip(high, low, strict=True)]
