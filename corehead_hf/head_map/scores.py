"""HeadScores: one score for every query head of a checkpoint, where it came from, and how heads are picked by it.

What is valid in the fields is in fields.py; how RAM is measured is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from corehead_hf.head_map.fields import as_tensor, check_optional, check_provenance, check_sums
from corehead_hf.head_map.picks import draw_heads, head_count
from corehead_hf.head_map.sums import RamSums


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadScores:
    """RAM of every query head of one checkpoint, averaged over a data set.

    Tensors are kept as CPU copies, and may be given as NumPy arrays or nested lists.

    Args:
        scores: float32 [L, Hq], mean RAM in [0, 1]; higher = reads the evidence more. See score_rule.
        spread: float32 [L, Hq], standard deviation of RAM over the examples, in [0, 1].
        count: int64 [L], examples behind each layer's means, in 1..num_examples; an int means all layers.
        base_model_name_or_path: Hub id or path of the measured checkpoint.
        base_model_revision: its commit, 40 lower-case hex digits; None for a local model.
        model_type: `config.model_type` of the whole model, e.g. "qwen3_vl".
        num_layers, num_heads, num_kv_heads, head_dim: L, Hq, Hkv (divides Hq) and D of the text decoder.
        dataset: Hub id or name of the data set.
        num_examples: examples measured.
        question_rule: how the question tokens are chosen.
        view_rule: which visual tokens are summed: which views count as evidence, or all visual tokens.
        versions: package -> version; at least torch, transformers and corehead_hf.
        sums: the exact sums behind scores and spread, for merge; None where they are unknown.
        num_skipped: examples that could not be measured; None where that is unknown.
        convergence: (examples, Spearman's rho between their ranking and that of their first half) per check, or None.
        parts: of a merged map, dataset, num_examples and num_skipped of what it was made of; else None.
        score_rule: what the scores are where they are not RAM but imported; None = RAM. Goes with no sums.

    Raises:
        TypeError, ValueError: a field is of another type or out of range, or contradicts another.
    """

    scores: torch.Tensor
    spread: torch.Tensor
    count: torch.Tensor
    base_model_name_or_path: str
    base_model_revision: str | None
    model_type: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    dataset: str
    num_examples: int
    question_rule: str
    view_rule: str
    versions: dict[str, str]
    sums: RamSums | None = None
    num_skipped: int | None = None
    convergence: tuple[tuple[int, float], ...] | None = None
    parts: tuple[dict[str, Any], ...] | None = None
    score_rule: str | None = None

    def __post_init__(self) -> None:
        check_provenance(self.__dict__)
        shape = (self.num_layers, self.num_heads)
        count = [self.count] * self.num_layers if isinstance(self.count, int) else self.count
        checked = {
            "scores": as_tensor("scores", self.scores, torch.float32, shape),
            "spread": as_tensor("spread", self.spread, torch.float32, shape),
            "count": as_tensor("count", count, torch.int64, shape[:1], 1, self.num_examples),
            "versions": {package: str(version) for package, version in self.versions.items()},
            **check_optional(self.__dict__),
        }
        if self.sums is not None:
            checked["sums"] = check_sums(self.sums, checked, self.num_examples)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        layer, head = self.ranking()[0].tolist()
        name = "RAM" if self.score_rule is None else "imported score"
        return (
            f"HeadMap({self.base_model_name_or_path!r:.100}, {self.num_examples} examples of "
            f"{self.dataset!r:.100}, {self.num_layers} layers x {self.num_heads} heads, top: "
            f"layer {layer} head {head} with {name} {self.scores[layer, head]:.4f})"
        )

    @property
    def uniform_count(self) -> int | None:
        """The count that all layers share, or None if they differ."""
        return int(self.count[0]) if bool((self.count == self.count[0]).all()) else None

    @property
    def chance(self) -> float | None:
        """RAM of a head that attends to all it may see alike, mean over the examples; None without sums."""
        return None if self.sums is None else self.sums.mean_chance(self.num_examples)

    @property
    def lift(self) -> torch.Tensor:
        """float32 [L, Hq], scores over chance: 1 = no better than a uniform head.

        Raises:
            ValueError: the map does not know its chance level.
        """
        if self.chance is None:
            raise ValueError(f"the lift of {self!r} was asked for - its chance level is unknown - measure it again.")
        return self.scores / self.chance

    def ranking(self) -> torch.Tensor:
        """int64 [L * Hq, 2], rows of (layer, head), highest score first; ties by (layer, head), lower first."""
        order = torch.sort(self.scores.flatten(), descending=True, stable=True).indices
        return torch.stack((order // self.num_heads, order % self.num_heads), dim=1)

    def top(self, keep: float | int) -> torch.Tensor:
        """bool [L, Hq], True for the first heads of ranking(); keep as in head_count."""
        return self._heads(self.ranking()[: head_count(keep, self.num_layers, self.num_heads)])

    def bottom(self, keep: float | int) -> torch.Tensor:
        """bool [L, Hq], True for the last heads of ranking(); keep as in head_count."""
        return self._heads(self.ranking()[-head_count(keep, self.num_layers, self.num_heads) :])

    def random(
        self, keep: float | int, seed: int, exclude: torch.Tensor | None = None, layer_matched: bool = False
    ) -> torch.Tensor:
        """Heads drawn uniformly without replacement, the same on every platform and library version.

        Head (l, h) gets raw output number l * Hq + h of NumPy's PCG64(seed), a stream NumPy keeps fixed; the
        allowed heads with the smallest numbers are taken.

        Args:
            keep: as in head_count.
            seed: >= 0.
            exclude: bool [L, Hq], True = never drawn.
            layer_matched: draw in every layer as many heads as exclude has there; keep must be their sum.

        Returns:
            bool [L, Hq].

        Raises:
            TypeError, ValueError: an argument is malformed or missing, or too few heads are left.
        """
        number = head_count(keep, self.num_layers, self.num_heads)
        shape = (self.num_layers, self.num_heads)
        none = np.zeros(shape, bool)
        barred = as_tensor("exclude", none if exclude is None else exclude, torch.bool, shape).numpy()
        if layer_matched and (exclude is None or barred.sum() != number):
            asked = f"{number} layer-matched heads (keep={keep!r}) were asked for"
            raise ValueError(f"{asked} - exclude has {barred.sum()} - pass an exclude of as many heads as keep.")
        quotas = barred.sum(axis=1).tolist() if layer_matched else [number]
        return torch.from_numpy(draw_heads(barred, quotas, seed))

    def _heads(self, pairs: torch.Tensor) -> torch.Tensor:
        heads = torch.zeros_like(self.scores, dtype=torch.bool)
        heads[tuple(pairs.T)] = True
        return heads
