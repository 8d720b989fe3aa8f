"""A Hub on the loopback interface that takes pushes as the real one does: accounts, repositories, large files, commits.

In come the requests of the Hub's own client, out come repositories whose every commit is a folder. Large files go to a
store of their own, are known by their hash, and are asked for once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.loopback_hub import LoopbackHub, is_large

TOKEN = "hf_" + "a" * 34
Answer = tuple[int, bytes]


@dataclass
class PushingHub(LoopbackHub):
    """``root`` is where commits and large files lie. ``before`` is called with each request that sends something."""

    root: Path = Path()
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    before: Callable[[str, str], Answer | None] = lambda method, path: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.accounts.setdefault(TOKEN, account("me", "org"))

    def commit(self, repo: str, revision: str) -> str:
        return self.heads.get(repo) or super().commit(repo, revision)

    def main(self, repo: str) -> Path:
        """What the main branch holds."""
        return self.repositories[repo]["main"]

    def make(self, repo: str, files: dict[str, bytes] | None = None) -> None:
        """A repository as somebody made it by hand."""
        self._commit_folder(repo, {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}, "initial commit")

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        if path == "/api/whoami-v2":
            me = self._who(authorization)
            status, content = _said(me) if me else _no(401, "Invalid credentials in Authorization header")
            return status, {} if me else {"X-Error-Message": "Invalid credentials in Authorization header"}, content
        return super().answer(path, authorization)

    def receive(self, method: str, path: str, authorization: str | None, body: bytes) -> Answer:
        refused = self.before(method, path)
        if refused:
            return refused
        if method == "PUT" and path.startswith("/store/"):
            return self._store(path.removeprefix("/store/"), body)
        me = self._who(authorization)
        if me is None:
            return _no(401, "Invalid credentials in Authorization header")
        if path == "/api/validate-yaml":
            return _checked_card(json.loads(body)["content"])
        if path == "/api/repos/create":
            asked = json.loads(body)
            return self._create(me, f"{asked.get('organization') or me['name']}/{asked['name']}")
        for pattern, action in (
            (r"/api/models/([^/]+/[^/]+)/preupload/main", self._modes),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/([^/]+/[^/]+)\.git/info/lfs/verify", self._verify),
            (r"/api/models/([^/]+/[^/]+)/commit/main", self._commit),
        ):
            found = re.fullmatch(pattern, path)
            if found and not self._may_write(me, found[1]):
                return _no(403, "You have no write access")
            if found and found[1] not in self.repositories:
                return _no(404, "Repository not found")
            if found:
                with self.lock:
                    return action(found[1], body)
        return _no(404, f"no such path: {path}")

    def _who(self, authorization: str | None) -> dict[str, Any] | None:
        return self.accounts.get((authorization or "").removeprefix("Bearer "))

    def _may_write(self, me: dict[str, Any], repo: str) -> bool:
        mine = {me["name"], *(org["name"] for org in me["orgs"])}
        return repo.split("/")[0] in mine and me["auth"]["accessToken"]["role"] == "write"

    def _create(self, me: dict[str, Any], repo: str) -> Answer:
        if not self._may_write(me, repo):
            return _no(403, "You don't have the rights to create a model under this namespace")
        if repo in self.repositories:
            return 409, json.dumps(
                {"error": "You already created this model repo", "url": f"{self.url}/{repo}"}
            ).encode()
        self.make(repo)
        return _said({"url": f"{self.url}/{repo}"})

    def _modes(self, repo: str, body: bytes) -> Answer:
        said = []
        for file in json.loads(body)["files"]:
            here = self.main(repo) / file["path"]
            large = is_large(here)
            oid = _oid(here, large) if here.is_file() else None
            mode = "lfs" if large else "regular"
            said.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return _said({"files": said})

    def _batch(self, repo: str, body: bytes) -> Answer:
        objects = []
        for wanted in json.loads(body)["objects"]:
            if not self._stored(wanted["oid"]).exists():
                # On another host, as the real one's: no token belongs there.
                place = f"{self.url.replace('127.0.0.1', 'localhost')}/store/{wanted['oid']}"
                verify = {"href": f"{self.url}/{repo}.git/info/lfs/verify"}
                wanted = {**wanted, "actions": {"upload": {"href": place}, "verify": verify}}
            objects.append(wanted)
        return _said({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return _no(400, "the content is not what its hash says")
        fresh = self._stored(f"{oid}.new")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(body)
        fresh.rename(self._stored(oid))
        return 200, b""

    def _verify(self, repo: str, body: bytes) -> Answer:
        asked = json.loads(body)
        place = self._stored(asked["oid"])
        here = place.exists() and place.stat().st_size == asked["size"]
        return _said({}) if here else _no(404, "not stored")

    def _commit(self, repo: str, body: bytes) -> Answer:
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, self.commit(repo, "main")):
            return _no(412, "the branch is at another commit")
        old = self.main(repo)
        files = {path.relative_to(old).as_posix(): path.read_bytes() for path in old.rglob("*") if path.is_file()}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if not self._stored(value["oid"]).exists():
                    return _no(400, f"{value['path']} was never uploaded")
                files[value["path"]] = self._stored(value["oid"]).read_bytes()
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return _no(400, f"unknown {line['key']}")
        self._commit_folder(repo, files, header["summary"], header["description"])
        oid = self.heads[repo]
        return _said({"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{repo}/commit/{oid}"})

    def _commit_folder(self, repo: str, files: dict[str, bytes], summary: str, description: str = "") -> None:
        digest = hashlib.sha1(f"{repo} {self.heads.get(repo)} {summary}".encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha1(content).digest())
        oid = digest.hexdigest()
        folder = self.root / "commits" / repo / oid
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        self.repositories[repo] = {"main": folder}
        self.heads[repo] = oid
        self.history.setdefault(repo, []).append({"commit": oid, "summary": summary, "description": description})

    def _stored(self, oid: str) -> Path:
        return self.root / "store" / oid


def account(name: str, *orgs: str, role: str = "write") -> dict[str, Any]:
    """What the Hub says of a token's owner."""
    token = {"displayName": "a token", "role": role}
    orgs_told = [{"type": "org", "name": org, "roleInOrg": "write"} for org in orgs]
    return {"type": "user", "name": name, "orgs": orgs_told, "auth": {"type": "access_token", "accessToken": token}}


def _oid(path: Path, large: bool) -> str:
    content = path.read_bytes()
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names a file


def _checked_card(content: str) -> Answer:
    """The front matter of a card must be there, and be closed."""
    if not content.startswith("---\n") or "\n---\n" not in content[4:]:
        return 200, json.dumps({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]}).encode()
    return _said({"errors": [], "warnings": []})


def _said(value: Any) -> Answer:
    return 200, json.dumps(value).encode()


def _no(status: int, message: str) -> Answer:
    return status, json.dumps({"error": message}).encode()
