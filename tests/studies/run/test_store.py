"""Where results lie: a folder and a URL do the same, and neither leaves anything else behind."""

from __future__ import annotations

import json
import os
import pickle
import socket
from pathlib import Path

import pytest
from support.tiny_study import what_repeats, write_study

import tuneport
from tuneport.errors import OutputError
from tuneport.studies.run.store import Store
from tuneport.studies.run.store_at import open_store

pytestmark = pytest.mark.usefixtures("scratch")


@pytest.fixture(params=["folder", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A folder, and the same behind fsspec."""
    return open_store(tmp_path / "out" if request.param == "folder" else f"file://{tmp_path}/out")


def test_small_files_are_written_whole_read_and_removed(store: Store, tmp_path: Path) -> None:
    assert store.read("steps/a/record.json") is None
    store.write("steps/a/record.json", b"one")
    store.write("steps/a/record.json", b"other")
    store.write("results.json", b"{}")
    assert store.read("steps/a/record.json") == b"other"
    assert store.sizes("steps") == {"a/record.json": 5}
    assert sorted(path.name for path in tmp_path.glob("out/**/*.*")) == ["record.json", "results.json"]
    store.remove("steps/a")
    store.remove("steps/a")
    assert store.sizes("steps") == {}
    assert store.sizes("nothing/here") == {}


def test_a_step_is_delivered_with_its_record_last_and_brought_to_where_it_is_needed(
    store: Store, tmp_path: Path
) -> None:
    with store.working("a-1") as place:
        (place / "model").mkdir()
        (place / "model" / "weights").write_bytes(b"w" * 100)
        (place / "model.partial").mkdir()
        (place / "scores.json").write_text("{}")
        store.deliver("a-1", place, b"record", "digest-of-it")
    assert store.read("steps/a-1/record.json") == b"record"
    assert (store.bring("a-1", "model", "digest-of-it") / "weights").read_bytes() == b"w" * 100
    assert store.bring("a-1", "scores.json", "digest-of-it").read_text() == "{}"
    store.clean()
    brought = store.bring("a-1", "model", "digest-of-it")
    assert (brought / "weights").read_bytes() == b"w" * 100, "another machine fetches it"
    assert store.bring("a-1", "scores.json", "digest-of-it").read_text() == "{}"
    store.remove("steps/a-1/model")
    assert not brought.exists()


def test_a_killed_step_finds_what_it_had_done(store: Store) -> None:
    with store.working("a-1") as place:
        (place / "model.partial").mkdir()
    with store.working("a-1") as place:
        assert (place / "model.partial").is_dir()


def test_a_store_can_be_sent_to_another_process(store: Store) -> None:
    store.write("results.json", b"{}")
    assert pickle.loads(pickle.dumps(store)).read("results.json") == b"{}"


def test_one_run_holds_a_study_and_another_says_who(store: Store) -> None:
    words = rf"in use by process {os.getpid()} on {socket.gethostname()}"
    with store.locked(), pytest.raises(OutputError, match=words), store.locked():
        raise AssertionError("two runs at once")
    with store.locked():
        pass


def test_a_study_behind_a_url_ends_as_in_a_folder_and_leaves_no_scratch(tmp_path: Path, scratch: Path) -> None:
    file = write_study(tmp_path / "models", keep="scored")
    for out in (str(tmp_path / "folder"), f"file://{tmp_path}/url"):
        assert tuneport.study(file, out, jobs=2 if "url" in out else 1)["failed"] == []
    assert what_repeats(tmp_path / "url") == what_repeats(tmp_path / "folder")
    assert list(scratch.iterdir()) == []
    assert tuneport.study(file, f"file://{tmp_path}/url")["already_done"]


def test_an_error_behind_a_url_tells_nothing_of_the_scratch_folder(tmp_path: Path, scratch: Path) -> None:
    file = write_study(tmp_path / "models")
    config = json.loads((tmp_path / "models" / "FT1" / "config.json").read_text())
    (tmp_path / "models" / "FT1" / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    for out in (str(tmp_path / "folder"), f"file://{tmp_path}/url"):
        assert len(tuneport.study(file, out)["failed"]) == 6 + 3, (
            "Δ1 onto three versions at two scales, three distances"
        )
    assert what_repeats(tmp_path / "url") == what_repeats(tmp_path / "folder")
    assert str(tmp_path) not in json.dumps(what_repeats(tmp_path / "url")["results.json"])


@pytest.mark.parametrize(
    ("out", "words"),
    [("nothing://bucket/study", "nothing://bucket/study: .*install it, or give a folder"), ("a-file", "is a file")],
)
def test_a_place_that_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    with pytest.raises(OutputError, match=words):
        open_store(out)
