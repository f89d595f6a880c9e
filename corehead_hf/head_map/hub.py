"""Reading head maps from the Hub: both files at one pinned commit, through the client's cache.

What the client's refusals mean is in refusals.py, how maps are published in publish.py, what the
files hold in format.py. A file's name is always a constant, never something read from a repository.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import FileMetadataError
from huggingface_hub.utils import validate_repo_id

from corehead_hf.head_map.errors import (
    HeadMapConnectionError,
    HeadMapFormatError,
    HeadMapHubError,
    HeadMapNotFoundError,
)
from corehead_hf.head_map.format import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    MAX_TENSORS_BYTES,
    TENSORS_NAME,
    check_subfolder,
)
from corehead_hf.head_map.refusals import LIBRARY, Request, alternatives, ask

logger = logging.getLogger(__name__)

T = TypeVar("T")
_LIMITS = {CONFIG_NAME: MAX_CONFIG_BYTES, TENSORS_NAME: MAX_TENSORS_BYTES}


@dataclass(frozen=True)
class HubOptions:
    """How a repository is read; the arguments of HeadMap.from_pretrained."""

    revision: str | None = None
    subfolder: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    force_download: bool = False
    local_files_only: bool = False
    endpoint: str | None = None

    def __post_init__(self) -> None:
        check_subfolder(self.subfolder)
        if self.force_download and self.local_files_only:
            raise ValueError(
                "force_download and local_files_only were given - one fetches, the other forbids it - give one of them."
            )


@dataclass(frozen=True)
class MapRepository:
    """A repository that is read with these options; nothing is asked before a method is called."""

    repo_id: str
    options: HubOptions

    @property
    def is_offline(self) -> bool:
        """True where only the cache may be read."""
        return self.options.local_files_only or constants.HF_HUB_OFFLINE

    @property
    def _api(self) -> HfApi:
        return HfApi(endpoint=self.options.endpoint, token=self.options.token, **LIBRARY)

    def at(self, commit: str) -> MapRepository:
        """The same, pinned."""
        return MapRepository(self.repo_id, replace(self.options, revision=commit))

    def source(self, commit: str) -> str:
        """Repository, commit and subfolder in a word."""
        place = f"/{self.options.subfolder}" if self.options.subfolder else ""
        return f"{self.repo_id}@{commit}{place}"

    def fetch(self, force: bool) -> tuple[Path, str]:
        """Folder of the two files in the cache, and their commit."""
        if force and self.is_offline:
            raise HeadMapConnectionError(
                f"force_download of {self.repo_id!r} was asked for - HF_HUB_OFFLINE is set - unset one of them."
            )
        folder, commit = self.fetch_config(force)
        self.at(commit)._file(TENSORS_NAME, force)
        return folder, commit

    def fetch_config(self, force: bool) -> tuple[Path, str]:
        """Folder of the config in the cache, and the commit that all else is to be read at.

        The client finds the commit of a branch while it fetches the file, and notes it for times without a network.
        """
        try:
            path = self._file(CONFIG_NAME, force)
        except HeadMapConnectionError as error:
            found = None if force or self.is_offline else self._cached(CONFIG_NAME)
            if found is None or self.at(self._commit(found))._cached(TENSORS_NAME) is None:
                raise
            path = found
            logger.warning("%s The copy in the cache is taken, commit %s.", error, self._commit(path))
        return path.parent, self._commit(path)

    def tensors_header(self) -> dict[str, tuple[str, list[int]]]:
        """dtype and shape of every tensor, by Range request; nothing is kept."""
        path, commit = self._inside(TENSORS_NAME), self.options.revision
        try:
            parsed = self.ask(
                lambda: self._api.parse_safetensors_file_metadata(self.repo_id, path, revision=commit), TENSORS_NAME
            )
        except HeadMapHubError:
            raise
        except Exception as error:  # the client's reader meets a hostile header with many types
            raise HeadMapFormatError(
                f"the header of {path} of {self.repo_id} was asked for - it is not one of safetensors: {error!s:.200} "
                "- get the map elsewhere."
            ) from error
        return {name: (tensor.dtype, list(tensor.shape)) for name, tensor in parsed.tensors.items()}

    def is_cached(self) -> bool:
        """Whether both files of this revision, a commit, are in the cache."""
        return self._cached(CONFIG_NAME) is not None and self._cached(TENSORS_NAME) is not None

    def metadata(self, name: str) -> Any:
        """Commit, ETag and size of a file, checked against the size that it may have; HfFileMetadata."""
        url = hf_hub_url(
            self.repo_id, self._inside(name), revision=self.options.revision, endpoint=self.options.endpoint
        )

        def call() -> Any:
            found = get_hf_file_metadata(url, token=self.options.token, endpoint=self.options.endpoint, **LIBRARY)
            if found.commit_hash is None:
                raise FileMetadataError("it names no commit")
            return found

        found = self.ask(call, name)
        if found.size is not None and found.size > _LIMITS[name]:
            raise HeadMapFormatError(
                f"{name} of {self.repo_id} was asked for - it has {found.size} bytes, and a head map needs at most "
                f"{_LIMITS[name]} - it was not fetched."
            )
        return found

    def ask(self, call: Callable[[], T], name: str = CONFIG_NAME) -> T:
        """What the Hub answers to a call about this file."""
        place = {"revision": self.options.revision, "subfolder": self.options.subfolder}
        details = ", ".join(f"{key} {value!r:.100}" for key, value in place.items() if value is not None)
        what = f"the head map {self.repo_id!r}{f' ({details})' if details else ''}"
        request = Request(what, self.repo_id, self.options.revision, self.options.endpoint, name)
        return ask(request, call, lambda error: alternatives(self._api, request, error))

    def _file(self, name: str, force: bool) -> Path:
        options = self.options
        if not force and re.fullmatch("[0-9a-f]{40}", options.revision or "") and (found := self._cached(name)):
            return found
        if not self.is_offline:
            self.metadata(name)
        path = self.ask(
            lambda: hf_hub_download(
                self.repo_id,
                self._inside(name),
                revision=options.revision,
                cache_dir=options.cache_dir,
                token=options.token,
                force_download=force,
                local_files_only=self.is_offline,
                endpoint=options.endpoint,
                **LIBRARY,
            ),
            name,
        )
        return Path(path)

    def _cached(self, name: str) -> Path | None:
        options = self.options
        found = try_to_load_from_cache(self.repo_id, self._inside(name), options.cache_dir, options.revision)
        return Path(found) if isinstance(found, str) else None

    def _inside(self, name: str) -> str:
        return f"{self.options.subfolder}/{name}" if self.options.subfolder else name

    def _commit(self, path: Path) -> str:
        """The cache keeps files as snapshots/<commit>/<path in the repository>."""
        return path.parents[self._inside(path.name).count("/")].name


def open_map(
    place: Path | MapRepository,
    read: Callable[[Path], T],
    fetch: Callable[[MapRepository, bool], tuple[Path, str]] = MapRepository.fetch,
) -> tuple[T, str]:
    """What `read` makes of the map's folder, and where that is: the folder, or "owner/name@commit".

    A file that was damaged on its way keeps its size, which is all that the client checks, so what `read` refuses
    is fetched once more.
    """
    if isinstance(place, Path):
        return read(place), str(place)
    folder, commit = fetch(place, place.options.force_download)
    try:
        return read(folder), place.source(commit)
    except HeadMapFormatError as error:
        if place.is_offline:
            advice = "Fetch it again with force_download=True when online."
            raise HeadMapFormatError(f"{place.source(commit)}, from the cache: {error} {advice}") from error
        logger.warning("%s: %s It is fetched again.", place.source(commit), error)
    folder, _ = fetch(place.at(commit), True)
    try:
        return read(folder), place.source(commit)
    except HeadMapFormatError as error:
        raise HeadMapFormatError(f"{place.source(commit)}, fetched twice: {error}") from error


def locate(repo_or_folder: str | Path, options: HubOptions) -> Path | MapRepository:
    """The existing folder, else the repository of that id."""
    folder = Path(repo_or_folder)
    if folder.is_dir():
        if options.revision is not None:
            raise ValueError(
                f"revision={options.revision!r} of {str(folder)!r} was asked for - that is a folder here, and folders "
                "go before Hub ids - leave revision out, or work where no such folder is."
            )
        if not (folder := folder / (options.subfolder or "")).is_dir():
            raise HeadMapNotFoundError(
                f"the head map {str(folder)!r} was asked for - there is no such folder - check it."
            )
        return folder
    name = str(repo_or_folder)
    # A Path is never taken for a Hub id, nor is a name without its owner.
    if isinstance(repo_or_folder, Path) or name.count("/") != 1:
        raise HeadMapNotFoundError(
            f"the head map {name!r:.200} was asked for - that is not an existing folder, nor a Hub id - pass a "
            "folder, or owner/name."
        )
    place = MapRepository(name, options)
    place.ask(lambda: validate_repo_id(name))
    return place


def cached_commit(model: str, revision: str | None = None, cache_dir: str | Path | None = None) -> str | None:
    """Commit of the config that from_pretrained has read of a model on the Hub; None for a folder, or with no cache."""
    found = None if Path(model).is_dir() else try_to_load_from_cache(model, "config.json", cache_dir, revision)
    return Path(found).parent.name if isinstance(found, str) else None
