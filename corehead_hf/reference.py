"""Slow, obvious PyTorch of everything that has a fast form: the truth the tests and benchmarks compare with.

Full [T, S] matrices, python loops, float64. Nothing here is quick or fits long sequences; no fast path may
import it. It decides what a number means; how to get it cheaply is decided elsewhere.

    T = S = 5, sink_size = 1, window_size = 2        dense        streaming
                                                     1 . . . .    1 . . . .
                                                     1 1 . . .    1 1 . . .
                                                     1 1 1 . .    1 1 1 . .
                                                     1 1 1 1 .    1 . 1 1 .
                                                     1 1 1 1 1    1 . . 1 1
"""

from __future__ import annotations

import torch


def hybrid_mask(
    heads: torch.Tensor,
    T: int,
    S: int,
    sink_size: int,
    window_size: int,
    first_token: torch.Tensor | None = None,
) -> torch.Tensor:
    """Which key each query of each head may attend to, in a hybrid prefill.

    Query t stands at position p = S - T + t. It sees key j if first_token <= j <= p and, in a streaming head,
    also (j - first_token < sink_size or p - window_size < j).

    Args:
        heads: bool [Hq], True = dense, False = streaming.
        T: number of queries, the last T of the S positions.
        S: number of keys, S >= T.
        sink_size: tokens counted from the sequence's first real one, >= 0.
        window_size: tokens, the query itself included, >= 1.
        first_token: int [B], the left-padding tokens of each sequence; None means none.

    Returns:
        bool [B, Hq, T, S], True = may attend; B is 1 without first_token. A query that is itself padding sees
        nothing.
    """
    starts = [0] if first_token is None else first_token.tolist()
    mask = torch.zeros(len(starts), heads.numel(), T, S, dtype=torch.bool)
    j = torch.arange(S)
    for b, first in enumerate(starts):
        for h, dense in enumerate(heads.tolist()):
            for t in range(T):
                p = S - T + t
                visible = (j >= first) & (j <= p)
                if not dense:
                    visible &= (j - first < sink_size) | (j > p - window_size)
                mask[b, h, t] = visible
    return mask.to(heads.device)


