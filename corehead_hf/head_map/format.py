"""The files of a head map: how they are written, and how untrusted ones are read.

Decides names, size limits, JSON and tensor layout of format 1, and refuses everything else. What the values
mean, and whether they make a valid map, is decided in head_map.py and fields.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save

from corehead_hf.head_map.errors import HeadMapFormatError, HeadMapNotFoundError
from corehead_hf.head_map.strict_json import strict_json

FORMAT_VERSION = 1
CONFIG_NAME = "head_map_config.json"
TENSORS_NAME = "head_map.safetensors"
CARD_NAME = "README.md"
PICTURE_NAME = "head_map.png"

# The largest map that HeadMap accepts (2^17 heads with sums, its longest texts) fits with room to spare.
MAX_CONFIG_BYTES = 1 << 20
MAX_TENSORS_BYTES = 1 << 23
MAX_HEADER_BYTES = 1 << 16

_ENVELOPE = {"format_version", "corehead_version", "sha256"}
# Field -> name in the file, dtype in the file, dtype in NumPy. The sums stand in a file all or not at all.
_LAYOUT = {
    "scores": ("ram", "F32", "<f4"),
    "spread": ("ram_std", "F32", "<f4"),
    "count": ("count", "I64", "<i8"),
}
_SUMS = {name: (name, "I64", "<i8") for name in ("ram_sum", "ram_square_sum", "chance_sum")}


def write_files(
    directory: Path,
    provenance: Mapping[str, Any],
    tensors: dict[str, torch.Tensor],
    card: str,
    version: str,
    picture: bytes | None = None,
) -> None:
    """Writes the files; the same input gives the same bytes.

    All bytes are on disk before an older map is touched, and its config goes first: at whatever moment the
    process dies, no config is left beside tensors whose sha256 it does not state.

    Args:
        directory: made if missing; files of these names in it are replaced.
        provenance: the fields of HeadMap that are not tensors.
        tensors: scores float32 [L, Hq], spread float32 [L, Hq], count int64 [L]; with the sums of RamSums or without.
        card: text of the model card.
        version: of the package that writes.
        picture: PNG of the card; without one, that of an older map is taken away.
    """
    # One metadata key at most: safetensors writes several in random order, and the sha256 would vary.
    named = {(_LAYOUT | _SUMS)[field][0]: tensor for field, tensor in tensors.items()}
    raw = save(named, metadata={"format": "pt"})
    config = {
        **provenance,
        "format_version": FORMAT_VERSION,
        "corehead_version": version,
        "sha256": hashlib.sha256(raw).hexdigest(),
    }
    text = json.dumps(config, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    drawn = {} if picture is None else {PICTURE_NAME: picture}
    files = {TENSORS_NAME: raw, CARD_NAME: card.encode("utf-8"), **drawn, CONFIG_NAME: text.encode("utf-8")}
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".head_map-") as staging:
        for name, data in files.items():
            with open(Path(staging) / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for name in {CONFIG_NAME, PICTURE_NAME} - set(drawn):
            (directory / name).unlink(missing_ok=True)
        for name in files:
            os.replace(Path(staging) / name, directory / name)


def read_files(directory: Path, keys: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a folder that nobody vouches for; nothing in it is executed or unpickled.

    Args:
        directory: an existing folder.
        keys: of the provenance.
        optional: keys that it may have besides.

    Returns:
        The provenance (these keys), and the arrays scores float32 [L, Hq], spread float32 [L, Hq] and count int64 [L],
        with L and Hq as the provenance states them; where the file has sums, also ram_sum and ram_square_sum int64
        [2, L, Hq] and chance_sum int64 [2]. The values are yet to be checked.

    Raises:
        HeadMapFormatError: a file is missing, not a regular file, too large, malformed or of another format,
            or the tensors are not the ones the config was written for.
    """
    config = read_config(directory, set(keys), set(optional))
    raw = _read_file(directory, TENSORS_NAME, MAX_TENSORS_BYTES)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != config["sha256"]:
        found = f"it has sha256 {digest}: truncated, altered, or of another revision than its config"
        asked = f"{directory / TENSORS_NAME} with sha256 {config['sha256']!r:.70}"
        raise _refusal(asked, found, "get both files again, of one revision")
    provenance = {key: config[key] for key in config if key not in _ENVELOPE}
    return {**provenance, **_read_tensors(raw, [config["num_layers"], config["num_heads"]])}


def check_subfolder(subfolder: str | None) -> None:
    """Raises HeadMapNotFoundError for what names no folder of a repository."""
    if subfolder is not None and not all(re.fullmatch(r"(?!\.+$)[\w.-]+", part) for part in subfolder.split("/")):
        raise HeadMapNotFoundError(
            f"subfolder={subfolder!r:.100} was asked for - that names no folder in a repository - pass names of "
            "letters, digits, _ . and -, with / between them."
        )


