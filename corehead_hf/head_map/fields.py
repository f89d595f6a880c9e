"""The fields of a head map: which values are valid.

Nothing here reads or writes a file; that is format.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corehead_hf.head_map.sums import MAX_EXAMPLES, RamSums

# Far above any model; they keep every valid map within the file sizes that format.py reads.
_INT_LIMITS = {
    "num_layers": 1024,
    "num_heads": 1024,
    "num_kv_heads": 1024,
    "head_dim": 65536,
    "num_examples": 10**12,
}
# 8 times the largest model of today; keeps a stranger's map within 1 s and 100 MB.
_MAX_HEADS = 1 << 17
_TEXTS = ("base_model_name_or_path", "model_type", "dataset", "question_rule", "view_rule")
_REQUIRED_VERSIONS = {"torch", "transformers", "corehead_hf"}
_MAX_VERSIONS = 32
_MAX_CHECKS = 1000
_MAX_PARTS = 64


def check_provenance(fields: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for provenance of a wrong type, out of range, or contradictory."""
    for name, limit in _INT_LIMITS.items():
        if type(fields[name]) is not int:
            raise TypeError(f"{name}={fields[name]!r:.60} was given - it is not an int - pass one in 1..{limit}.")
        if not 1 <= fields[name] <= limit:
            raise ValueError(f"{name}={fields[name]} was given - out of range - pass one in 1..{limit}.")
    heads = fields["num_layers"] * fields["num_heads"]
    if heads > _MAX_HEADS:
        raise ValueError(
            f"num_layers={fields['num_layers']} x num_heads={fields['num_heads']} was given - {heads} heads are more "
            f"than a map may have - pass the model's own numbers, {_MAX_HEADS} in all at most."
        )
    if fields["num_heads"] % fields["num_kv_heads"]:
        raise ValueError(
            f"num_kv_heads={fields['num_kv_heads']} was given - it does not divide num_heads="
            f"{fields['num_heads']} - pass the model's own numbers."
        )
    for name in _TEXTS:
        _check_text(name, fields[name])
    revision = fields["base_model_revision"]
    if revision is not None and not (isinstance(revision, str) and re.fullmatch("[0-9a-f]{40}", revision)):
        raise ValueError(
            f"base_model_revision={revision!r:.60} was given - that is no commit; branches and tags move - "
            f"pass 40 lower-case hex digits, or None for a local model."
        )
    versions = fields["versions"]
    if not isinstance(versions, Mapping):
        raise TypeError(f"versions={versions!r:.60} was given - it is no mapping - pass a dict of str to str.")
    if not _REQUIRED_VERSIONS <= set(versions) or len(versions) > _MAX_VERSIONS:
        raise ValueError(
            f"versions of {str(list(versions)):.100} were given - at least {sorted(_REQUIRED_VERSIONS)} are "
            f"needed, and at most {_MAX_VERSIONS} kept - pass these."
        )
    for package, version in versions.items():
        _check_text("a key of versions", package, limit=100)
        _check_text(f"versions[{package!r:.60}]", version, limit=100)


def check_optional(fields: Mapping[str, Any]) -> dict[str, Any]:
    """convergence and parts as tuples of plain values, where they are kept; the others are only checked.

    Raises:
        TypeError, ValueError: a wrong type, out of range, or contradictory.
    """
    limit = _INT_LIMITS["num_examples"]
    skipped = fields["num_skipped"]
    if skipped is not None and (type(skipped) is not int or not 0 <= skipped <= limit):
        raise ValueError(f"num_skipped={skipped!r:.60} was given - it is no int in 0..{limit} - pass the count.")
    if fields["score_rule"] is not None:
        _check_text("score_rule", fields["score_rule"])
        if fields["sums"] is not None:
            rule = f"score_rule={fields['score_rule']!r:.60} was given with sums"
            raise ValueError(f"{rule} - sums are of RAM, which has no score_rule - leave one of them out.")
    checked: dict[str, Any] = {}
    if fields["convergence"] is not None:
        checked["convergence"] = tuple(_checks(fields["convergence"], fields["num_examples"]))
    if fields["parts"] is not None:
        parts = checked["parts"] = tuple(_part(part) for part in _entries("parts", fields["parts"], _MAX_PARTS))
        total = sum(part["num_examples"] for part in parts)
        if total != fields["num_examples"]:
            raise ValueError(
                f"parts of {total} examples were given - the map has num_examples={fields['num_examples']} - pass the "
                "parts it was merged from."
            )
    return checked


def _entries(name: str, value: Any, limit: int) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > limit:
        raise ValueError(f"{name}={value!r:.60} was given - it is no list of at most {limit} entries - pass one.")
    return value


