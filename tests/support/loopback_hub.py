"""A Hub of one's own on the loopback interface: repositories with revisions, as the real one answers for them.

In come folders, out come the model's listing, redirects for large files, ranges, and refusals; every request is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass(frozen=True)
class Request:
    """One request as it came, and how many bytes of content went back."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int


@dataclass
class LoopbackHub:
    """``repositories`` are folders by name and revision; ``refusals`` say no to a repository, ``where`` it is asked."""

    repositories: dict[str, dict[str, Path]] = field(default_factory=dict)
    refusals: dict[str, tuple[str, int, str | None]] = field(default_factory=dict)
    ranges: bool = True
    token: str | None = None
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> LoopbackHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def do_POST(self) -> None:
                self._receive()

            def do_PUT(self) -> None:
                self._receive()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def _answer(self, body: bool) -> None:
                path = unquote(urlsplit(self.path).path)
                status, headers, content = hub.answer(path, self.headers.get("Authorization"))
                asked = RANGE.match(self.headers.get("Range") or "")
                if asked and hub.ranges and status == 200:
                    first, last = int(asked[1]), int(asked[2] or len(content) - 1)
                    headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
                    status, content = 206, content[first : last + 1]
                sent = len(content) if body else 0
                hub.requests.append(
                    Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"), sent)
                )
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def _receive(self) -> None:
                path, authorization = unquote(urlsplit(self.path).path), self.headers.get("Authorization")
                hub.requests.append(Request(self.command, path, None, authorization, 0))
                status, content = hub.receive(self.command, path, authorization, self._body())
                with contextlib.suppress(ConnectionError):  # who asked may have been killed
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No answer from now on; a second time changes nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """For a process that knows no other Hub and keeps its cache in `home`; a variable that is empty is not set."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and name != "CI"}
        kept = {name: value for name, value in kept.items() if "proxy" not in name.lower()}
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return {name: value for name, value in {**kept, **own, **more}.items() if value}

    def commit(self, repo: str, revision: str) -> str:
        """The commit that a revision stands for."""
        return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content for a path."""
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if path.startswith("/cdn/"):
            return self._large(path.removeprefix("/cdn/"))
        found = listing or file
        if found is None:
            return _no(404, "EntryNotFound", "no such path")
        where = "listing" if listing else "file"
        repo, revision = found[1], found[2] or "main"
        if repo in self.refusals and self.refusals[repo][0] in (where, "everywhere"):
            return _no(self.refusals[repo][1], self.refusals[repo][2], "refused")
        if self.token is not None and authorization != f"Bearer {self.token}":
            return _no(401, "RepoNotFound", "Invalid username or password.")
        if repo not in self.repositories:
            return _no(404, "RepoNotFound", "Repository not found")
        commits = {self.commit(repo, name): name for name in self.repositories[repo]}
        revision = commits.get(revision, revision)
        if revision not in self.repositories[repo]:
            return _no(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        folder = self.repositories[repo][revision]
        if listing:
            return 200, {"Content-Type": "application/json"}, self._listing(repo, revision, folder)
        return self._file(repo, revision, folder / file[3]) if file else _no(404, None, "")

    def receive(self, method: str, path: str, authorization: str | None, body: bytes) -> tuple[int, bytes]:
        """Status and content for what is sent here: this Hub only gives."""
        return 405, b"{}"

    def _listing(self, repo: str, revision: str, folder: Path) -> bytes:
        siblings = []
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            entry: dict[str, Any] = {"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size}
            entry["blobId"] = self.digest(path, "sha1")
            if is_large(path):
                entry["lfs"] = {"sha256": self.digest(path), "size": path.stat().st_size, "pointerSize": 134}
            siblings.append(entry)
        said = {"id": repo, "modelId": repo, "sha": self.commit(repo, revision), "private": False, "gated": False}
        return json.dumps({**said, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}).encode()

    def _file(self, repo: str, revision: str, path: Path) -> tuple[int, dict[str, str], bytes]:
        if not path.is_file():
            return _no(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": self.commit(repo, revision), "Accept-Ranges": "bytes"}
        if not is_large(path):
            return 200, {**headers, "ETag": f'"{hashlib.sha1(path.read_bytes()).hexdigest()}"'}, path.read_bytes()
        etag = f'"{self.digest(path)}"'
        linked = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-Etag": etag}
        # On another host, as the real one's: the client must not hand its token on.
        place = f"{self.url.replace('127.0.0.1', 'localhost')}/cdn/{repo}/{revision}/{path.name}"
        return 302, {**headers, **linked, "ETag": etag, "Location": place}, b""

    def _large(self, place: str) -> tuple[int, dict[str, str], bytes]:
        owner, name, revision, file = place.split("/", 3)
        path = self.repositories[f"{owner}/{name}"][revision] / file
        return 200, {"ETag": f'"{self.digest(path)}"', "Accept-Ranges": "bytes"}, self.content(path)

    def digest(self, path: Path, kind: str = "sha256") -> str:
        """What the Hub says a file's digest is."""
        return hashlib.new(kind, path.read_bytes()).hexdigest()

    def content(self, path: Path) -> bytes:
        """A large file, of which ranges are sent."""
        return path.read_bytes()


def is_large(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin", ".pt", ".onnx")


def _no(status: int, code: str | None, message: str) -> tuple[int, dict[str, str], bytes]:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return status, headers, json.dumps({"error": message}).encode()
