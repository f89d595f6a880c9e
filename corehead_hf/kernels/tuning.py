"""What `corehead autotune` measured on this machine: kept beside the Hub's cache, read by tiles.py and cost.py."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import constants

logger = logging.getLogger(__name__)
Measured = TypeVar("Measured")


def file() -> Path:
    """Where the measurements are kept; delete it to forget them."""
    # the place cached_assets_path would give, which makes the folder: on a read-only disk even looking would fail
    return Path(constants.HF_ASSETS_CACHE) / "corehead_hf" / "kernels" / "autotune" / "measured.json"


def machine(device: torch.device | str) -> str:
    """The name a device's measurements are filed under.

    With Triton's version: a tile that one version compiles rightly the next may compile wrongly.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return device.type
    name = torch.cuda.get_device_name(device)
    if importlib.util.find_spec("triton") is None:
        return name
    import triton

    return f"{name}, triton {triton.__version__}"


def dtype_name(dtype: torch.dtype) -> str:
    """How a dtype is filed, e.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def entry(device: torch.device | str) -> dict[str, Any]:
    """All that is known of a device: {"tiles": {"bfloat16 128": {...}}, "rates": {"bfloat16": {...}}}, or {}."""
    return _read().get(machine(device), {})


def stored(device: torch.device | str, kind: str, key: str, form: type[Measured]) -> Measured | None:
    """One measurement of a device, or None; one that another version of this package wrote may not fit any more.

    Args:
        device: where it was made.
        kind: "tiles" or "rates".
        key: such as "bfloat16 128" or "bfloat16".
        form: the dataclass to build from it.
    """
    try:
        fields = entry(device).get(kind, {}).get(key)
        return None if fields is None else form(**fields)
    except (AttributeError, TypeError) as error:
        logger.warning(
            "%s holds no valid %s for %r (%s): the built-in table is used. Delete it or run `corehead autotune` again.",
            file(), kind, key, error,
        )  # fmt: skip
        return None


def save(device: torch.device | str, measured: dict[str, Any]) -> Path:
    """Add measurements of a device to what is known of it, and use them from now on in this process too.

    Args:
        device: where they were made.
        measured: as `entry` returns it; keys that are there already are replaced.

    Returns:
        The file.
    """
    forget()  # another process may have added to the file
    known = copy.deepcopy(_read())
    mine = known.setdefault(machine(device), {})
    for kind, values in measured.items():
        mine[kind] = {**mine.get(kind, {}), **values}
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(f".{os.getpid()}")
    written.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    written.replace(path)  # at once: who reads it meanwhile finds it whole
    forget()
    return path


def forget() -> None:
    """Read the file again at the next use."""
    from corehead_hf.kernels import cost, tiles

    _read.cache_clear()
    tiles.candidates.cache_clear()
    cost.rates_of.cache_clear()


@functools.lru_cache(maxsize=1)
def _read() -> dict[str, Any]:
    path = file()
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(known, dict):
            raise ValueError(f"a JSON object was expected, not {type(known).__name__}")
        return known
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): the built-in tables are used. Delete it or tune again.", path, error)
        return {}
