"""The fields of a head map: which values are valid, and how its model card states them.

Nothing here reads or writes a file; that is head_map_format.py's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import validate_repo_id

# Far above any model; they keep every valid map within the file sizes that head_map_format.py reads.
_INT_LIMITS = {
    "num_layers": 1024,
    "num_heads": 1024,
    "num_kv_heads": 1024,
    "head_dim": 65536,
    "num_examples": 10**12,
}
_TEXTS = ("base_model_name_or_path", "model_type", "dataset", "question_rule", "view_rule")
_REQUIRED_VERSIONS = {"torch", "transformers", "corehead_hf"}
_MAX_VERSIONS = 32

_CARD = """
# CoRe head map of {base}

How much of its attention every query head of {base} gives to the part of the picture, page or video
that the question is about: Retrieval Attention Mass (RAM, arXiv 2606.05843), in [0, 1]. These are
measurements, not weights.

## Top heads

| rank | layer | head | RAM | std over examples |
|---|---|---|---|---|
{rows}

## Provenance

{facts}

## Use

```python
from corehead_hf import HeadMap
head_map = HeadMap.from_pretrained("path/to/this/folder")
heads = head_map.top(0.05)  # bool [layers, heads], the best 5 % of all heads
```
"""


def check_provenance(fields: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for provenance of a wrong type, out of range, or contradictory."""
    for name, limit in _INT_LIMITS.items():
        if type(fields[name]) is not int:
            raise TypeError(f"{name}={fields[name]!r:.60} was given - it is not an int - pass one in 1..{limit}.")
        if not 1 <= fields[name] <= limit:
            raise ValueError(f"{name}={fields[name]} was given - out of range - pass one in 1..{limit}.")
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


def model_card(fields: Mapping[str, Any], scores: torch.Tensor, spread: torch.Tensor, ranking: torch.Tensor) -> str:
    """Text of README.md: front matter for the Hub, the top 10 heads, the provenance, how to load the map.

    The model and the data set are linked only if they can be Hub repositories: an id of the form owner/name,
    and for the model a commit.
    """
    base, dataset = fields["base_model_name_or_path"], fields["dataset"]
    front = ["---", "library_name: corehead_hf", "pipeline_tag: image-text-to-text"]
    if fields["base_model_revision"] is not None and _is_repo_id(base):
        front += [f"base_model: {json.dumps(base)}", "base_model_relation: adapter"]
    if _is_repo_id(dataset):
        front += ["datasets:", f"- {json.dumps(dataset)}"]
    front += ["tags:", "- head-map", "- core-heads", "---", ""]
    rows = [
        f"| {rank} | {layer} | {head} | {scores[layer, head]:.4f} | {spread[layer, head]:.4f} |"
        for rank, (layer, head) in enumerate(ranking[:10].tolist(), start=1)
    ]
    versions = ", ".join(f"{package} {version}" for package, version in sorted(fields["versions"].items()))
    shown = {**fields, "versions": versions}
    facts = [f"- {name}: {_code(str(value))}" for name, value in shown.items()]
    return "\n".join(front) + _CARD.format(base=_code(base), rows="\n".join(rows), facts="\n".join(facts))


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


def _is_repo_id(text: str) -> bool:
    try:
        validate_repo_id(text)
    except ValueError:
        return False
    return text.isascii() and text.count("/") == 1


def _code(text: str) -> str:
    """A Markdown code span on one line, which text cannot break out of."""
    visible = "".join(c for c in text if c != "`" and (c.isprintable() or c.isspace()))
    return f"`{' '.join(visible.split()) or '-'}`"
