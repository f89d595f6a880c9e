"""What a loopback Hub holds: repositories (immutable commits, branches, tags), LFS objects, tokens, its log."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One file of a commit; a large one (lfs) has its content in git's pointer form."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def oid(self) -> str:
        return git_sha1(self.pointer if self.lfs else self.data)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def lfs_info(self) -> dict:
        return {"sha256": self.sha256, "oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}

    def info(self, path: str) -> dict:
        """As tree and paths-info list it."""
        large = {"lfs": self.lfs_info()} if self.lfs else {}
        return {"type": "file", "path": path, "oid": self.oid, "size": len(self.data), **large}


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    tree: dict[str, Entry]
    date: str

    def card(self) -> dict:
        """The YAML header of README.md; empty where there is none, or a malformed one."""
        readme = self.tree.get("README.md")
        header = card_header(readme.data.decode("utf-8")) if readme else None
        try:
            return (yaml.safe_load(header) if header else None) or {}
        except yaml.YAMLError:
            return {}


def card_header(text: str) -> str | None:
    match = re.match(r"\s*---\r?\n(.*?)\n---", text, re.S)
    return match[1] if match else None


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pull_requests: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        attributes = Entry(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        self.commit("main", "initial commit", "", {".gitattributes": attributes}, None)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def commit(self, ref: str, title: str, message: str, tree: dict[str, Entry], parent: str | None) -> Commit:
        now = time.time_ns()
        files = sorted((path, entry.oid) for path, entry in tree.items())
        oid = hashlib.sha1(json.dumps([self.id, parent, title, message, files, now]).encode()).hexdigest()
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now // 10**9))
        self.commits[oid] = Commit(oid, parent, title, message, tree, date)
        self.branches[ref] = oid
        return self.commits[oid]

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, a whole or an unambiguous short commit id."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid in self.commits:
            return self.commits[oid]
        if not re.fullmatch(r"[0-9a-f]{7,39}", revision):
            return None
        found = [commit for oid, commit in self.commits.items() if oid.startswith(revision)]
        return found[0] if len(found) == 1 else None

    def open_pull_request(self, user: str, title: str, commit: str | None = None) -> int:
        self.pull_requests.append({"author": user, "title": title})
        number = len(self.pull_requests)
        self.branches[f"refs/pr/{number}"] = commit or self.branches["main"]
        return number

    def may_write(self, user: str | None, revision: str | None) -> bool:
        """The owner everywhere; whoever opened a pull request, there."""
        match = re.fullmatch(r"refs/pr/(\d+)", revision or "")
        return user == self.owner or bool(match) and self.pull_requests[int(match[1]) - 1]["author"] == user

    def info(self, commit: Commit, blobs: bool = False) -> dict:
        card = commit.card()
        tags, bases, relation = (
            list(card.get("tags") or []),
            card.get("base_model") or [],
            card.get("base_model_relation"),
        )
        for base in [bases] if isinstance(bases, str) else bases:
            tags += [f"base_model:{base}", *([f"base_model:{relation}:{base}"] if relation else [])]
        tags += [f"license:{card['license']}"] if card.get("license") else []
        tags += [card["library_name"]] if card.get("library_name") else []
        siblings = []
        for path, entry in sorted(commit.tree.items()):
            large = {"lfs": entry.lfs_info()} if entry.lfs else {}
            detail = {"size": len(entry.data), "blobId": entry.oid, **large} if blobs else {}
            siblings.append({"rfilename": path, **detail})
        return {
            **{"_id": "0", "id": self.id, "modelId": self.id, "author": self.owner, "sha": commit.oid},
            **{"private": self.private, "gated": "auto" if self.gated else False, "disabled": False, "tags": tags},
            **{"downloads": 0, "likes": 0, "library_name": card.get("library_name"), "cardData": card, "spaces": []},
            **{"pipeline_tag": card.get("pipeline_tag"), "siblings": siblings},
            **{"createdAt": next(iter(self.commits.values())).date, "lastModified": commit.date},
        }


@dataclass(frozen=True)
class Request:
    """One answered request: `range` is its Range header, `token` whether it carried one, `sent` bytes of its body."""

    method: str
    path: str
    status: int
    range: str | None
    token: bool
    sent: int
    origin: str


class Store:
    """The state behind a loopback Hub, shared by its threads under `lock`.

    Args:
        lfs_suffixes: of the paths a client is told to upload as LFS; on the Hub .gitattributes says so.
        redirects: "relative" answers regular files with a 307 to another path of the same origin, "cdn" answers LFS
            files with a 302 to another origin, where a token is an error. The Hub does both.
    """

    def __init__(self, lfs_suffixes=(".safetensors", ".bin", ".pt"), redirects=()):
        self.tokens = {"hf_owner": "tester", "hf_guest": "guest", "hf_reader": "tester"}
        self.readonly = {"hf_reader"}
        self.lfs_suffixes = tuple(lfs_suffixes)
        self.redirects = frozenset(redirects)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list = []
        self.log: list[Request] = []
        self.lock = threading.RLock()

    def add(self, repo_id: str, folder: str | Path | None = None, *, subfolder="", **attributes) -> Repo:
        """Puts a folder's files into a repository as one more commit on main, without HTTP."""
        with self.lock:
            repo = self.repos.setdefault(("model", repo_id), Repo("model", repo_id))
            for name, value in attributes.items():
                setattr(repo, name, value)
            if folder is not None:
                head = repo.resolve("main")
                tree = dict(head.tree)
                for path in sorted(Path(folder).rglob("*")):
                    if path.is_file():
                        name = "/".join(filter(None, [subfolder, path.relative_to(folder).as_posix()]))
                        tree[name] = self.keep(path.read_bytes(), path.name.endswith(self.lfs_suffixes))
                repo.commit("main", "added", "", tree, head.oid)
            return repo

    def keep(self, data: bytes, lfs: bool) -> Entry:
        entry = Entry(data, lfs)
        if lfs:
            self.lfs[entry.sha256] = data
        return entry

    def repo(self, repo_id: str) -> Repo:
        return self.repos["model", repo_id]

    def requests(self, part: str = "") -> list[Request]:
        """Those whose path contains `part`, in order."""
        with self.lock:
            return [request for request in self.log if part in request.path]
