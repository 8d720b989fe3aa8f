"""A Hub on the loopback interface that holds data sets: their listings and files, as the `datasets` library asks for them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from support.loopback_hub import LoopbackHub

_HOME = r"/api/datasets/([^/]+/[^/]+)(?:/revision/.+)?"
_TREE = r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+(?:/(.*))?"
_FILE = r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)"


@dataclass
class DataSetHub(LoopbackHub):
    """``repositories`` are folders of data sets, too; their revision is ``main``. Those that are ``gated`` let nobody in."""

    gated: set[str] = field(default_factory=set)

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content for a path."""
        if "/datasets/" not in path:
            return super().answer(path, authorization)
        if path.endswith("/auth-check"):
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        home, tree, file = (re.fullmatch(pattern, path) for pattern in (_HOME, _TREE, _FILE))
        found = home or tree or file
        if found is None or found[1] not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        folder, commit = self.repositories[found[1]]["main"], self.commit(found[1], "main")
        if file:
            if not (folder / file[2]).is_file():
                return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
            content = (folder / file[2]).read_bytes()
            return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}, content
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if tree:
            below = [path for path in files if _name(path, folder).startswith(tree[2] or "")]
            return 200, {"Content-Type": "application/json"}, json.dumps([_entry(p, folder) for p in below]).encode()
        told = {
            "id": found[1],
            "sha": commit,
            "private": False,
            "gated": "auto" if found[1] in self.gated else False,
            "disabled": False,
            "tags": [],
        }
        siblings = [{"rfilename": _name(path, folder)} for path in files]
        return 200, {"Content-Type": "application/json"}, json.dumps({**told, "siblings": siblings}).encode()


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _entry(path: Path, folder: Path) -> dict[str, object]:
    content = path.read_bytes()
    return {
        "type": "file",
        "path": _name(path, folder),
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }
