"""An input that was rewritten in its size, with its time put back, is not the input that it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.reading import reading
from tuneport.diffvector.run import transfer
from tuneport.errors import CheckpointError, TakenError
from tuneport.output.write import OutputFolder


@pytest.fixture
def made(tmp_path: Path) -> tiny.Trio:
    return tiny.trio(tmp_path / "models")


def rewrite(path: Path) -> None:
    """Flip the last bit, and put the time back."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns and path.stat().st_size == status.st_size


def test_it_is_noticed_while_it_is_read(made: tiny.Trio) -> None:
    checkpoint = open_checkpoint(made.tuned, "tuned")
    with reading(checkpoint) as reader:
        reader.check_unchanged()
        rewrite(made.tuned / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"model\.safetensors changed while it was read"):
            reader.check_unchanged()
    with pytest.raises(CheckpointError, match="changed after its header was read"), reading(checkpoint):
        pass


def test_a_finished_output_is_not_of_it(made: tiny.Trio, tmp_path: Path) -> None:
    assert not transfer(*made.paths, tmp_path / "out").already_done
    assert transfer(*made.paths, tmp_path / "out").already_done
    rewrite(made.tuned / "model.safetensors")
    with pytest.raises(
        TakenError,
        match=r"ctime_ns .* Only the times of input files differ.* Give another out, or "
        r"overwrite",
    ):
        transfer(*made.paths, tmp_path / "out")
    assert not transfer(*made.paths, tmp_path / "out", overwrite=True).already_done


@pytest.mark.parametrize("change", ["rewritten", "chmod", "a new link"])
def test_what_was_begun_with_it_is_not_taken_up_and_the_advice_works(
    made: tiny.Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    def stop(*anything: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(OutputFolder, "finish", stop)
        transfer(*made.paths, tmp_path / "out")
    file = made.base / "model.safetensors"
    match change:
        case "rewritten":
            rewrite(file)
        case "chmod":
            file.chmod(0o600)
        case _:
            os.link(file, tmp_path / "second")
    with pytest.raises(
        TakenError, match=r"base\.files\.model\.safetensors\.ctime_ns(.|\n)* Remove out\.partial and run again"
    ):
        transfer(*made.paths, tmp_path / "out")
    for path in (tmp_path / "out.partial").iterdir():
        path.unlink()
    (tmp_path / "out.partial").rmdir()
    assert not transfer(*made.paths, tmp_path / "out").already_done
