"""Seconds of text prefills that take turns; one that runs out of memory leaves the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache

from corehead_hf.analysis.interventions import hybrid
from corehead_hf.kernels.dense import fastest_dense
from corehead_hf.kernels.trial import WARM_UPS, milliseconds
from corehead_hf.measuring.attempts import is_out_of_memory

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = -1.0  # in place of seconds: a journal keeps finite numbers


@dataclass(frozen=True, eq=False)
class Case:
    """A prefill that takes its turns.

    Attributes:
        keep: the share of dense heads that was asked for.
        count: of dense heads.
        settings: of enable_hybrid; None of the model as it came.
    """

    keep: float
    count: int
    settings: dict[str, Any] | None = None

    def on(self, model: Any) -> AbstractContextManager[None]:
        """Hybrid prefill with these settings inside the block, if any."""
        return nullcontext() if self.settings is None else hybrid(model, **self.settings)

    def __str__(self) -> str:
        return "dense prefill" if self.settings is None else f"hybrid prefill with {self.count} dense heads"


def random_ids(native: Any, length: int, seed: int) -> torch.Tensor:
    """Token ids int64 [1, length], drawn uniformly from the vocabulary without those that the configuration names."""
    config, text = native.config, native.config.get_text_config()
    named = [*text.to_dict().items(), *config.to_dict().items()]
    special = [value for name, value in named if name.endswith(("token_id", "token_index")) and isinstance(value, int)]
    ids = torch.arange(text.vocab_size)
    ids = ids[~torch.isin(ids, torch.tensor(special, dtype=torch.int64))]
    return ids[torch.randint(len(ids), (1, length), generator=torch.Generator().manual_seed(seed))]


def seconds_in_turns(
    model: Any, ids: torch.Tensor, cases: Sequence[Case], repeats: int, progress: Any = None
) -> np.ndarray:
    """Seconds of prefills that take turns, in alternating order, after two warm-up rounds.

    The model is called as generate() calls it: the KV cache is written, logits are those of the last token. What the
    host needs to start a prefill is part of it; switching hybrid prefill on is not.

    Args:
        model: a CoRe-wrapped model with no mode on.
        ids: int64 [1, T], where the model wants them.
        cases: what takes turns.
        repeats: timed rounds.
        progress: a bar of prefills.

    Returns:
        float64 [cases, repeats]; OUT_OF_MEMORY throughout a case that ran out of memory, in a warm-up round or later.
    """
    seconds = np.empty((len(cases), WARM_UPS + repeats))
    lost: set[int] = set()
    with fastest_dense(ids.device):
        for turn in range(seconds.shape[1]):
            for number in range(len(cases))[:: -1 if turn % 2 else 1]:
                took = None if number in lost else _seconds(model, ids, cases[number])
                if took is None:
                    lost.add(number)
                else:
                    seconds[number, turn] = took
                if progress is not None:
                    progress.update()
    seconds[list(lost)] = OUT_OF_MEMORY
    return seconds[:, WARM_UPS:]


def _seconds(model: Any, ids: torch.Tensor, case: Case) -> float | None:
    """Of one prefill; None where it ran out of memory."""
    try:
        with case.on(model):
            return milliseconds(lambda: _prefill(model, ids), ids.device) / 1e3
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
    # Only here, where the error no longer holds the frames of the failed prefill and their tensors.
    clear_device_cache(garbage_collection=True)
    logger.warning("%s of %d tokens is left out, it ran out of memory: %s", case, ids.shape[1], reason)
    return None


@torch.no_grad()
def _prefill(model: Any, ids: torch.Tensor) -> Any:
    return model(input_ids=ids, use_cache=True, logits_to_keep=1)
