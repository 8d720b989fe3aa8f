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
from fsspec.implementations.memory import MemoryFile

from tuneport.errors import OutputError, TuneportError
from tuneport.studies.run import url_store
from tuneport.studies.run.scratch import scratch_of
from tuneport.studies.run.store import LOCK
from tuneport.studies.run.store_at import open_store
from tuneport.studies.run.url_store import UrlStore

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
    with pytest.raises(OutputError, match=r"out: reset by peer \(ConnectionError\)\. Fix the problem"):
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
    said = r"locked://bucket/study: Unable to locate credentials \(CredentialsError\)\. Fix the problem"
    with pytest.raises(OutputError, match=said):
        open_store("locked://bucket/study")
    monkeypatch.setattr(Locked, "__init__", refusing)
    with pytest.raises(OutputError, match=said):
        open_store("locked://bucket/study")
    monkeypatch.undo()
    monkeypatch.setattr(Locked, "patient", 2)
    with pytest.raises(OutputError, match=said), open_store("locked://bucket/study").locked():
        raise AssertionError("it was held")


@pytest.mark.parametrize("key", ["../../../../../evil.txt", "..", "a/../b", "a//b", "."])
def test_a_key_that_leads_out_of_its_folder_is_not_fetched(scratch: Path, tmp_path: Path, key: str) -> None:
    system = fsspec.filesystem("memory")
    name = f"/escape/s/steps/a-1/model/{key}"
    for each in ("/escape/s/steps/a-1/model/config.json", name):
        system.store[each] = MemoryFile(system, each, b"x")
    try:
        store = UrlStore("memory://escape/s")
        for ask in (lambda: store.bring("a-1", "model", "0123456789abcdef"), lambda: store.sizes("steps")):
            with pytest.raises(OutputError, match="is outside"):
                ask()
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name in ("evil.txt", "b")]
    finally:
        system.store.clear()


def test_the_scratch_folder_has_a_name_that_others_cannot_foresee(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    for user in ("one", "other"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / user))
        found |= {scratch_of("memory://b/s") for _ in range(2)}
    assert len(found) == 2 and all(place.parent == scratch for place in found)
    assert (tmp_path / "one" / "tuneport" / "scratch-key").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert scratch_of("memory://b/s") == scratch_of("memory://b/s")


@pytest.mark.parametrize("what", ["a link", "a file", "others may write"])
def test_a_scratch_folder_that_others_may_have_made_is_not_used(scratch: Path, tmp_path: Path, what: str) -> None:
    store = UrlStore("memory://b/s")
    place, elsewhere = scratch_of(store.url), tmp_path / "elsewhere"
    elsewhere.mkdir()
    match what:
        case "a link":
            place.symlink_to(elsewhere)
        case "a file":
            place.write_text("")
        case _:
            place.mkdir()
            place.chmod(0o777)
    for use in (
        lambda: store.bring("a-1", "model", "0123456789abcdef"),
        store.clean,
        lambda: store.remove("steps/a-1"),
    ):
        with pytest.raises(OutputError, match="can be used by others too"):
            use()
    with pytest.raises(OutputError, match="can be used by others too"), store.working("a-1"):
        pass
    assert list(elsewhere.iterdir()) == []


def test_a_scratch_folder_is_its_owners_alone(scratch: Path) -> None:
    with UrlStore("memory://b/s").working("a-1"):
        assert [place.stat().st_mode & 0o777 for place in scratch.iterdir()] == [0o700]


def test_behind_a_url_of_this_machine_links_and_pipes_lead_nowhere(scratch: Path, tmp_path: Path) -> None:
    store, model = UrlStore(f"file://{tmp_path}/out"), tmp_path / "out" / "steps" / "a-1" / "model"
    model.mkdir(parents=True)
    (tmp_path / "secret").write_text("hf_SECRET")
    (model / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(TuneportError, match="a link leads out of the folder"):
        store.bring("a-1", "model", "0123456789abcdef")
    (model / "LICENSE").unlink()
    os.mkfifo(model / "LICENSE")
    with pytest.raises(TuneportError, match="named pipe"):
        store.bring("a-1", "model", "0123456789abcdef")
    os.mkfifo(tmp_path / "out" / "results.json")
    assert store.read("results.json") is None
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "linked").symlink_to(tmp_path / "elsewhere")
    for ask in (lambda: store.write("linked/x", b""), lambda: store.remove("linked/x")):
        with pytest.raises(TuneportError, match="a link leads out of the folder"):
            ask()


def test_an_object_larger_than_any_record_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = UrlStore("memory://large/study")
    store.write("record.json", b"[" * 4000)
    assert store.read("record.json") == b"[" * 4000
    monkeypatch.setattr(url_store, "MOST_RECORD_BYTES", 1000)
    assert store.read("record.json") is None
