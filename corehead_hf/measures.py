"""Numbers about a head, from its question-averaged attention row alone. No measure touches q or k.

Equations are those of arXiv 2606.05843; the slow forms stand in reference.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

TOP_PERCENT = 5  # of all columns: the k of S_top in eq. (22)
HIT_THRESHOLD = 0.5  # of eq. (23)


def attention_mass(row: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Attention that falls on some columns: RAM, eq. (1), for the evidence, vision mass for all visual tokens.

    Args:
        row: float32 [B, Hq, S], question-averaged.
        columns: bool [B, S'], S' <= S; columns after S' hold no evidence.

    Returns:
        float32 [B, Hq], in [0, 1]; higher = the head reads these columns more.
    """
    picked = row[..., : columns.shape[1]]
    return (picked * columns[:, None].to(picked.dtype)).sum(dim=-1)


@dataclass(frozen=True)
class KeyTokens:
    """Which evidence tokens are among a head's largest attention entries, for one layer or, stacked, for all.

    Attributes:
        found: bool [B, ..., Hq, E], E = the largest number of evidence tokens in the batch, in column order.
        num_evidence: int64 [B].
        num_columns: int64 [B], the real (not padding) columns N of each sequence.
    """

    found: torch.Tensor
    num_evidence: torch.Tensor
    num_columns: torch.Tensor

    @property
    def num_top(self) -> torch.Tensor:
        """int64 [B]: the columns among which evidence is looked for, k = ceil(0.05 N) of eq. (22)."""
        return top_count(self.num_columns)

    @property
    def ratio(self) -> torch.Tensor:
        """KTR, eq. (23): share of the evidence tokens found, float32 [B, ..., Hq] in [0, 1]. Chance is num_top / N."""
        shape = (-1,) + (1,) * (self.found.dim() - 2)
        return self.found.sum(dim=-1).float() / self.num_evidence.view(shape)

    @property
    def hits(self) -> torch.Tensor:
        """bool [B, ..., Hq]: KTR >= 0.5."""
        return self.ratio >= HIT_THRESHOLD

    def coverage(self, heads: torch.Tensor) -> torch.Tensor:
        """Eqs. (24, 25): share of the evidence that at least one head of the group finds.

        Args:
            heads: bool [L, Hq]; needs `found` of all layers, [B, L, Hq, E].

        Returns:
            float32 [B], in [0, 1]. Chance for g uniform heads: 1 - (1 - num_top / N) ** g.
        """
        if self.found.shape[1:3] != heads.shape:
            raise ValueError(
                f"heads of shape {tuple(heads.shape)} were given for key tokens of {tuple(self.found.shape[1:3])} "
                "(layers, heads); give bool [L, Hq] of the recorded model."
            )
        together = self.found[:, heads.to(self.found.device)].any(dim=1)  # [B, E]
        return together.sum(dim=-1).float() / self.num_evidence


def top_count(num_columns: torch.Tensor) -> torch.Tensor:
    """ceil(0.05 N) of int64 N, in integers: 5 % of 20 must be 1."""
    return -(-num_columns * TOP_PERCENT // 100)


def key_tokens(row: torch.Tensor, evidence_mask: torch.Tensor, num_columns: torch.Tensor) -> KeyTokens:
    """S_top of eq. (22) intersected with the evidence, for every head of one layer.

    Args:
        row: float32 [B, Hq, S], question-averaged.
        evidence_mask: bool [B, S'], S' <= S, at least one True per sequence.
        num_columns: int64 [B], the real (not padding) columns N of each sequence; k = ceil(0.05 N).

    Returns:
        KeyTokens with found [B, Hq, E]. Equal entries are taken in column order.
    """
    num_evidence = evidence_mask.sum(dim=1)
    width, counts = int(num_evidence.max()), top_count(num_columns).tolist()
    found = torch.zeros(*row.shape[:2], width, dtype=torch.bool, device=row.device)
    for b, k in enumerate(counts):
        top = torch.sort(row[b], dim=-1, descending=True, stable=True).indices[:, :k]  # [Hq, k]
        is_top = torch.zeros_like(row[b], dtype=torch.bool).scatter_(1, top, True)
        columns = evidence_mask[b].nonzero().flatten()
        found[b, :, : len(columns)] = is_top[:, columns]
    return KeyTokens(found, num_evidence, num_columns)
