"""The words of the seam: one layer's attention call, a mode that answers it, the state that holds the modes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch.nn.attention.flex_attention import BlockMask, create_mask

# Output [B, T, Hq, D], and the attention weights where the backend has them.
Answer = tuple[torch.Tensor, "torch.Tensor | None"]
Attend = Callable[["AttentionCall"], Answer]


def may_attend(mask: torch.Tensor) -> torch.Tensor:
    """A mask as bool, True = may be attended: additive ones hide with the lowest number of their dtype."""
    return mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask.bool()


def leading_padding(real: torch.Tensor) -> torch.Tensor:
    """int64 [B], the False at the beginning of each row of bool [B, S]: all S of them where nothing is real yet."""
    return (real.cumsum(dim=1) == 0).sum(dim=1)


def refuse_packed(kwargs: dict[str, Any], what: str) -> None:
    """Raise where a call's keyword arguments say that one row of its batch holds several sequences."""
    if kwargs.get("cache") is not None or kwargs.get("cu_seq_lens_q") is not None:
        raise ValueError(
            f"{what} was asked in a packed or continuous-batching call; it needs one sequence per batch row. "
            "Run a padded batch with generate() or forward() instead."
        )


def rows_of_block_mask(mask: BlockMask, rows: torch.Tensor, num_keys: int) -> torch.Tensor:
    """bool [B, 1, R, S]: what some rows may attend, int64 [B, R], asked of the rule that a BlockMask was built from.

    Raises:
        ValueError: the mask differs between heads.
    """
    if mask.shape[1] != 1:
        raise ValueError(
            f"a BlockMask of shape {tuple(mask.shape)} was given; CoRe reads one mask for all heads. "
            "Build it with H=None, or use sdpa."
        )

    def rule(b: torch.Tensor, h: torch.Tensor, row: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return mask.mask_mod(b, h, rows[b, row], key)

    return create_mask(rule, len(rows), 1, rows.shape[1], num_keys, str(rows.device))


class Mode(Protocol):
    """Something that watches or changes the attention of a model while it is on.

    `order` sorts the modes that are on at the same time: a mode's `attend` wraps those of a higher order.
    """

    order: ClassVar[int]

    def attend(self, call: AttentionCall, inner: Attend) -> Answer:
        """Answer one layer's call: (output [B, T, Hq, D], weights or None). `inner(call)` is what would run."""
        ...


@dataclass
class CoReState:
    """What one model's CoRe-aware modules share: the modes that are on, outermost first. Never in the state dict."""

    modes: list[Mode] = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, Any]) -> CoReState:
        # PEFT's modules_to_save copies an attention module alone: it still belongs to its model (patching copies both).
        return self

    def add(self, mode: Mode) -> None:
        self.modes = sorted([*self.modes, mode], key=lambda m: m.order)

    def remove(self, mode: Mode) -> None:
        self.modes = [m for m in self.modes if m is not mode]


@dataclass
class AttentionCall:
    """One layer's call into the attention interface, after RoPE, q/k norm and the cache update.

    Attributes:
        module: the CoRe-aware attention module.
        query: [B, Hq, T, D]; its first row stands at absolute position `past_length`.
        key, value: [B, Hkv, S, D], S = past_length + T: empty slots of a static cache are cut off.
        attention_mask: as the user's dense backend gets it: None, bool or additive [B, 1, T or 1, S], bool [B, S],
            FlexAttention's BlockMask.
        past: tokens in the cache before this call. A static cache counts them on the device, int64 []: what does not
            read past_length, such as a decoded token, does not wait for it there and does not break a compiled graph.
        kwargs: the rest of the call: scaling, dropout, sliding_window, ...
    """

    module: Any
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attention_mask: Any
    past: int | torch.Tensor
    kwargs: dict[str, Any]

    @property
    def layer(self) -> int:
        return self.module.layer_idx

    @property
    def scaling(self) -> float:
        return self.kwargs["scaling"]

    @property
    def implementation(self) -> str:
        """The user's dense backend, read live: "sdpa", "eager", "flash_attention_2", ..."""
        return self.module.config._attn_implementation

    @property
    def num_queries(self) -> int:
        return self.query.shape[2]

    @property
    def past_length(self) -> int:
        """Tokens in the cache before this call."""
        if isinstance(self.past, torch.Tensor):
            self.past = int(self.past)
        return self.past

    @property
    def end(self) -> int:
        """Absolute position after the last query row: T + past_length."""
        return self.past_length + self.num_queries

    def real_tokens(self) -> torch.Tensor | None:
        """bool [B, past_length + T], False = padding, as the last query row sees it; None where there is no mask."""
        mask = self.attention_mask
        if mask is None:
            return None
        if isinstance(mask, BlockMask):
            last_row = torch.full((self.query.shape[0], 1), self.num_queries - 1, device=self.query.device)
            return rows_of_block_mask(mask, last_row, self.end)[:, 0, 0]
        if not isinstance(mask, torch.Tensor) or mask.dim() not in (2, 4):
            raise ValueError(
                f"padding cannot be read from a mask of type {type(mask).__name__}; "
                "use the sdpa, eager or flash backend."
            )
        return may_attend(mask[:, : self.end] if mask.dim() == 2 else mask[:, 0, -1, : self.end])

    def first_token(self) -> torch.Tensor | None:
        """Left padding of each sequence, int64 [B] = index of its first real token; None where there is no mask."""
        real = self.real_tokens()
        return None if real is None else leading_padding(real)

    def refuse_packed(self, what: str) -> None:
        """Raise where one row of the batch holds several sequences: positions then mean nothing to a mode."""
        refuse_packed(self.kwargs, what)
        if self._begins_twice():
            raise ValueError(
                f"{what} was asked for packed sequences (position_ids begin again inside a row, no attention_mask); it "
                "needs one sequence per batch row. Pad the batch instead."
            )

    def refuse_dropout(self, what: str) -> None:
        """Raise in training with attention dropout, which nothing of ours that stands in for a backend has."""
        if self.kwargs.get("dropout"):
            raise ValueError(
                f"{what} was asked with attention_dropout={self.kwargs['dropout']} in training; it has no dropout. Set "
                "attention_dropout = 0 in the text model's configuration before loading, or turn the mode off."
            )

    def _begins_twice(self) -> bool:
        """Whether a flash backend tells sequences of one row apart, by the rule of transformers' flash utilities."""
        positions = self.kwargs.get("position_ids")
        if self.attention_mask is not None or "flash" not in self.implementation:
            return False  # elsewhere the mask tells them apart
        if not isinstance(positions, torch.Tensor) or positions.dim() != 2 or len(positions) != 1:
            return False
        return self.num_queries > 1 and int((positions == positions.min()).sum()) > 1

    def without_empty_slots(self) -> AttentionCall:
        """The call with the keys of a static cache cut to the tokens that exist."""
        if self.key.shape[2] <= self.end:
            return self
        mask = self.attention_mask
        if isinstance(mask, torch.Tensor):
            mask = mask[..., : self.end]
        key, value = self.key[:, :, : self.end], self.value[:, :, : self.end]
        return dataclasses.replace(self, past=self.past_length, key=key, value=value, attention_mask=mask)
