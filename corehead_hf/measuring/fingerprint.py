"""The fingerprint of a measuring run: everything its bits depend on besides the examples."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
import transformers

from corehead_hf._version import __version__
from corehead_hf.head_map.fields import model_shape

SAMPLES = 64  # values of every parameter that the weights' digest takes


class OtherConfiguration(ValueError):
    """What was kept depends on something else than what is asked for now."""


def package_versions() -> dict[str, str]:
    """Of the packages a head map names."""
    return {"corehead_hf": __version__, "torch": torch.__version__, "transformers": transformers.__version__}


def differences(kept: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Where two fingerprints differ, in words."""
    return [
        f"{name}: {kept.get(name)!r} there / {now.get(name)!r} now"
        for name in sorted({*kept, *now})
        if kept.get(name) != now.get(name)
    ]


def fingerprint(native: Any, processor: Any, device: torch.device, **settings: Any) -> dict[str, Any]:
    """What two runs must share to go into one folder, as JSON values by name.

    Args:
        native: the native model.
        device: where it computes.
        settings: of the run: data set, views, batch size, ...
    """
    config = native.config
    found = {
        **settings,
        **model_shape(config),
        "dtype": str(native.dtype),
        "attn_implementation": config.get_text_config()._attn_implementation,
        "weights": weights_digest(native),
        "processor": f"{type(processor).__name__} {_processor_digest(processor)}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "matmul_precision": torch.get_float32_matmul_precision(),
        **{f"version of {package}": str(version) for package, version in package_versions().items()},
    }
    if device.type == "cpu":
        found["threads"] = torch.get_num_threads()  # matrix products may be split, and so rounded, differently
    return found


def weights_digest(native: Any) -> str:
    """Hash of every parameter's name, shape and dtype and of a sample of its values; offloaded ones give no values."""
    digest = hashlib.sha256()
    for name, parameter in sorted(native.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        if parameter.device.type != "meta" and parameter.numel():
            values = parameter.detach().reshape(-1)
            sample = values[:: max(1, len(values) // SAMPLES)][:SAMPLES].cpu().contiguous()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _processor_digest(processor: Any) -> str:
    """Hash of how pictures are resized and normalised, and of the prompt's template."""
    parts = [getattr(processor, name, None) for name in ("image_processor", "video_processor")]
    settings = [None if part is None else part.to_dict() for part in parts]
    text = json.dumps([settings, getattr(processor, "chat_template", None)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