def attention_probabilities(
    query: torch.Tensor,
    key: torch.Tensor,
    scaling: float,
    mask: torch.Tensor,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """The attention matrix of every head: softmax over the keys that the mask lets through.

        A[b, h, t, j] = softmax_j(scaling * q_t . k_j)

    Args:
        query: [B, Hq, T, D].
        key: [B, Hkv, S, D]; head h reads kv head h // (Hq // Hkv).
        scaling: factor on the logits.
        mask: bool, broadcasts to [B, Hq, T, S], True = may attend.
        dtype: what is computed in, float64 or float32.

    Returns:
        dtype [B, Hq, T, S], rows sum to 1; a row without a valid key is all zero.
    """
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # [B, Hq, S, D]
    logits = scaling * (query.to(dtype) @ key.to(dtype).transpose(2, 3))  # [B, Hq, T, S]
    probabilities = logits.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    # softmax of nothing but -inf is NaN
    return torch.where(mask.any(dim=-1, keepdim=True), probabilities, 0.0)


def hybrid_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: torch.Tensor,
    *,
    sink_size: int,
    window_size: int,
    scaling: float,
    first_token: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Prefill attention of one layer where some heads see everything and the others sink + window.

    Args:
        query: [B, Hq, T, D], the last T of the S positions.
        key: [B, Hkv, S, D]; head h reads kv head h // (Hq // Hkv).
        value: [B, Hkv, S, D].
        heads: bool [Hq], True = dense.
        sink_size: see hybrid_mask.
        window_size: see hybrid_mask.
        scaling: factor on the logits.
        first_token: int [B], the left-padding tokens of each sequence; None means none.
        dtype: what is computed in and returned, float64 or float32.

    Returns:
        dtype [B, T, Hq, D]; zeros where the query is padding.

    Cost: O(T * S * D) time and O(T * S) memory per head.
    Source: arXiv 2606.05843, the hybrid prefill.
    """
    T, S = query.shape[2], key.shape[2]
    mask = hybrid_mask(heads, T, S, sink_size, window_size, first_token).to(query.device)
    probabilities = attention_probabilities(query, key, scaling, mask, dtype)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return (probabilities @ value.to(dtype)).transpose(1, 2)


def question_averaged_row(
    query: torch.Tensor,
    key: torch.Tensor,
    question_mask: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the question looks at: the attention rows of the question tokens, averaged.

        row[b, h, j] = mean over t in question of A[b, h, t, j]

    Args:
        query: [B, Hq, T, D], the last T of the S positions.
        key: [B, Hkv, S, D].
        question_mask: bool [B, T], at least one True per sequence.
        scaling: factor on the logits.
        mask: bool [B, 1, T, S], True = may attend; None means causal.

    Returns:
        float64 [B, Hq, S].

    Raises:
        ValueError: a sequence has no question token.
    """
    T, S = query.shape[2], key.shape[2]
    if not question_mask.any(dim=1).all():
        counts = question_mask.sum(dim=1).tolist()
        raise ValueError(
            f"a mean over the question tokens was asked for - the sequences have {counts} of them - "
            "mark at least one True in every row of question_mask."
        )
    if mask is None:
        mask = hybrid_mask(torch.tensor([True], device=query.device), T, S, sink_size=0, window_size=1)
    probabilities = attention_probabilities(query, key, scaling, mask)
    rows = [probabilities[b][:, question_mask[b]].mean(dim=1) for b in range(len(query))]  # each [Hq, S]
    return torch.stack(rows)


def retrieval_attention_mass(row: torch.Tensor, evidence_mask: torch.Tensor) -> torch.Tensor:
    """RAM: how much of a question token's attention lies on the evidence.

        RAM[b, h] = sum over j in evidence of row[b, h, j]

    Args:
        row: [B, Hq, S], question-averaged attention.
        evidence_mask: bool [B, S'], S' <= S; columns after S' hold no evidence.

    Returns:
        [B, Hq] in row's dtype, in [0, 1]; higher = reads the evidence more.

    Source: arXiv 2606.05843, eq. (1).
    """
    B, Hq, _ = row.shape
    ram = torch.zeros(B, Hq, dtype=row.dtype)
    for b in range(B):
        for h in range(Hq):
            ram[b, h] = sum(row[b, h, j] for j in range(evidence_mask.shape[1]) if evidence_mask[b, j])
    return ram


def key_token_ratio(row: torch.Tensor, evidence_mask: torch.Tensor, num_columns: int | torch.Tensor) -> torch.Tensor:
    """Key token ratio: the share of the evidence found among the columns a head looks at most.

        KTR[b, h] = |S_top & E| / |E|,  S_top = the k = ceil(0.05 * N) largest columns of row[b, h]

    Args:
        row: [B, Hq, S], question-averaged attention.
        evidence_mask: bool [B, S'], S' <= S, at least one True per sequence.
        num_columns: N, the columns that are not padding: one number, or int [B].

    Returns:
        float64 [B, Hq], in [0, 1]; a head that looks everywhere alike has 0.05 on average. Of equal columns
        the earlier one ranks first.

    Raises:
        ValueError: a sequence has no evidence.

    Source: arXiv 2606.05843, eq. (22) and (23).
    """
    B, Hq, S = row.shape
    ratio = torch.zeros(B, Hq, dtype=torch.float64)
    for b, N in enumerate(torch.as_tensor(num_columns).expand(B).tolist()):
        k = -(-N // 20)  # the ceiling in integers: 0.05 is not exact in binary
        evidence = {j for j in range(evidence_mask.shape[1]) if evidence_mask[b, j]}
        if not evidence:
            raise ValueError(
                f"the key token ratio of sequence {b} was asked for - its evidence_mask has no True - "
                "leave out examples without evidence."
            )
        for h in range(Hq):
            ranked = sorted(range(S), key=row[b, h].tolist().__getitem__, reverse=True)
            top = set(ranked[:k])
            ratio[b, h] = len(top & evidence) / len(evidence)
    return ratio
