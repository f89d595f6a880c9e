"""The one observation all measures start from: the question-averaged attention row of every head of one layer.

    row[b, h, j] = 1/|Q_b| * sum over i in Q_b of softmax_j(scaling * q_i . k_j + mask)

Computed for the question rows only, one kv head at a time; the T x S matrix is never built.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask

from corehead_hf.attention_call import AttentionCall, may_attend, rows_of_block_mask

MAX_LOGITS = 1 << 26  # at once: 256 MiB in float32; more question rows than fit are taken in parts


def question_row_sums(call: AttentionCall, question_mask: torch.Tensor) -> torch.Tensor:
    """Sum of the attention rows of the question tokens that stand in this call.

    Args:
        call: one layer's attention call; its rows stand at positions past_length .. past_length + T - 1.
        question_mask: bool [B, N] over absolute positions, on the CPU: row counts are read without a device sync.

    Returns:
        float32 [B, Hq, past_length + T]; the mean is this over the number of question tokens.

    Raises:
        ValueError: the call's mask is of a form that is not understood.

    Cost: O(|Q| * S * D) per head; peak extra memory a few times MAX_LOGITS floats, or of one row of one kv head's group
    where that is more, whatever T and |Q| are.
    """
    call = call.without_empty_slots()
    query, key = call.query, call.key
    batch, num_heads, _, head_dim = query.shape
    num_kv_heads, num_keys = key.shape[1], key.shape[2]
    group = num_heads // num_kv_heads
    first_key = call.end - num_keys  # > 0 where a sliding cache has dropped its oldest keys
    sums = query.new_zeros(batch, num_heads, call.end, dtype=torch.float32)
    rows, spare = _rows_in_call(call, question_mask)
    if rows.shape[1] == 0:
        return sums
    step = max(1, MAX_LOGITS // (batch * group * num_keys))
    for part, idle in zip(rows.to(query.device).split(step, 1), spare.to(query.device).split(step, 1), strict=True):
        visible = visible_keys(call, part)
        asked = query.gather(2, part[:, None, :, None].expand(batch, num_heads, -1, head_dim)).float()
        for kv_head in range(num_kv_heads):
            heads = slice(kv_head * group, (kv_head + 1) * group)
            # One matrix product per kv head with the rows of its whole group: no copy of the keys per query head.
            stacked = asked[:, heads].reshape(batch, -1, head_dim)
            logits = torch.matmul(stacked, key[:, kv_head].float().transpose(1, 2)) * call.scaling
            logits = logits.view(batch, group, -1, num_keys)
            probabilities = torch.softmax(apply_mask(logits, visible), dim=-1)
            # masked_fill, not a product: the spare row of a chunk that is all padding is NaN.
            sums[:, heads, first_key:] += probabilities.masked_fill(idle[:, None, :, None], 0.0).sum(dim=2)
    return sums


def apply_mask(logits: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Logits with what may not be attended at -inf; an additive mask's finite values are added."""
    if visible.dtype == torch.bool:
        return logits.masked_fill(~visible, float("-inf"))
    # Adding the lowest number is not enough: a row with nothing else left would attend what is hidden.
    return (logits + visible.float()).masked_fill(~may_attend(visible), float("-inf"))


def _rows_in_call(call: AttentionCall, question_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Local row indices [B, R] and bool [B, R], True = spare: a sequence has fewer rows than the longest."""
    span = question_mask[:, call.past_length : call.end]
    count = span.sum(dim=1)
    longest = int(count.max())
    # A stable sort brings each sequence's question rows to the front; spare slots point to its last row.
    order = torch.argsort(span.int(), dim=1, descending=True, stable=True)[:, : max(longest, 0)]
    spare = torch.arange(longest, device=span.device)[None] >= count[:, None]
    return torch.where(spare, call.num_queries - 1, order), spare


def visible_keys(call: AttentionCall, rows: torch.Tensor) -> torch.Tensor:
    """What some rows of a call may attend, from whatever mask the dense backend was given.

    Args:
        rows: int64 [B, R], local row indices in 0 .. T - 1, on the call's device.

    Returns:
        bool (True = may attend) or additive float, [B, 1, R, S].

    Raises:
        ValueError: a mask of a form that is not understood.
    """
    mask: Any = call.attention_mask
    num_keys, device = call.key.shape[2], call.query.device
    first_key = call.end - num_keys
    if isinstance(mask, BlockMask):
        return rows_of_block_mask(mask, rows, num_keys)
    if isinstance(mask, torch.Tensor) and mask.dim() == 4 and mask.shape[2] == call.num_queries:
        mask = mask[:, :1, :, :num_keys].expand(rows.shape[0], -1, -1, -1)
        return mask.gather(2, rows[:, None, :, None].expand(-1, 1, -1, mask.shape[-1]))
    position = rows + call.past_length
    column = torch.arange(num_keys, device=device) + first_key
    visible = column[None, None] <= position[..., None]  # [B, R, S]
    window = call.kwargs.get("sliding_window")
    if window is not None:
        visible &= column[None, None] > position[..., None] - window
    if isinstance(mask, torch.Tensor):
        visible = visible & _real_tokens(mask, num_keys)[:, None]
    elif mask is not None:
        raise ValueError(
            f"an attention mask of type {type(mask).__name__} was given; CoRe reads tensors. Use sdpa, eager or flash."
        )
    return visible[:, None]


def _real_tokens(mask: torch.Tensor, num_keys: int) -> torch.Tensor:
    """bool [B, S] from a 2-D padding mask or a padding row [B, 1, 1, S]."""
    if mask.dim() == 4 and mask.shape[2] == 1:
        mask = mask[:, 0, 0]
    if mask.dim() != 2 or mask.shape[1] < num_keys:
        raise ValueError(
            f"an attention mask of shape {tuple(mask.shape)} was given for {num_keys} keys; recording understands "
            "[B, S], [B, 1, T, S] and none."
        )
    return mask[:, :num_keys].bool()
