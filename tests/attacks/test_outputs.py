"""What is in a finished folder beside its files is told by verify, of whatever kind it is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.diffvector.run import transfer
from tuneport.errors import TuneportError, VerificationError
from tuneport.verification import verify


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made = tiny.trio(tmp_path / "models", LICENSE="ours")
    transfer(*made.paths, tmp_path / "out", shard_size="600")
    assert verify(tmp_path / "out").leaves > 0
    return tmp_path / "out"


def elsewhere(path: Path) -> Path:
    """The file moved out of the folder, and a link in its place."""
    place = path.parent.parent / f"moved-{path.name}"
    path.rename(place)
    path.symlink_to(place)
    return place


def shard(out: Path) -> Path:
    return sorted(out.glob("*.safetensors"))[0]


ODD: dict[str, Callable[[Path], object]] = {
    "a link to a file elsewhere": lambda out: (out / "notes.txt").symlink_to("/etc/hostname"),
    "a link to nothing": lambda out: (out / "notes.txt").symlink_to("nowhere"),
    "a link to a folder": lambda out: (out / "more").symlink_to("/etc"),
    "a link to itself": lambda out: (out / "loop").symlink_to("loop"),
    "a link in a link's folder": lambda out: (out / "up").symlink_to(".."),
    "a config that is a link": lambda out: elsewhere(out / "config.json"),
    "a config that is a link within": lambda out: (
        (out / "config.json").rename(out / "tokenizer"), (out / "config.json").symlink_to("tokenizer"),
    ),
    "weights that are a link": lambda out: elsewhere(shard(out)),
    "a manifest that is a link": lambda out: elsewhere(out / "tuneport.json"),
    "a pipe": lambda out: os.mkfifo(out / "pipe"),
    "a socket": lambda out: socket.socket(socket.AF_UNIX).bind(os.path.relpath(out / "s")),
    "an empty folder": lambda out: (out / "empty").mkdir(),
    "folders in folders": lambda out: (out / "a" / "b").mkdir(parents=True),
    "a hidden file": lambda out: (out / ".hidden").write_text("x"),
    "a file in a folder": lambda out: ((out / "a").mkdir(), (out / "a" / "x.py").write_text("x")),
    "a name that is not UTF-8": lambda out: Path(os.fsdecode(os.fsencode(out) + b"/x\xff")).write_text("x"),
    "a pipe in a file's place": lambda out: ((out / "LICENSE").unlink(), os.mkfifo(out / "LICENSE")),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_an_odd_entry_is_told(out: Path, what: str) -> None:
    ODD[what](out)
    with pytest.raises(TuneportError) as caught:
        verify(out)
    assert isinstance(caught.value, VerificationError) or "link" in str(caught.value)


def test_links_to_the_blobs_of_the_hubs_cache_are_what_its_snapshots_hold(out: Path) -> None:
    repository = out.parent / "models--org--name"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(out.iterdir())):
        file.rename(blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    assert verify(snapshot).kind == "integrity only"
    (snapshot / "more").symlink_to("../../blobs")
    with pytest.raises(VerificationError, match="more is in the folder, but not in the manifest; it is a link"):
        verify(snapshot)


@pytest.mark.parametrize("token", [7, [], {"a": 1}, "x\x1b"])
def test_a_manifest_with_a_token_that_is_none_ends_no_run_in_a_traceback(
    cli: Cli, tmp_path: Path, token: object
) -> None:
    made = tiny.trio(tmp_path / "models", generation_config__json='{"eos_token_id": 1}')
    flags = made.flags(tmp_path / "out")
    assert cli(*flags).status == 0
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    manifest["behaviour"] |= {"end_tokens": [{"id": 1, "token": token}], "tokenizer_end_token": token}
    (tmp_path / "out" / "tuneport.json").write_text(json.dumps(manifest))
    for ran in (cli("inspect", tmp_path / "out"), cli(*flags), cli("verify", tmp_path / "out")):
        assert ran.status in (0, 1) and "\x1b" not in ran.out + ran.err
