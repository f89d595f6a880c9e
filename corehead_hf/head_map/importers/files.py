"""Files in which other projects keep their heads: read with care, checked against a model's numbers of heads.

Decides sizes, syntax and indices, and refuses everything else; what the numbers mean is decided in __init__.py.
"""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from corehead_hf.head_map.errors import HeadMapFormatError
from corehead_hf.head_map.strict_json import strict_json

# The largest real files seen have 27 KB of gates, 1.3 KB of settings, 4.7 MB of samples and 0.4 KB of YAML.
MAX_GATES_BYTES = 1 << 21
MAX_RUN_BYTES = 1 << 16
MAX_SAMPLES_BYTES = 3 << 23
MAX_LIST_BYTES = 1 << 20
MAX_YAML_BYTES = 1 << 13

# Gates are clamped before a training step, so the saved ones may lie one step, of lr 0.02, outside [0, 1].
GATE_SLACK = 0.1

_INDEX = re.compile(r"(0|[1-9][0-9]{0,4})-(0|[1-9][0-9]{0,4})")
# Numbers alone may stand in a list: no NaN, no true, and no key that could come twice.
_PAIR = re.compile(rb'\s*"([^"\\]*)"\s*:\s*(\[[-+0-9.eE,\s]*\])\s*([,}])')


@dataclass(frozen=True)
class Samples:
    """Moments of the samples of every head.

    Args:
        mean, spread: float64 [L, Hq], mean and standard deviation; spread divides by the number of samples.
        count: int64 [L], samples of each head of a layer.
        largest: the largest sample of all.
    """

    mean: np.ndarray
    spread: np.ndarray
    count: np.ndarray
    largest: float


def refusal(asked: object, found: str, advice: str = "check that it is the file of this model") -> HeadMapFormatError:
    """The error of a file that is not what was asked for."""
    return HeadMapFormatError(f"{asked} was asked for - {found} - {advice}.")


