"""What a study does to the model around each batch: some heads ablated, or only some dense."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from corehead_hf.analysis.answers import Under
from corehead_hf.families import Prepared
from corehead_hf.measuring.batch import input_device
from corehead_hf.patching import native_model


class Ablations:
    """Ablations of one model, with what each variant needs.

    Args:
        model: a CoRe-wrapped model.
        reference: batches over which the mean outputs of "mean" are taken, when they are first needed.
        sink_size, window_size: tokens a head keeps in "stream".
    """

    def __init__(self, model: Any, reference: Sequence[Prepared] | None, sink_size: int, window_size: int) -> None:
        self._model, self._reference = model, reference
        self._sizes = {"sink_size": sink_size, "window_size": window_size}

    def of(self, heads: torch.Tensor, variant: str) -> Under:
        """Ablating these heads, bool [L, Hq], in one of modes.ABLATION_VARIANTS."""

        def under(batch: Prepared) -> Any:
            options: dict[str, Any] = {}
            if variant == "mean":
                options = {"mean_output": self._mean_output}
            elif variant == "visual":
                options = {"visual_mask": batch.visual_mask}
            elif variant == "stream":
                options = self._sizes
            return self._model.ablate_heads(heads, variant, **options)

        return under

    @functools.cached_property
    def _mean_output(self) -> torch.Tensor:
        """float32 [L, Hq, D], over all real tokens of the reference."""
        native = native_model(self._model)
        batches = transformers_logging.tqdm(self._reference, desc="recording mean outputs", unit="batch")
        with self._model.record_outputs() as recording:
            for batch in batches:
                self._model.prefill(**batch.to(input_device(native), native.dtype).inputs)
        return recording.mean


@contextmanager
def hybrid(model: Any, heads: torch.Tensor, sink_size: int, window_size: int, **options: Any) -> Iterator[None]:
    """Hybrid prefill with these heads dense inside the block, at any length beyond the window unless options differ.

    Args:
        options: further ones of enable_hybrid; dense_below is 0 without.
    """
    model.enable_hybrid(heads=heads, sink_size=sink_size, window_size=window_size, **{"dense_below": 0, **options})
    try:
        yield
    finally:
        model.disable_hybrid()
