"""The loopback Hub's answers about accounts, repositories, branches, tags and pull requests."""

from __future__ import annotations

import json
import re

import yaml
from hub_store import KINDS, Repo, card_header, git_sha1

# What the Hub's list of repositories tells of each without being asked for more.
LISTED = "_id id modelId likes private downloads tags pipeline_tag library_name createdAt".split()


class RepoRoutes:
    """Methods of hub_server.Answering."""

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            return self.error(401, "", "Invalid credentials in Authorization header")
        role = "read" if self.token in self.store.readonly else "write"
        auth = {"type": "access_token", "accessToken": {"displayName": "t", "role": role}}
        self.json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": auth})

    def validate_yaml(self) -> None:
        header = card_header(json.loads(self.body())["content"])
        if header is None:
            return self.json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        try:
            card, message = yaml.safe_load(header) or {}, None
        except yaml.YAMLError as error:
            card, message = {}, str(error)
        if not isinstance(card.get("base_model", ""), (str, list)):
            message = '"base_model" must be a string or list'
        errors = [{"message": message}] if message else []
        self.json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create(self) -> None:
        asked, user = json.loads(self.body()), self.user()
        if user is None:
            return self.error(401, "", "Invalid username or password.")
        kind, owner = asked.get("type", "model"), asked.get("organization") or user
        repo_id = f"{owner}/{asked['name']}"
        url = f"{self.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
        if owner != user or self.token in self.store.readonly:
            return self.error(403, "", f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        if (kind, repo_id) in self.store.repos:
            return self.json({"error": f"You already created this {kind} repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.store.repos[kind, repo_id] = Repo(kind, repo_id, private=private)
        self.json({"url": url, "name": repo_id, "id": repo_id})

    def delete(self) -> None:
        asked = json.loads(self.body())
        kind, repo_id = asked.get("type", "model"), f"{asked.get('organization') or self.user()}/{asked['name']}"
        if self.reach(f"{kind}s", repo_id, write=True):
            del self.store.repos[kind, repo_id]
            self.json({})

    def settings(self, kinds: str, repo_id: str) -> None:
        asked = json.loads(self.body())
        repo = self.reach(kinds, repo_id, write=True)
        if repo:
            if {"visibility", "private"} & asked.keys():
                repo.private = asked.get("visibility") == "private" or bool(asked.get("private"))
            repo.gated = bool(asked.get("gated", repo.gated))
            self.json({"private": repo.private})

    def info(self, kinds: str, repo_id: str, revision: str | None = None) -> None:
        repo = self.reach(kinds, repo_id)
        commit = self.at(repo, revision or "main")
        if commit:
            self.json(repo.info(commit, "blobs" in self.query))

    def listing(self, kinds: str) -> None:
        if self.token and self.user() is None:
            return self.error(401, "", "Invalid credentials in Authorization header")
        asked = {name: self.query.get(name, [""])[0] for name in ("search", "author", "full", "cardData", "limit")}
        wanted = {tag for text in self.query.get("filter", []) for tag in text.split(",")}
        more = ["sha", "lastModified", "author", "gated", "siblings"] if asked["full"].lower() == "true" else []
        more += ["cardData"] if asked["cardData"].lower() == "true" else []
        shown = ["_id", "id", *self.query["expand"]] if "expand" in self.query else LISTED + more
        found = []
        for (kind, repo_id), repo in self.store.repos.items():
            if kind == KINDS[kinds] and (not repo.private or self.user() == repo.owner):
                info = repo.info(repo.resolve("main"))
                named = asked["search"].lower() in repo_id.lower() and asked["author"] in ("", repo.owner)
                if named and wanted <= set(info["tags"]):
                    found.append({name: info[name] for name in shown if name in info})
        self.json(found[: int(asked["limit"] or 1000)])

    def refs(self, kinds: str, repo_id: str) -> None:
        def listed(table, place):
            return [{"name": name, "ref": f"{place}{name}", "targetCommit": oid} for name, oid in table.items()]

        repo = self.reach(kinds, repo_id)
        if repo:
            branches = {name: oid for name, oid in repo.branches.items() if not name.startswith("refs/pr/")}
            named = {"branches": listed(branches, "refs/heads/"), "tags": listed(repo.tags, "refs/tags/")}
            self.json({**named, "converts": [], "pullRequests": []})

    def make_ref(self, kinds: str, repo_id: str, what: str, revision: str) -> None:
        asked = json.loads(self.body() or b"{}")
        repo = self.reach(kinds, repo_id, write=True)
        if repo is None:
            return
        tagging = what == "tag"
        table, name = (repo.tags, asked["tag"]) if tagging else (repo.branches, revision)
        if name in table:
            return self.error(409, "", f"{what} {name} already exists")
        commit = self.at(repo, revision if tagging else asked.get("startingPoint") or "main")
        if commit:
            table[name] = commit.oid
            self.json({}, 201)

    def drop_ref(self, kinds: str, repo_id: str, what: str, revision: str) -> None:
        repo = self.reach(kinds, repo_id, write=True)
        if repo:
            (repo.tags if what == "tag" else repo.branches).pop(revision, None)
            self.json({})

    def commits(self, kinds: str, repo_id: str, revision: str) -> None:
        repo = self.reach(kinds, repo_id)
        commit, found = self.at(repo, revision), []
        while commit:
            text = {"title": commit.title, "message": commit.message, "date": commit.date}
            found.append({"id": commit.oid, "authors": [{"user": repo.owner}], **text})
            commit = repo.commits.get(commit.parent)
        if found:
            self.json(found)

    def tree(self, kinds: str, repo_id: str, revision: str, path: str | None = None) -> None:
        commit = self.at(self.reach(kinds, repo_id), revision)
        if commit is None:
            return
        prefix = f"{path.rstrip('/')}/" if path else ""
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        found: dict[str, dict] = {}
        for name, entry in sorted(commit.tree.items()):
            parts = name.removeprefix(prefix).split("/")
            if not name.startswith(prefix):
                continue
            for depth in range(1, len(parts) if deep else min(2, len(parts))):
                folder = prefix + "/".join(parts[:depth])
                found[folder] = {"type": "directory", "path": folder, "oid": git_sha1(folder.encode()), "size": 0}
            if deep or len(parts) == 1:
                found[name] = entry.info(name)
        if path and not found:
            return self.error(404, "EntryNotFound", f"{path} does not exist on {revision!r}")
        self.json(list(found.values()))

    def open_pull_request(self, kinds: str, repo_id: str) -> None:
        asked = json.loads(self.body())
        repo = self.reach(kinds, repo_id, write=True, revision="")
        if repo:
            self.json({"num": repo.open_pull_request(self.user(), asked["title"])})

    def discussion(self, kinds: str, repo_id: str, number: str) -> None:
        repo = self.reach(kinds, repo_id)
        if repo:
            opened = repo.pull_requests[int(number) - 1]
            about = {"title": opened["title"], "num": int(number), "author": {"name": opened["author"]}}
            place = {"repo": {"name": repo_id, "type": repo.kind}, "changes": {"base": "refs/heads/main"}}
            state = {"status": "draft", "isPullRequest": True, "createdAt": repo.resolve("main").date}
            self.json({**about, **place, **state, "filesWithConflicts": [], "events": [], "diff": ""})


KIND, REPO, REVISION = r"(?P<kinds>models|datasets|spaces|kernels)", r"(?P<repo_id>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
REPO_ROUTES = [
    (methods, re.compile(pattern), answer)
    for methods, pattern, answer in [
        (("GET",), "/api/whoami-v2", RepoRoutes.whoami),
        (("POST",), "/api/validate-yaml", RepoRoutes.validate_yaml),
        (("POST",), "/api/repos/create", RepoRoutes.create),
        (("DELETE",), "/api/repos/delete", RepoRoutes.delete),
        (("GET",), f"/api/{KIND}", RepoRoutes.listing),
        (("PUT",), f"/api/{KIND}/{REPO}/settings", RepoRoutes.settings),
        (("GET",), f"/api/{KIND}/{REPO}/refs", RepoRoutes.refs),
        (("POST",), f"/api/{KIND}/{REPO}/(?P<what>branch|tag)/{REVISION}", RepoRoutes.make_ref),
        (("DELETE",), f"/api/{KIND}/{REPO}/(?P<what>branch|tag)/{REVISION}", RepoRoutes.drop_ref),
        (("GET",), f"/api/{KIND}/{REPO}/commits/{REVISION}", RepoRoutes.commits),
        (("GET",), f"/api/{KIND}/{REPO}/tree/{REVISION}(?:/(?P<path>.+))?", RepoRoutes.tree),
        (("POST",), f"/api/{KIND}/{REPO}/discussions", RepoRoutes.open_pull_request),
        (("GET",), f"/api/{KIND}/{REPO}/discussions/(?P<number>[0-9]+)", RepoRoutes.discussion),
        (("GET",), f"/api/{KIND}/{REPO}/revision/{REVISION}", RepoRoutes.info),
        (("GET",), f"/api/{KIND}/{REPO}", RepoRoutes.info),
    ]
]
