"""The loopback Hub's answers that carry files: upload, LFS, commit, download, and its CDN."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from urllib.parse import parse_qs, quote

from hub_repo_routes import KIND, REPO, REVISION
from hub_store import Entry

LARGE = 10_000_000  # bytes; above, the Hub takes no file as part of a commit's JSON


class FileRoutes:
    """Methods of hub_server.Answering."""

    def target(self, revision: str) -> str:
        """Of a write: the branch, or "" for a pull request yet to be opened."""
        return "" if "create_pr" in self.query else revision

    def paths_info(self, kinds: str, repo_id: str, revision: str) -> None:
        text = self.body().decode()
        paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        commit = self.at(self.reach(kinds, repo_id), revision)
        if commit:
            self.json([commit.tree[path].info(path) for path in paths if path in commit.tree])

    def preupload(self, kinds: str, repo_id: str, revision: str) -> None:
        asked = json.loads(self.body())
        commit = self.at(self.reach(kinds, repo_id, write=True, revision=self.target(revision)), revision)
        if commit is None:
            return
        found = []
        for file in asked["files"]:
            large = file["path"].endswith(self.store.lfs_suffixes) or file["size"] > LARGE
            known = {"oid": commit.tree[file["path"]].etag} if file["path"] in commit.tree else {}
            mode = {"path": file["path"], "uploadMode": "lfs" if large else "regular"}
            found.append({**mode, "shouldIgnore": False, **known})
        self.json({"files": found})

    def lfs_batch(self, repo_id: str, kinds: str | None = None) -> None:
        asked = json.loads(self.body())
        # A pull request's objects go to the same place before the request is opened.
        if not self.reach((kinds or "models/").rstrip("/"), repo_id, write=True, revision=""):
            return
        found = []
        for item in asked["objects"]:
            place = f"{self.url}/_lfs/{item['oid']}"
            actions = {"upload": {"href": place, "header": {}}, "verify": {"href": f"{place}/verify", "header": {}}}
            missing = {} if item["oid"] in self.store.lfs else {"actions": actions}
            found.append({"oid": item["oid"], "size": item["size"], "authenticated": True, **missing})
        self.json({"transfer": "basic", "objects": found})

    def lfs_put(self, oid: str) -> None:
        data = self.body()
        if hashlib.sha256(data).hexdigest() != oid:
            return self.error(422, "", "sha256 mismatch")
        self.store.lfs[oid] = data
        self.send(200, headers={"ETag": f'"{oid}"'})

    def lfs_verify(self, oid: str) -> None:
        size = json.loads(self.body())["size"]
        known = oid in self.store.lfs and len(self.store.lfs[oid]) == size
        self.json({"message": "ok" if known else "not found"}, 200 if known else 404)

    def no_xet(self, kinds: str, repo_id: str, revision: str | None = None) -> None:
        self.error(404, "", "Xet is not served here")

    def commit(self, kinds: str, repo_id: str, revision: str) -> None:
        header, *operations = [json.loads(line) for line in self.body().splitlines() if line.strip()]
        repo = self.reach(kinds, repo_id, write=True, revision=self.target(revision))
        base = self.at(repo, revision)
        if base is None:
            return
        parent = header["value"].get("parentCommit")
        if parent and not base.oid.startswith(parent):
            return self.error(412, "", "A commit has happened since. Please refresh and try again.")
        tree = dict(base.tree)
        for operation in operations:
            problem = self.change(tree, operation["key"], operation["value"])
            if problem:
                return self.error(*problem)
        opened, reference, title = {}, revision, header["value"]["summary"]
        if "create_pr" in self.query:
            number = repo.open_pull_request(self.user(), title, base.oid)
            reference = f"refs/pr/{number}"
            opened = {"pullRequestUrl": f"{self.url}/{repo_id}/discussions/{number}"}
        made = repo.commit(reference, title, header["value"].get("description", ""), tree, base.oid)
        named = {"commitUrl": f"{self.url}/{repo_id}/commit/{made.oid}", "commitOid": made.oid}
        self.json({"success": True, "hookOutput": "", **named, **opened})

    def change(self, tree: dict[str, Entry], kind: str, value: dict) -> tuple[int, str, str] | None:
        """Does one line of a commit; an error where it cannot be done."""
        path = value["path"]
        if path.startswith("/") or {"..", ".git", ""} & set(path.rstrip("/").split("/")):
            return 400, "", f"invalid path {path!r}"
        if kind == "file":
            tree[path] = Entry(base64.b64decode(value["content"]))
        elif kind == "lfsFile":
            if value["oid"] not in self.store.lfs:
                return 400, "", f"LFS object {value['oid']} was not uploaded"
            tree[path] = Entry(self.store.lfs[value["oid"]], lfs=True)
        elif kind == "deletedFile":
            if tree.pop(path, None) is None:
                return 404, "EntryNotFound", "A file with this name doesn't exist"
        elif kind == "deletedFolder":
            for name in [name for name in tree if name.startswith(f"{path.rstrip('/')}/")]:
                del tree[name]
        return None

    def resolve(
        self, repo_id: str, revision: str, path: str, kinds: str | None = None, cached: str | None = None
    ) -> None:
        self.body()
        repo = self.reach((kinds or "models/").rstrip("/"), repo_id)
        if repo and repo.gated and self.user() != repo.owner:
            restricted = f"Access to model {repo_id} is restricted and you are not in the authorized list."
            return self.error(403 if self.user() else 401, "GatedRepo", restricted)
        commit = self.at(repo, revision)
        if commit is None:
            return
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.tree:
            return self.error(404, "EntryNotFound", "Entry not found", headers)
        entry = commit.tree[path]
        headers["ETag"] = f'"{entry.etag}"'
        if self.fault and self.fault.kind == "no-commit":
            headers = {}
        linked = {"X-Linked-Size": str(len(entry.data)), "X-Linked-Etag": f'"{entry.etag}"'}
        if "relative" in self.store.redirects and not entry.lfs and cached is None:
            place = f"/api/resolve-cache/{kinds or 'models/'}{repo_id}/{commit.oid}/{quote(path)}"
            return self.send(307, headers={**headers, **linked, "Location": place})
        if "cdn" in self.store.redirects and entry.lfs:
            return self.send(302, headers={**headers, **linked, "Location": f"{self.cdn_url}/_cdn/{entry.sha256}"})
        self.content(entry.data, headers)

    def cdn(self, oid: str) -> None:
        if self.token:
            return self.error(400, "", "a token was sent to the CDN")
        if oid not in self.store.lfs:
            return self.error(404, "", "gone")
        self.content(self.store.lfs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def content(self, data: bytes, headers: dict[str, str]) -> None:
        """A file or the part of it that Range names, with the faults a body can have."""
        kind = self.fault.kind if self.fault and self.command == "GET" else None
        status, size = 200, len(data)
        if kind == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match:
            first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
            if first >= size:
                return self.send(416, headers={"Content-Range": f"bytes */{size}"})
            status, headers = 206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}
            data = data[first : last + 1]
        announced = len(data)
        if kind == "truncate":
            self.close_connection = True
            data = data[: announced // 2]
        self.send(status, data, "application/octet-stream", headers, announced)


FOLDER = r"(?P<kinds>datasets/|spaces/|kernels/)?"
CACHED = r"/api/(?P<cached>resolve-cache)/(?P<kinds>models/|datasets/|spaces/|kernels/)"
FILE_ROUTES = [
    (methods, re.compile(pattern), answer)
    for methods, pattern, answer in [
        (("POST",), f"/api/{KIND}/{REPO}/paths-info/{REVISION}", FileRoutes.paths_info),
        (("POST",), f"/api/{KIND}/{REPO}/preupload/{REVISION}", FileRoutes.preupload),
        (("POST",), f"/api/{KIND}/{REPO}/commit/{REVISION}", FileRoutes.commit),
        (("GET",), f"/api/{KIND}/{REPO}/xet-(?:read|write)-token(?:/{REVISION})?", FileRoutes.no_xet),
        (("GET", "HEAD"), rf"{CACHED}{REPO}/{REVISION}/(?P<path>.+)", FileRoutes.resolve),
        (("GET", "HEAD"), rf"/{FOLDER}{REPO}/resolve/{REVISION}/(?P<path>.+)", FileRoutes.resolve),
        (("POST",), rf"/{FOLDER}(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", FileRoutes.lfs_batch),
        (("PUT",), r"/_lfs/(?P<oid>[0-9a-f]{64})", FileRoutes.lfs_put),
        (("POST",), r"/_lfs/(?P<oid>[0-9a-f]{64})/verify", FileRoutes.lfs_verify),
        (("GET", "HEAD"), r"/_cdn/(?P<oid>[0-9a-f]{64})", FileRoutes.cdn),
    ]
]