def read_bytes(path: Path, limit: int) -> bytes:
    """A regular file, or what a link leads to: LServe gives its patterns stable names by links.

    Raises:
        FileNotFoundError: there is no such file.
        HeadMapFormatError: it is no regular file, or larger than limit bytes.
    """
    try:
        # Before opening: to open a FIFO would wait for a writer for ever.
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} was asked for - there is no such file - check the path.") from None
    if not regular:
        raise refusal(path, "it is not a regular file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise refusal(path, f"it is larger than the {limit} bytes such a file needs at most")
    return data


def read_gates(data: bytes, what: Path, shape: tuple[int, int]) -> np.ndarray:
    """float64 [L, Hkv] in [0, 1] of a table with tabs, clipped as duo_attn/utils.py:load_attn_pattern does."""
    try:
        if not data.strip():
            raise ValueError("it is empty")
        gates = np.loadtxt(io.StringIO(data.decode("ascii")), delimiter="\t", ndmin=2, comments=None)
    except ValueError as error:
        raise refusal(what, f"it is not a table of numbers with tabs: {error!s:.200}") from error
    if gates.shape != shape:
        found = f"it has {gates.shape[0]} rows x {gates.shape[1]} columns"
        raise refusal(what, f"{found}, and the model has {shape[0]} layers x {shape[1]} KV heads")
    # Asked this way round because every comparison with NaN is false.
    if not ((gates >= -GATE_SLACK) & (gates <= 1 + GATE_SLACK)).all():
        raise refusal(what, f"its numbers go from {gates.min()} to {gates.max()}, and gates lie in [0, 1]")
    return np.clip(gates, 0, 1)


def read_run(path: Path) -> dict[str, Any]:
    """The object of a DuoAttention config.json; its sink_size and recent_size are token counts."""
    data = read_bytes(path, MAX_RUN_BYTES)
    try:
        run = strict_json(data)
    except ValueError as error:
        raise refusal(path, str(error)) from error
    for key in ("sink_size", "recent_size"):
        if type(run.get(key)) is not int or run[key] < 0:
            raise refusal(path, f"its {key} is {run.get(key)!r:.40}, and DuoAttention writes a number of tokens")
    return run


def read_samples(data: bytes, what: Path, shape: tuple[int, int], highest: float) -> Samples:
    """Of {"layer-head": [score per sample, ...], ...}: every head of shape [L, Hq] once, samples in [0, highest]."""
    mean, spread, count = np.full(shape, np.nan), np.zeros(shape), np.zeros(shape, np.int64)
    largest = 0.0
    for key, values in _pairs(data, what):
        place = parse_head(key, what, shape)
        if not np.isnan(mean[place]):
            raise refusal(what, f"duplicate key {key!r}")
        if not values.size:
            raise refusal(what, f"head {key} has no samples (issue #12 of Retrieval_Head)", "detect again")
        if not ((values >= 0) & (values <= highest)).all():
            found = f"the samples of head {key} go from {values.min()} to {values.max()}"
            raise refusal(what, f"{found}, and they lie in [0, {highest}]")
        mean[place], spread[place], count[place] = values.mean(), values.std(), len(values)
        largest = max(largest, float(values.max()))
    _check_complete(what, mean, count)
    return Samples(mean, spread, count[:, 0], largest)


def read_head_order(data: bytes, what: Path, shape: tuple[int, int]) -> tuple[list[tuple[int, int]], str | None]:
    """Heads of a QRHead config, best first, and the model it names, or None."""
    entries = _flat_yaml(data, what)
    texts = [text.strip() for text in entries.get("attn_head_set", "").split(",")]
    if texts == ["full_heads"]:
        raise refusal(what, "its attn_head_set is 'full_heads', every head in no order", "take a *_qr_head_*.yaml")
    heads = [parse_head(text, what, shape) for text in texts]
    if len(set(heads)) < len(heads):
        twice = next(text for text, head in zip(texts, heads, strict=True) if heads.count(head) > 1)
        raise refusal(what, f"its attn_head_set lists {twice} twice")
    return heads, entries.get("model_name_or_path")


def parse_head(text: str, what: Path, shape: tuple[int, int]) -> tuple[int, int]:
    """(layer, head) of "layer-head", within shape [L, Hq]."""
    index = _INDEX.fullmatch(text)
    if index is None:
        raise refusal(what, f"{text!r:.40} is not 'layer-head', two numbers from 0")
    layer, head = int(index[1]), int(index[2])
    if layer >= shape[0] or head >= shape[1]:
        raise refusal(what, f"it has head {text}, and the model has {shape[0]} layers x {shape[1]} heads, from 0")
    return layer, head


def _pairs(data: bytes, what: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(key, numbers) of a JSON object of lists of numbers, one list at a time: a file may hold millions of them."""
    if re.fullmatch(rb"\s*(\{\s*\})?\s*", data):
        found = "it is empty: no sample was counted (issue #12 of Retrieval_Head)"
        raise refusal(what, found, "detect again, with a model that answers")
    start = re.match(rb"\s*\{", data)
    place, ending = (start.end(), b",") if start else (0, b"")
    while ending == b",":
        pair = _PAIR.match(data, place)
        if pair is None or len(pair[2]) > MAX_LIST_BYTES:
            break
        key = pair[1].decode("ascii", "backslashreplace")
        try:
            values = np.array(json.loads(pair[2]), np.float64)
        except (ValueError, OverflowError) as error:
            raise refusal(what, f"the samples of {key!r:.40} are no JSON numbers: {error!s:.200}") from error
        yield key, values
        place, ending = pair.end(), pair[3]
    if ending != b"}" or data[place:].strip():
        form = f'{{"layer-head": [score, ...], ...}} with lists of at most {MAX_LIST_BYTES} bytes'
        raise refusal(what, f"from byte {place} on it is not of the form {form}")


def _check_complete(what: Path, mean: np.ndarray, count: np.ndarray) -> None:
    missing = np.argwhere(np.isnan(mean)).tolist()
    if missing:
        first = "-".join(map(str, missing[0]))
        raise refusal(what, f"it lacks {len(missing)} of the model's {mean.size} heads, the first is {first}")
    uneven = np.flatnonzero((count != count[:, :1]).any(axis=1)).tolist()
    if uneven:
        found = f"the heads of layer {uneven[0]} have from {count[uneven[0]].min()} to {count[uneven[0]].max()} samples"
        raise refusal(what, f"{found}, and a sample scores every head")


def _flat_yaml(data: bytes, what: Path) -> dict[str, str]:
    """Texts by key of a YAML mapping of scalars. Composed, not constructed: no tag in it is ever acted on."""
    try:
        root = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise refusal(what, f"it is not YAML: {error!s:.200}") from error
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    flat = {key.value: text.value for key, text in pairs if type(key) is type(text) is yaml.ScalarNode}
    if not pairs or len(flat) != len(pairs):
        raise refusal(what, "it is not a flat YAML mapping with each key once", "pass a config of src/qrretriever")
    return flat
