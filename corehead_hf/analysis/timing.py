"""Seconds of whole prefills, dense and hybrid in turns."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from corehead_hf.analysis.interventions import hybrid
from corehead_hf.families import Prepared
from corehead_hf.kernels.trial import WARM_UPS, milliseconds
from corehead_hf.measuring.batch import input_device
from corehead_hf.patching import native_model


@dataclass(frozen=True)
class Quantiles:
    """The 20 %, 50 % and 80 % quantiles over rounds of timing."""

    p20: float
    p50: float
    p80: float


def quantiles(values: np.ndarray) -> Quantiles:
    """Of values [rounds]; linear between them."""
    return Quantiles(*np.quantile(values, (0.2, 0.5, 0.8)).tolist())


def prefill_seconds(
    model: Any, batch: Prepared, dense: Sequence[torch.Tensor], sizes: dict[str, int], repeats: int
) -> np.ndarray:
    """Seconds of the dense prefill and of hybrid ones that take turns, in alternating order, after two warm-up rounds.

    What the host needs to start a prefill is part of it; switching hybrid prefill on is not.

    Args:
        model: a CoRe-wrapped model with no mode on.
        batch: what is prefilled.
        dense: the heads that stay dense, bool [L, Hq], one per hybrid prefill.
        sizes: sink_size and window_size.
        repeats: timed rounds.

    Returns:
        float64 [repeats, 1 + len(dense)], the dense prefill first.
    """
    native = native_model(model)
    device = input_device(native)
    inputs = batch.to(device, native.dtype).inputs
    rounds = np.empty((WARM_UPS + repeats, 1 + len(dense)))
    with transformers_logging.tqdm(total=rounds.size, desc="timing prefills", unit="prefill") as progress:
        for number, seconds in enumerate(rounds):
            for turn in range(len(seconds))[:: -1 if number % 2 else 1]:
                on: AbstractContextManager[None] = nullcontext()
                if turn:
                    on = hybrid(model, dense[turn - 1], **sizes)
                with on:
                    seconds[turn] = milliseconds(lambda: model.prefill(**inputs), device) / 1e3
                progress.update()
    return rounds[WARM_UPS:]