def _refusal(asked: object, found: str, advice: str = "get the map again") -> HeadMapFormatError:
    return HeadMapFormatError(f"{asked} was asked for - {found} - {advice}.")


def _read_file(directory: Path, name: str, limit: int) -> bytes:
    path = directory / name
    if path.is_symlink() and not _is_hub_cache_link(path):
        found = f"it is a symlink to {os.readlink(path)!r:.200}, and only links inside a Hub cache are followed"
        raise _refusal(path, found, "copy the file itself into the folder")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        found = "there is no such file"
        raise _refusal(path, found, "check the path, and that the save or download was completed") from None
    # Before opening: to open a FIFO would wait for a writer for ever.
    if not stat.S_ISREG(mode):
        raise _refusal(path, "it is not a regular file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _refusal(path, f"it is larger than the {limit} bytes a head map needs at most")
    return data


def _is_hub_cache_link(path: Path) -> bool:
    """True for <repo>/snapshots/<commit>/.../file -> <repo>/blobs/<etag>, what snapshot_download makes."""
    blobs = Path(os.path.realpath(path)).parent
    folder = Path(os.path.realpath(path.parent))
    return blobs.name == "blobs" and folder.is_relative_to(blobs.parent / "snapshots")


def read_config(directory: Path, provenance_keys: set[str], optional: set[str]) -> dict[str, Any]:
    """The config of an untrusted folder, with the keys of the format beside the map's own; the values are unchecked."""
    config = _strict_json(_read_file(directory, CONFIG_NAME, MAX_CONFIG_BYTES), CONFIG_NAME)
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        found = f"{version!r:.40} is not a positive integer"
        raise _refusal(f"format_version in {CONFIG_NAME}", found, "get the map again, if this is one")
    if version > FORMAT_VERSION:
        writer = config.get("corehead_version")
        raise _refusal(
            CONFIG_NAME,
            f"it has format_version {version}, written by corehead_hf {writer!r:.40}, and this version reads "
            f"format_version {FORMAT_VERSION}",
            "upgrade with `pip install --upgrade corehead_hf`",
        )
    expected = provenance_keys | _ENVELOPE
    if set(config) - optional != expected:
        missing, unknown = _names(expected - set(config)), _names(set(config) - expected - optional)
        found = f"missing keys of format_version {FORMAT_VERSION}: {missing}; unknown keys: {unknown}"
        raise _refusal(CONFIG_NAME, found)
    for key in ("corehead_version", "sha256"):
        if not isinstance(config[key], str):
            raise _refusal(f"{key} in {CONFIG_NAME}", f"{config[key]!r:.40} is not a string")
    return config


def _read_tensors(raw: bytes, full: list[Any]) -> dict[str, np.ndarray]:
    """Arrays by field of HeadMap; full is [L, Hq] as the config states it, of any JSON type."""
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > min(MAX_HEADER_BYTES, len(raw) - 8):
        stated = f"a header of {size} bytes in a file of {len(raw)}; at most {MAX_HEADER_BYTES} are read"
        raise _refusal(TENSORS_NAME, stated)
    try:
        found = dict(deserialize(raw))
    except SafetensorError as error:
        raise _refusal(TENSORS_NAME, f"it is not a safetensors file: {error!s:.200}") from error
    check_layout({name: (entry["dtype"], list(entry["shape"])) for name, entry in found.items()}, full)
    arrays = {}
    for field, (name, _, code) in _layout(found).items():
        entry = found[name]
        arrays[field] = np.frombuffer(bytes(entry["data"]), code).reshape(entry["shape"]).astype(code[1:])
    return arrays


def check_layout(found: Mapping[str, tuple[str, list[int]]], full: list[Any]) -> None:
    """Refuses tensors that are not a head map's.

    Args:
        found: dtype and shape by name.
        full: [L, Hq] as the config states it, of any JSON type.
    """
    layout = _layout(found)
    names = {name for name, _, _ in layout.values()}
    if set(found) != names:
        raise _refusal(TENSORS_NAME, f"its tensors are {_names(found)}, and a head map has {_names(names)}")
    shapes = {"count": full[:1], "ram_sum": [2, *full], "ram_square_sum": [2, *full], "chance_sum": [2]}
    for field, (name, dtype, _) in layout.items():
        shape = shapes.get(field, full)
        if found[name] != (dtype, shape):
            actual = f"it is {found[name][0]} {found[name][1]!s:.60}"
            raise _refusal(f"{name} as {dtype} {shape!s:.60} in {TENSORS_NAME}", actual)


def _layout(found: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """With the sums where one of them is found."""
    return _LAYOUT | (_SUMS if set(_SUMS) & set(found) else {})


def _strict_json(data: bytes, what: str) -> dict[str, Any]:
    """The object in data; what names the file in the message."""
    try:
        return strict_json(data)
    except ValueError as error:
        raise _refusal(what, str(error)) from error


def _names(names: Iterable[str]) -> str:
    return f"{', '.join(map(repr, sorted(names))) or 'none'!s:.200}"
