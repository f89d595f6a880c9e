"""Decoded tokens as cases: each provider after its own prefill, from a cache that is cut back before every call."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.backbone import prefill
from benchmarks.harness import Case
from benchmarks.roofline import decode_flops
from benchmarks.shapes import Shape

PROVIDERS = ("dense", "dense_cudnn", "dense_flash", "hybrid", "hybrid_fuse")


@dataclasses.dataclass(eq=False)
class Decoder:
    """Decodes the tokens of ids [1, n + tokens] that come after the first n, one at a time."""

    model: Any
    ids: torch.Tensor
    tokens: int
    provider: Callable[[], contextlib.AbstractContextManager[Any]]
    cache: Any = None

    @property
    def n(self) -> int:
        return self.ids.shape[1] - self.tokens

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        with self.provider():
            if self.cache is None:
                self.cache = self._forward(0, self.n).past_key_values
            added = self.cache.get_seq_length() - self.n
            if added:
                self.cache.crop(-added)
            yield

    def __call__(self) -> torch.Tensor:
        for position in range(self.n, self.ids.shape[1]):
            logits = self._forward(position, position + 1).logits
        return logits

    def _forward(self, begin: int, end: int) -> Any:
        return prefill(self.model, self.ids[:, begin:end], self.cache)


def decode_cases(model: Any, shape: Shape, ids: torch.Tensor, tokens: int, cases: Sequence[Case]) -> list[Case]:
    """Of the prefill's cases, one per provider, since each holds a cache; the time is that of one token."""
    found: dict[str, Case] = {}
    for case in cases:
        if case.provider in PROVIDERS and case.provider not in found:
            decoder = Decoder(model, ids, tokens, case.around)
            flops = decode_flops(shape, decoder.n)
            found[case.provider] = dataclasses.replace(
                case, call=decoder, around=decoder.on, flops=flops, tokens=tokens
            )
    return list(found.values())
