"""A loopback Hugging Face Hub: the slice of its HTTP API that huggingface_hub needs to create, push, find and pull.

    with LoopbackHub() as hub:
        ...  # a client process with HF_ENDPOINT=hub.url

Answers and headers are those huggingface_hub 0.36, 1.31 and 2.4 were seen to need; Xet is not served. To look at it by
hand: `python tests/hub/hub_server.py --port 8899`.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_faults import Fault, take
from hub_file_routes import FILE_ROUTES, FileRoutes
from hub_repo_routes import REPO_ROUTES, RepoRoutes
from hub_store import KINDS, Commit, Repo, Request, Store

PAGE = b"<!doctype html><title>Welcome</title><p>It works!"


class Answering(RepoRoutes, FileRoutes, BaseHTTPRequestHandler):
    """One connection; `store` is set by LoopbackHub."""

    protocol_version = "HTTP/1.1"
    server_version = "loopback-hub/0.2"
    store: Store
    url: str
    cdn_url: str
    fault: Fault | None
    query: dict[str, list[str]]

    def log_message(self, *_) -> None:
        """The store keeps the log."""

    def route(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        with self.store.lock:
            self.fault = take(self.store.faults, self.command, self.path)
        if self.fault and self.fault.status:
            self.body()
            return self.error(self.fault.status, "", self.fault.message)
        if self.fault and self.fault.kind == "web-page":
            self.body()
            return self.send(200, PAGE, "text/html")
        if self.fault:
            self.fault.effect()
            time.sleep(self.fault.seconds)
        for methods, pattern, answer in REPO_ROUTES + FILE_ROUTES:
            match = pattern.fullmatch(parts.path)
            if match and self.command in methods:
                named = {name: None if text is None else unquote(text) for name, text in match.groupdict().items()}
                with self.store.lock:
                    return answer(self, **named)
        self.body()
        self.error(404, "", f"no route {self.command} {parts.path}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = route

    def send(
        self, status: int, body: bytes = b"", kind: str = "application/json", headers=None, announced=None
    ) -> None:
        """Answers; `announced` is the Content-Length where it is not the body's."""
        empty = self.command == "HEAD"
        token, wanted = "Authorization" in self.headers, self.headers.get("Range")
        sent = 0 if empty else len(body)
        origin = "http://{}:{}".format(*self.server.server_address[:2])
        self.store.log.append(Request(self.command, self.path, status, wanted, token, sent, origin))
        self.send_response(status)
        length = str(len(body) if announced is None else announced)
        for name, value in {"Content-Type": kind, "Content-Length": length, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if not empty:
            self.wfile.write(body)

    def json(self, value, status: int = 200, headers=None) -> None:
        self.send(status, json.dumps(value).encode(), headers=headers)

    def error(self, status: int, code: str, message: str, headers=None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self.json({"error": message}, status, {**named, **(headers or {})})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def user(self) -> str | None:
        return self.store.tokens.get(self.token)

    def reach(self, kinds: str, repo_id: str, *, write: bool = False, revision: str | None = None) -> Repo | None:
        """The repository, or None after an error was sent; what is unknown and what is private look the same.

        Args:
            write: the user is going to change something.
            revision: which branch; None = all of it, "" = a pull request yet to be opened.
        """
        repo, user = self.store.repos.get((KINDS[kinds], repo_id)), self.user()
        if self.token and user is None:
            self.error(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and user != repo.owner):
            anonymous = "Invalid username or password."
            self.error(404 if user else 401, "RepoNotFound", "Repository not found" if user else anonymous)
        elif write and user is None:
            self.error(401, "", "Invalid username or password.")
        elif write and (self.token in self.store.readonly or not (revision == "" or repo.may_write(user, revision))):
            self.error(403, "", f"You don't have the required permissions to write to {repo_id}")
        else:
            return repo
        return None

    def at(self, repo: Repo | None, revision: str) -> Commit | None:
        """The commit, or None after an error was sent."""
        commit = repo and repo.resolve(revision)
        if repo and commit is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit


class LoopbackHub:
    """Context manager that serves a Store on 127.0.0.1, with its CDN on another origin ("localhost", another port)."""

    def __init__(self, port: int = 0, **options):
        self.store = Store(**options)
        handler = type("Bound", (Answering,), {"store": self.store})
        self.servers = [ThreadingHTTPServer(("127.0.0.1", number), handler) for number in (port, 0)]
        for server in self.servers:
            server.daemon_threads = True
        self.url = handler.url = f"http://127.0.0.1:{self.servers[0].server_address[1]}"
        # Another host name: hub 1.31 compares names, not ports, before it forwards a token.
        self.cdn_url = handler.cdn_url = f"http://localhost:{self.servers[1].server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def fault(self, method: str, pattern: str, kind: str, times: int = 1, **more) -> None:
        self.store.faults.append(Fault(method, pattern, kind, times, **more))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8899)
    with LoopbackHub(parser.parse_args().port) as hub:
        print(f"export HF_ENDPOINT={hub.url} HF_TOKEN=hf_owner HF_HUB_DISABLE_XET=1", flush=True)
        threading.Event().wait()
