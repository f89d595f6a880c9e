"""Publishing head maps on the Hub: push one in one commit, find those of a base model.

What is uploaded is written by HeadMap.save_pretrained; how it is read again is in hub.py.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, metadata_load
from huggingface_hub.utils import validate_repo_id

from corehead_hf.head_map.errors import HeadMapConflictError
from corehead_hf.head_map.format import CARD_NAME, PICTURE_NAME, check_subfolder
from corehead_hf.head_map.refusals import LIBRARY, Request, ask, is_server_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushTarget:
    """Where and how a map is published; the arguments of HeadMap.push_to_hub."""

    repo_id: str
    private: bool | None = None
    commit_message: str | None = None
    create_pr: bool = False
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    tags: Sequence[str] | None = None
    endpoint: str | None = None
    subfolder: str | None = None

    def __post_init__(self) -> None:
        check_subfolder(self.subfolder)
        if isinstance(self.tags, str):
            raise TypeError(f"tags={self.tags!r} was given - it is one str - pass a list of them.")
        for name, value in (("revision", self.revision), ("tags", self.tags)):
            if self.create_pr and value:
                raise ValueError(
                    f"create_pr with {name}={value!r} was asked for - a pull request goes to main, and is neither a "
                    "branch nor tagged - leave one of them out."
                )

    @property
    def request(self) -> Request:
        """For the messages."""
        return Request(f"a push to {self.repo_id!r:.100}", self.repo_id, self.revision, self.endpoint)

    @property
    def prefix(self) -> str:
        """Of every path in the repository."""
        return f"{self.subfolder}/" if self.subfolder else ""


@dataclass(frozen=True)
class PushedMap:
    """What a push made.

    Attributes:
        repo_id: owner/name.
        commit: 40 hex digits; where nothing had changed, the commit that was there.
        url: page of the commit.
        pr_url: page of the pull request, or None.
    """

    repo_id: str
    commit: str
    url: str
    pr_url: str | None


@dataclass(frozen=True)
class PublishedMap:
    """A head map's repository, as the Hub lists it.

    Attributes:
        repo_id: owner/name.
        commit: newest commit of its main branch, 40 hex digits.
        tags: the card's tags and those the Hub adds, such as "base_model:...".
        downloads: of the last 30 days, as far as the Hub counts them.
        last_modified: None where the Hub does not say.
    """

    repo_id: str
    commit: str
    tags: tuple[str, ...]
    downloads: int
    last_modified: datetime | None


def push_folder(folder: Path, target: PushTarget, root_card: str) -> PushedMap:
    """Upload what HeadMap.save_pretrained wrote; see HeadMap.push_to_hub.

    Args:
        root_card: the card for the repository's root, if the map goes to a subfolder.
    """
    ask(target.request, lambda: validate_repo_id(target.repo_id))
    # The Hub's own check of the YAML would come after the uploads.
    metadata_load(folder / CARD_NAME)
    api = HfApi(endpoint=target.endpoint, token=target.token, **LIBRARY)
    repo_id = _repository(api, target)
    info = ask(target.request, lambda: api.model_info(repo_id, revision=target.revision))
    present = {sibling.rfilename for sibling in info.siblings or ()}
    _check_state(api, repo_id, target, info)
    adding, deleting = _changes(folder, target, present, root_card)
    for card in sorted({CARD_NAME, f"{target.prefix}{CARD_NAME}"} & present):
        if _is_our_card(repo_id, card, info.sha, target):
            continue
        adding.pop(card, None)
        logger.warning(
            "%s of %s is no head map's card and is kept; for HeadMap.find it needs the base_model and the tag head-map",
            card,
            repo_id,
        )
    done = ask(target.request, lambda: _commit(api, repo_id, target, info.sha, adding, deleting))
    for tag in target.tags or ():
        ask(target.request, functools.partial(api.create_tag, repo_id, tag=tag, revision=done.oid))
    logger.info("pushed to %s, commit %s", repo_id, done.oid)
    return PushedMap(repo_id, done.oid, str(done.commit_url), done.pr_url)


def find_maps(
    base_model: str, *, token: str | bool | None = None, limit: int | None = None, endpoint: str | None = None
) -> list[PublishedMap]:
    """See HeadMap.find."""
    request = Request(f"the list of head maps of {base_model!r:.100}", base_model, endpoint=endpoint)
    api = HfApi(endpoint=endpoint, token=token, **LIBRARY)
    ask(request, lambda: validate_repo_id(base_model))
    wanted = [f"base_model:{base_model}", "head-map"]
    # The client itself tries again, for 23 s, where there is no answer at all.
    found = ask(request, lambda: list(api.list_models(filter=wanted, full=True, limit=limit)), again=is_server_error)
    return [
        PublishedMap(info.id, info.sha or "", tuple(info.tags or ()), info.downloads or 0, info.last_modified)
        for info in found
    ]


def _repository(api: HfApi, target: PushTarget) -> str:
    """Full id of the repository, with the branch; both are made where missing, but for a pull request nothing is."""
    if target.create_pr:
        return target.repo_id
    made = ask(target.request, lambda: api.create_repo(target.repo_id, private=target.private, exist_ok=True))
    branch = target.revision
    if branch is not None and not branch.startswith("refs/"):
        ask(target.request, lambda: api.create_branch(made.repo_id, branch=branch, exist_ok=True))
    return made.repo_id


def _check_state(api: HfApi, repo_id: str, target: PushTarget, info: Any) -> None:
    """Refuses what cannot be fulfilled, before anything is written."""
    if target.private is not None and bool(info.private) != target.private:
        state = "private" if info.private else "public"
        raise HeadMapConflictError(
            f"a push to {repo_id!r} with private={target.private} was asked for - that repository exists and is "
            f"{state} - change that in its settings on the Hub, or leave private out."
        )
    if not target.tags:
        return
    refs = ask(target.request, lambda: api.list_repo_refs(repo_id))
    if taken := sorted({ref.name for ref in refs.tags} & set(target.tags)):
        raise HeadMapConflictError(
            f"the tags {taken} on a push to {repo_id!r} were asked for - there are such, and tags are not "
            "moved - take new names."
        )


def _commit(
    api: HfApi,
    repo_id: str,
    target: PushTarget,
    parent: str | None,
    adding: dict[str, Path | bytes],
    deleting: list[str],
) -> CommitInfo:
    # Made anew for every try: the client notes in them what was uploaded.
    operations = [CommitOperationAdd(path, content) for path, content in adding.items()]
    return api.create_commit(
        repo_id,
        [*operations, *(CommitOperationDelete(path) for path in deleting)],
        commit_message=target.commit_message or "Upload head map with corehead_hf",
        revision=target.revision,
        create_pr=target.create_pr,
        parent_commit=parent,
    )


def _changes(
    folder: Path, target: PushTarget, present: set[str], root_card: str
) -> tuple[dict[str, Path | bytes], list[str]]:
    """Path in the repository -> what it shall hold, and the paths that shall go."""
    adding: dict[str, Path | bytes] = {f"{target.prefix}{file.name}": file for file in sorted(folder.iterdir())}
    if target.subfolder and CARD_NAME not in present:
        adding[CARD_NAME] = root_card.encode("utf-8")
    picture = f"{target.prefix}{PICTURE_NAME}"
    return adding, [picture] if picture in present and picture not in adding else []


def _is_our_card(repo_id: str, card: str, commit: str | None, target: PushTarget) -> bool:
    """Whether a README.md of the repository was written for a head map."""
    where: dict[str, Any] = {"revision": commit, "endpoint": target.endpoint, "token": target.token}
    path = ask(target.request, lambda: hf_hub_download(repo_id, card, **where, **LIBRARY))
    try:
        metadata = metadata_load(path)
    except Exception:  # whatever YAML finds wrong in it, it is not ours
        return False
    return isinstance(metadata, dict) and metadata.get("library_name") == LIBRARY["library_name"]
