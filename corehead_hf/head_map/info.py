"""What a head map says of itself, without fetching its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from corehead_hf.head_map.errors import HeadMapFormatError
from corehead_hf.head_map.fields import check_optional, check_provenance
from corehead_hf.head_map.format import CONFIG_NAME, TENSORS_NAME, check_layout, read_config, read_files
from corehead_hf.head_map.head_map import OPTIONAL, PROVENANCE
from corehead_hf.head_map.hub import HubOptions, MapRepository, locate, open_map


@dataclass(frozen=True)
class HeadMapInfo:
    """A head map's provenance and layout.

    Attributes:
        source: "owner/name@commit" or the folder.
        provenance: the fields of HeadMap that are not tensors, checked.
        tensors: dtype and shape of every tensor in the file, by name.
        num_bytes: size of the tensors' file; None where the Hub does not tell.
        sha256: of the tensors' file, as the config states it.
        is_verified: True where the file is known to have this sha256: read here, or stored by the Hub under it; None
            where only a download could tell.
    """

    source: str
    provenance: dict[str, Any]
    tensors: dict[str, tuple[str, list[int]]]
    num_bytes: int | None
    sha256: str
    is_verified: bool | None


def head_map_info(
    repo_or_folder: str | Path,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> HeadMapInfo:
    """Look into a head map; from the Hub its config is fetched, and of its tensors only the header is read.

    The header comes by Range request for the first 100 kB, of which nothing is kept. A map in the cache is read there.

    Args: as in HeadMap.from_pretrained.

    Raises:
        HeadMapHubError: it cannot be had; see its subclasses.
        HeadMapFormatError: the config or header is damaged or hostile, or they contradict each other.
    """
    options = HubOptions(revision, subfolder, cache_dir, token, False, local_files_only, endpoint)
    place = locate(repo_or_folder, options)
    if isinstance(place, Path):
        return _of_folder(place, str(place))
    config, source = open_map(place, _config, MapRepository.fetch_config)
    pinned = place.at(source[len(place.repo_id) + 1 :][:40])
    if place.is_offline or pinned.is_cached():
        return _of_folder(pinned.fetch(force=False)[0], source)
    metadata, tensors = pinned.metadata(TENSORS_NAME), pinned.tensors_header()
    check_layout(tensors, [config["num_layers"], config["num_heads"]])
    # A large file has its sha256 as ETag, a small one the SHA-1 that git gives it.
    is_hash = re.fullmatch("[0-9a-f]{64}", metadata.etag or "") is not None
    if is_hash and metadata.etag != config["sha256"]:
        raise HeadMapFormatError(
            f"{TENSORS_NAME} of {source} with sha256 {config['sha256']!r:.70} was asked for - the Hub has "
            f"{metadata.etag}: altered, or of another revision than its config - tell its owner."
        )
    return _info(source, config, tensors, metadata.size, is_hash or None)


def _of_folder(folder: Path, source: str) -> HeadMapInfo:
    config = _config(folder)
    read_files(folder, PROVENANCE, OPTIONAL)  # refuses damaged files
    with safe_open(folder / TENSORS_NAME, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        tensors = {name: (entry.get_dtype(), list(entry.get_shape())) for name, entry in slices.items()}
    return _info(source, config, tensors, (folder / TENSORS_NAME).stat().st_size, True)


def _config(folder: Path) -> dict[str, Any]:
    config = read_config(folder, set(PROVENANCE), set(OPTIONAL))
    fields = {**dict.fromkeys((*OPTIONAL, "sums")), **config}
    try:
        check_provenance(fields)
        return {**config, **check_optional(fields)}
    except (TypeError, ValueError) as error:
        raise HeadMapFormatError(f"{folder / CONFIG_NAME} was asked for - {error}") from error


def _info(
    source: str,
    config: dict[str, Any],
    tensors: dict[str, tuple[str, list[int]]],
    num_bytes: int | None,
    is_verified: bool | None,
) -> HeadMapInfo:
    provenance = {name: config[name] for name in (*PROVENANCE, *OPTIONAL) if name in config}
    return HeadMapInfo(source, provenance, tensors, num_bytes, config["sha256"], is_verified)
