"""What a CoRe-wrapped model can do: record, ablate, hybrid prefill, head map. Nothing else about the model changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from corehead_hf.attention import refuse_split_heads
from corehead_hf.attention_call import CoReState, Mode
from corehead_hf.fusion import install_fusion, is_fused, uninstall_fusion
from corehead_hf.head_map import HeadMap
from corehead_hf.head_map.fields import model_shape
from corehead_hf.kernels import check_sizes, resolve_backend
from corehead_hf.kernels.cost import rates_of
from corehead_hf.modes import AblateHeads, HybridPrefill, RecordAttention, RecordOutputs
from corehead_hf.patching import native_model, uninstall_core

logger = logging.getLogger(__name__)

Heads = torch.Tensor | Iterable[tuple[int, int]]


class CoReModelMixin:
    """Methods added to a native model by AutoCoReModel; isinstance with the native class still holds.

    A context manager turns its mode on for the block, also when the block raises; they nest. Modes act on every
    thread that runs this model.
    """

    core_state: CoReState

    @property
    def head_map(self) -> HeadMap | None:
        """The head map in use, or None."""
        return self.__dict__.get("core_head_map")

    def load_head_map(
        self,
        source: HeadMap | str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> HeadMap:
        """Take a head map: a HeadMap, or the folder or Hub id of one. It changes no code and loads no model.

        Args:
            source: a string that is an existing folder is one, else a Hub id; the rest as in HeadMap.from_pretrained.

        Raises:
            ValueError: the map was made for another architecture, its files are broken (HeadMapFormatError), or
                revision or subfolder was given with a HeadMap.
            HeadMapHubError: it cannot be had; an OSError whose subclasses say why.
        """
        if not isinstance(source, HeadMap):
            head_map = HeadMap.from_pretrained(
                source,
                revision=revision,
                subfolder=subfolder,
                cache_dir=cache_dir,
                token=token,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        elif revision is not None or subfolder is not None:
            raise ValueError(
                f"revision={revision!r} and subfolder={subfolder!r} were given with a HeadMap; they go with a folder "
                "or Hub id. Leave them out."
            )
        else:
            head_map = source
        head_map.check_fits(native_model(self))
        self.__dict__["core_head_map"] = head_map
        return head_map

    def enable_hybrid(
        self,
        keep: float | int | None = None,
        *,
        heads: Heads | None = None,
        sink_size: int = 128,
        window_size: int = 2048,
        chunked: bool = False,
        backend: str = "auto",
        dense_below: int | Literal["auto"] = "auto",
        fuse: bool = False,
    ) -> None:
        """Prefill with few dense heads from now on, until disable_hybrid(); called again, it replaces the settings.

        Prompts of at most window_size tokens run native dense attention, where nothing would differ, and so do, with
        dense_below="auto", layers in which hybrid attention is not estimated to be faster on this machine.

        Args:
            keep: the dense heads as a share in (0, 1] of all heads or as a count: the top ones of the loaded head map.
            heads: instead of keep, the dense heads themselves: bool [L, Hq] or (layer, head) pairs.
            sink_size, window_size: tokens a streaming head sees; the window includes the query itself.
            chunked: also treat T > 1 calls on a filled cache as prefill (chunked prefill, a second turn). Leave it off
                with speculative decoding, whose verification steps look the same.
            backend: of kernels.hybrid_attention; "auto" takes the fastest for the device.
            dense_below: calls with fewer key tokens run plain dense attention. "auto" decides layer by layer from the
                length and the layer's dense heads (kernels.cost; `corehead autotune` measures the rates it uses) and
                says so once. 0 streams at any length beyond the window: for studies, and for small models.
            fuse: also run norms, rotary positions and SiLU as fused kernels, and the last layer for the last token
                only where no more is asked for: the same to rounding, in dense prefill and decode as well. Hooks
                on the last layer and the final norm see that token alone. Without Triton (a CPU) only norms and the
                last layer change. Not where gradients are needed.

        Raises:
            ValueError: keep without a head map, keep and heads both or neither, a value out of range, an unknown
                backend, or a model with natively sliding layers.
            RuntimeError: tensor parallelism splits the model's heads over devices.
        """
        refuse_split_heads(native_model(self))
        if (keep is None) == (heads is None):
            raise ValueError(f"enable_hybrid takes keep or heads, one of them; got keep={keep!r} and heads={heads!r}.")
        if keep is not None:
            if self.head_map is None:
                raise ValueError(
                    f"enable_hybrid(keep={keep!r}) needs a head map and none is loaded; call load_head_map(...) first, "
                    "measure one with corehead_hf.measure(...), or pass heads=."
                )
            dense = self.head_map.top(keep)
        else:
            assert heads is not None
            dense = self._as_heads(heads)
        check_sizes(sink_size, window_size)
        if dense_below != "auto" and (not isinstance(dense_below, int) or dense_below < 0):
            raise ValueError(f'dense_below={dense_below!r} was given; it is a number of tokens from 0, or "auto".')
        layer_types = getattr(self._text_config(), "layer_types", None) or []
        if "sliding_attention" in layer_types:
            raise ValueError(
                "hybrid prefill is for models whose layers all attend fully; this one has "
                f"{layer_types.count('sliding_attention')} natively sliding layers."
            )
        native = native_model(self)
        resolved = resolve_backend(backend, native.device)
        rates = rates_of(native.device, native.dtype)
        head_dim = model_shape(native.config)["head_dim"]
        self.disable_hybrid()
        if fuse:
            install_fusion(native)
        mode = HybridPrefill(dense, sink_size, window_size, chunked, resolved, dense_below, rates, head_dim)
        self.core_state.add(mode)
        logger.info("hybrid prefill: %d of %d heads dense, backend %s", int(dense.sum()), dense.numel(), resolved)

    def disable_hybrid(self) -> None:
        """Back to native prefill and native kernels; nothing happens where hybrid prefill is off."""
        if is_fused(native_model(self)):
            uninstall_fusion(native_model(self))
        for mode in [m for m in self.core_state.modes if isinstance(m, HybridPrefill)]:
            self.core_state.remove(mode)

    @property
    def hybrid(self) -> HybridPrefill | None:
        """The settings of the hybrid prefill in force, or None."""
        return next((m for m in self.core_state.modes if isinstance(m, HybridPrefill)), None)

    @property
    def hybrid_backend(self) -> str | None:
        """The kernel backend hybrid prefill runs on, or None while it is off."""
        return None if self.hybrid is None else self.hybrid.backend

    @contextmanager
    def ablate_heads(self, heads: Heads, variant: str = "zero", **options: Any) -> Iterator[AblateHeads]:
        """Ablate heads inside the block, in prefill and decode.

        Args:
            heads: bool [L, Hq] or (layer, head) pairs.
            variant: "zero", "mean", "visual" or "stream"; see modes.AblateHeads for what each needs in options.
        """
        with self._turned_on(AblateHeads(self._as_heads(heads), variant, **options)) as mode:
            yield mode

    @contextmanager
    def record_attention(
        self, question_mask: torch.Tensor, evidence_mask: torch.Tensor, **options: Any
    ) -> Iterator[RecordAttention]:
        """Record the attention of the question rows during one prefill inside the block.

        Args:
            question_mask: bool [B, T], the rows that are averaged.
            evidence_mask: bool [B, T], the columns that hold the evidence.
            options: visual_mask, measure_key_tokens, keep_rows of modes.RecordAttention.

        Yields:
            The recording; read .ram and the other results after the prefill.
        """
        with self._turned_on(RecordAttention(question_mask, evidence_mask, **options)) as mode:
            yield mode

    @contextmanager
    def record_outputs(self) -> Iterator[RecordOutputs]:
        """Record every head's mean output inside the block, for ablate_heads(variant="mean")."""
        with self._turned_on(RecordOutputs()) as mode:
            yield mode

    @torch.no_grad()
    def prefill(self, **inputs: Any) -> Any:
        """One forward of the backbone without vocabulary logits; takes what forward takes, no cache unless asked."""
        return native_model(self).model(**{"use_cache": False, **inputs})

    def uninstall_core(self) -> None:
        """Give the model back exactly as it came; turns every mode off."""
        self.disable_hybrid()
        uninstall_core(self)

    @contextmanager
    def _turned_on(self, mode: Any) -> Iterator[Any]:
        known: Mode = mode
        refuse_split_heads(native_model(self))
        state = self.core_state  # the block may take CoRe out
        state.add(known)
        try:
            yield mode
        finally:
            state.remove(known)

    def _text_config(self) -> Any:
        return native_model(self).config.get_text_config()

    def _as_heads(self, heads: Heads) -> torch.Tensor:
        config = self._text_config()
        shape = (config.num_hidden_layers, config.num_attention_heads)
        if not isinstance(heads, torch.Tensor):
            mask = torch.zeros(shape, dtype=torch.bool, device="cpu")  # whatever the default device is
            for pair in heads:
                layer, head = (int(index) for index in pair)
                if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
                    raise ValueError(
                        f"head ({layer}, {head}) was asked; the model has {shape[0]} layers x {shape[1]} heads."
                    )
                mask[layer, head] = True
            return mask
        if tuple(heads.shape) != shape or heads.dtype != torch.bool:
            raise ValueError(
                f"heads is {heads.dtype} {list(heads.shape)}; it must be torch.bool {list(shape)} (layers, heads)."
            )
        return heads.cpu()
