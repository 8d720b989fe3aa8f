"""Results behind a URL: who holds them, what is fetched, and what goes wrong on the way there."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from tuneport.errors import OutputError
from tuneport.study import url_store
from tuneport.study.opening import open_store
from tuneport.study.store import LOCK
from tuneport.study.url_store import UrlStore

pytestmark = pytest.mark.usefixtures("scratch")


@pytest.mark.parametrize(
    ("pid", "host", "age", "held"),
    [(None, "here", 5, True), (2**22 + 1, "here", 5, False), (1, "elsewhere", 5, True), (1, "elsewhere", 61, False)],
)
def test_the_lock_of_a_url_counts_while_its_holder_lives(
    tmp_path: Path, pid: int | None, host: str, age: float, held: bool
) -> None:
    store = UrlStore(f"file://{tmp_path}/out")
    name = socket.gethostname() if host == "here" else host
    note = {"by": "somebody", "pid": pid or os.getpid(), "host": name, "at": time.time() - age}
    store.write(LOCK, json.dumps(note).encode())
    if held:
        with pytest.raises(OutputError, match="in use by somebody"), store.locked():
            raise AssertionError("it was held")
    else:
        with store.locked():
            pass


def test_a_lock_that_cannot_be_renewed_for_a_moment_is_renewed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, write = UrlStore(f"file://{tmp_path}/out"), LocalFileSystem.pipe_file
    tries: list[dict[str, Any]] = []
    renewed = threading.Event()

    def away_at_first(system: LocalFileSystem, path: str, content: bytes, **choices: Any) -> None:
        tries.append(json.loads(content))
        if 1 < len(tries) < 5:
            raise ConnectionError("the network is away")
        write(system, path, content, **choices)
        if len(tries) > 5:  # the one before is in its place by now
            renewed.set()

    monkeypatch.setattr(url_store, "_RENEWED", 0.001)
    monkeypatch.setattr(LocalFileSystem, "pipe_file", away_at_first)
    with store.locked():
        assert renewed.wait(60)
        assert json.loads(store.read(LOCK) or b"")["at"] > tries[0]["at"]
    assert store.read(LOCK) is None


def test_a_fetch_that_is_cut_short_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, fetch = UrlStore(f"file://{tmp_path}/out"), LocalFileSystem.get_file
    with store.working("a-1") as place:
        (place / "model").mkdir()
        for name in ("config", "weights"):
            (place / "model" / name).write_text(name * 10)
        store.deliver("a-1", place, b"record", "digest-of-it")
    store.clean()  # as on another machine
    fetched: list[str] = []

    def cut_short(system: LocalFileSystem, source: str, target: str, **choices: Any) -> None:
        fetched.append(source)
        if len(fetched) == 2:
            Path(target).write_text("half of")
            raise ConnectionError("reset by peer")
        fetch(system, source, target, **choices)

    monkeypatch.setattr(LocalFileSystem, "get_file", cut_short)
    with pytest.raises(OutputError, match=r"out: reset by peer \(ConnectionError\)\. Mend the cause"):
        store.bring("a-1", "model", "digest-of-it")
    brought = store.bring("a-1", "model", "digest-of-it")
    assert {file.name: file.read_text() for file in brought.iterdir()} == {
        "config": "config" * 10,
        "weights": "weights" * 10,
    }
    assert len(fetched) == 4, "both again"


class CredentialsError(Exception):
    """An error of a library's own, as those of the clouds have."""


class Locked(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """Behind it nobody is let in; but `patient` calls are."""

    protocol = "locked"
    patient = 0

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        type(self).patient -= 1
        if type(self).patient >= 0:
            raise FileNotFoundError(path)
        raise CredentialsError("Unable to locate credentials\nof any kind")

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        raise CredentialsError("Unable to locate credentials")


def refusing(*_: Any, **__: Any) -> None:
    """A system that asks for its key before anything else."""
    raise CredentialsError("Unable to locate credentials")


def test_what_goes_wrong_behind_a_url_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fsspec.register_implementation("locked", Locked, clobber=True)
    said = r"locked://bucket/study: Unable to locate credentials \(CredentialsError\)\. Mend the cause"
    with pytest.raises(OutputError, match=said):
        open_store("locked://bucket/study")
    monkeypatch.setattr(Locked, "__init__", refusing)
    with pytest.raises(OutputError, match=said):
        open_store("locked://bucket/study")
    monkeypatch.undo()
    monkeypatch.setattr(Locked, "patient", 2)
    with pytest.raises(OutputError, match=said), open_store("locked://bucket/study").locked():
        raise AssertionError("it was held")
