"""The supported model families: one table, one lookup that refuses clearly."""

from __future__ import annotations

from typing import Any

from torch import nn

from corehead_hf.families.family import Family, Prepared, inputs_to
from corehead_hf.families.geometry import Geometry
from corehead_hf.families.internvl import InternVL
from corehead_hf.families.llava_onevision import LlavaOnevision
from corehead_hf.families.qwen3_vl import Qwen3VL, Qwen3VLMoe

__all__ = ["FAMILIES", "Family", "Geometry", "Prepared", "family_of", "family_of_config", "inputs_to"]

FAMILIES: dict[str, Family] = {f.model_type: f for f in (Qwen3VL(), Qwen3VLMoe(), LlavaOnevision(), InternVL())}


def family_of_config(config: Any) -> Family:
    """The family of a model configuration.

    Raises:
        ValueError: the model type or its text tower is not supported; the message lists what is.
    """
    supported = "; ".join(f"{f.model_type} (text tower {', '.join(f.text_model_types)})" for f in FAMILIES.values())
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(f"model type {config.model_type!r} is not supported; supported: {supported}.")
    text_type = config.get_text_config().model_type
    if text_type not in family.text_model_types:
        raise ValueError(f"{config.model_type} with text tower {text_type!r} is not supported; supported: {supported}.")
    return family


def family_of(model: nn.Module) -> Family:
    """The family of a live native model; raises as family_of_config does."""
    config = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        raise ValueError(
            f"a transformers model was expected, got {type(model).__name__} without a configuration. "
            "Pass a model loaded with AutoModelForImageTextToText."
        )
    return family_of_config(config)
