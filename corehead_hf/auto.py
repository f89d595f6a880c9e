"""AutoCoReModel: load a supported model, or take a live one, with CoRe-aware attention."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig
from transformers.utils import find_adapter_config_file, is_peft_available

from corehead_hf.attention import NAME
from corehead_hf.families import family_of_config
from corehead_hf.head_map import HeadMap
from corehead_hf.model import CoReModelMixin
from corehead_hf.patching import install_core

# Of the model's own arguments, those that serve a head map from the Hub as well.
_SHARED_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token")

# What AutoConfig needs to find the same repository the weights come from.
_HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
    "revision",
    "subfolder",
    "proxies",
    "trust_remote_code",
    "code_revision",
)


class AutoCoReModel:
    """Loads models as AutoModelForImageTextToText does; what it returns is the native class with CoRe's methods."""

    def __init__(self) -> None:
        raise OSError(
            "AutoCoReModel is not instantiated; call AutoCoReModel.from_pretrained(name) or .from_model(model)."
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        head_map: HeadMap | str | Path | None = None,
        head_map_revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model of a supported family and install CoRe.

        Args:
            pretrained_model_name_or_path: Hub id or folder, of a model or, with peft, of an adapter to one.
            head_map: a head map to load as well, read before the weights: a HeadMap, folder or Hub id, which may be the
                model's own; see CoReModelMixin.load_head_map. cache_dir, force_download, local_files_only and token
                serve it too; load_head_map(..., subfolder=) takes one from a subfolder.
            head_map_revision: branch, tag or commit of the map; None is that of the model where both are in one
                repository, else main.
            kwargs: everything AutoModelForImageTextToText.from_pretrained takes. `attn_implementation` names the dense
                backend, as always; `dtype` defaults to "auto" on every transformers version.

        Returns:
            The native model with the methods of CoReModelMixin; with output_loading_info=True a pair, as upstream.

        Raises:
            ValueError: the model type is not supported or the head map does not fit (before any weight is read), or
                attn_implementation names CoRe.
            HeadMapHubError: the head map cannot be had; an OSError whose subclasses say why.
        """
        config = kwargs.pop("config", None)
        if not isinstance(config, PretrainedConfig):
            source = pretrained_model_name_or_path if config is None else config
            config = _read_config(source, {k: kwargs[k] for k in _HUB_ARGUMENTS if k in kwargs})
        family_of_config(config)
        implementation = kwargs.get("attn_implementation")
        named = implementation.values() if isinstance(implementation, dict) else [implementation]
        if NAME in named:
            raise ValueError(
                f"attn_implementation={implementation!r} was asked; it names the dense backend that CoRe runs on "
                "(sdpa, eager, flash_attention_2, ...). CoRe itself is always installed."
            )
        head_map = _read_head_map(head_map, head_map_revision, pretrained_model_name_or_path, kwargs)
        if head_map is not None:
            head_map.check_fits(SimpleNamespace(config=config))
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", "auto")
        loaded = AutoModelForImageTextToText.from_pretrained(
            pretrained_model_name_or_path, *model_args, config=config, **kwargs
        )
        model = cls.from_model(loaded[0] if isinstance(loaded, tuple) else loaded, head_map=head_map)
        return (model, *loaded[1:]) if isinstance(loaded, tuple) else model

    @classmethod
    def from_model(cls, model: Any, *, head_map: HeadMap | str | Path | None = None) -> Any:
        """Install CoRe in a live model, in place: one loaded with PEFT, quantised, or dispatched over devices.

        Returns:
            The same object.

        Raises:
            ValueError: the model's family is not supported, or the head map does not fit.
            HeadMapHubError: the head map cannot be had.
            RuntimeError: CoRe is already installed.
        """
        install_core(model, CoReModelMixin)
        if head_map is not None:
            try:
                model.load_head_map(head_map)
            except Exception:
                model.uninstall_core()
                raise
        return model


def _read_config(source: str | Path, hub: dict[str, Any]) -> PretrainedConfig:
    """The configuration of a model; of an adapter's folder or repository, that of its base model, as upstream."""
    try:
        return AutoConfig.from_pretrained(source, **hub)
    except (OSError, ValueError):
        known = {name: value for name, value in hub.items() if name not in ("trust_remote_code", "code_revision")}
        adapter = None
        with contextlib.suppress(OSError, ValueError):  # no such repository: the first error says so
            adapter = find_adapter_config_file(str(source), **known) if is_peft_available() else None
        if adapter is None:
            raise
    base = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]
    return AutoConfig.from_pretrained(base, **hub)


def _read_head_map(
    head_map: HeadMap | str | Path | None, revision: str | None, model: str | Path, kwargs: dict[str, Any]
) -> HeadMap | None:
    """The map that from_pretrained is asked for, with the arguments that it shares with the model."""
    if head_map is None or isinstance(head_map, HeadMap):
        if revision is not None:
            raise ValueError(f"head_map_revision={revision!r} was given without a Hub id as head_map. Leave it out.")
        return head_map
    if revision is None and str(head_map) == str(model) and not Path(head_map).is_dir():
        revision = kwargs.get("revision")
    shared = {name: kwargs[name] for name in _SHARED_ARGUMENTS if kwargs.get(name) is not None}
    return HeadMap.from_pretrained(head_map, revision=revision, **shared)