def _checks(value: Any, num_examples: int) -> list[tuple[int, float]]:
    curve: list[tuple[int, float]] = []
    for entry in _entries("convergence", value, _MAX_CHECKS):
        count, rho = entry if isinstance(entry, (list, tuple)) and len(entry) == 2 else (0, None)
        rises = type(count) is int and (curve[-1][0] if curve else 0) < count <= num_examples
        if not rises or not isinstance(rho, (int, float)) or isinstance(rho, bool) or not -1 <= rho <= 1:
            raise ValueError(
                f"convergence with {entry!r:.60} was given - entries are (examples, rho), examples rising in "
                f"1..{num_examples} and rho in [-1, 1] - pass the curve of a measuring run."
            )
        curve.append((count, float(rho)))
    return curve


def _part(value: Any) -> dict[str, Any]:
    keys = ("dataset", "num_examples", "num_skipped")
    if not isinstance(value, Mapping) or set(value) != set(keys):
        raise ValueError(f"parts with {value!r:.60} was given - a part has {', '.join(keys)} - pass these.")
    _check_text("dataset of a part", value["dataset"])
    examples, skipped = value["num_examples"], value["num_skipped"]
    if type(examples) is not int or examples < 1 or not (skipped is None or (type(skipped) is int and skipped >= 0)):
        raise ValueError(f"parts with {value!r:.200} was given - its counts are no sound ints - pass the part's own.")
    return {key: value[key] for key in keys}


def check_sums(sums: RamSums, moments: Mapping[str, torch.Tensor], num_examples: int) -> RamSums:
    """CPU copies of exact sums that give the map's scores and spread.

    Args:
        sums: of tensors or NumPy arrays.
        moments: scores, spread and count, checked.

    Raises:
        TypeError, ValueError: a wrong type, shape or range, or sums of other scores.
    """
    if num_examples > MAX_EXAMPLES:
        raise ValueError(
            f"sums of {num_examples} examples were given - they are exact up to {MAX_EXAMPLES} - measure fewer."
        )
    full = (2, *moments["scores"].shape)
    shapes = {"ram_sum": full, "ram_square_sum": full, "chance_sum": (2,)}
    high = num_examples << 41  # below twice 2^40 an example, in either limb
    checked = RamSums(
        *(as_tensor(name, sums.tensors[name], torch.int64, shape, 0, high) for name, shape in shapes.items())
    )
    scores, spread = checked.moments(moments["count"])
    if not (torch.equal(scores, moments["scores"]) and torch.equal(spread, moments["spread"])):
        raise ValueError(
            "sums were given whose mean and standard deviation are not the map's scores and spread - one of them was "
            "altered - measure it again."
        )
    if not 0 < checked.mean_chance(num_examples) <= 1:
        raise ValueError(
            f"chance_sum {checked.chance.tolist()} was given - the mean chance level is not in (0, 1] - measure again."
        )
    return checked


def as_tensor(
    name: str, value: Any, dtype: torch.dtype, shape: tuple[int, ...], low: int = 0, high: int = 1
) -> torch.Tensor:
    """A CPU copy of value as dtype; its shape must be `shape`, and every entry in [low, high].

    Raises:
        TypeError: the entries are of another kind: fractions for an integer dtype, or bool against numbers.
        ValueError: the shape differs, or an entry is NaN or out of range.
    """
    given = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
    if (given.dtype == torch.bool) != (dtype == torch.bool) or not torch.can_cast(given.dtype, dtype):
        raise TypeError(f"{name} was given as {given.dtype} - it is {dtype} - convert it first.")
    if tuple(given.shape) != shape:
        raise ValueError(f"{name} of shape {list(given.shape)} was given - this map has {list(shape)} - reshape it.")
    tensor = given.to(dtype, copy=True).contiguous()
    # Asked this way round because every comparison with NaN is false.
    wrong = ~((tensor >= low) & (tensor <= high))
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name} with {tensor[tuple(place)].item()!r} at {place} was given - {int(wrong.sum())} of its "
            f"entries are not in [{low}, {high}] - measure them again."
        )
    return tensor


def public_name(name_or_path: str) -> str:
    """Hub id of a checkpoint, or the name of its local folder: a path would tell about this machine only; "" stays."""
    # Path("") is the current folder.
    return Path(name_or_path).resolve().name if name_or_path and Path(name_or_path).is_dir() else name_or_path


def model_shape(config: Any) -> dict[str, Any]:
    """The fields that a map shares with a model's config; None where the config has no such thing."""
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    return {
        "model_type": config.model_type,
        "num_layers": getattr(text, "num_hidden_layers", None),
        "num_heads": heads,
        "num_kv_heads": getattr(text, "num_key_value_heads", None) or heads,
        "head_dim": getattr(text, "head_dim", None) or (heads and text.hidden_size // heads),
    }


def _check_text(name: str, text: Any, limit: int = 1000) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name}={text!r:.60} was given - it is a {type(text).__name__} - pass a str.")
    # A lone surrogate can stand in JSON but in no UTF-8 file.
    is_utf8 = text.encode("utf-8", "replace").decode("utf-8") == text
    if not text.strip() or len(text) > limit or not is_utf8:
        raise ValueError(
            f"{name}={text!r:.60} was given - it is blank, over {limit} characters long, or has a lone "
            f"surrogate - pass plain text."
        )
