"""However many files there are, few are open, and none is closed while it is in use."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny

from tuneport.checkpoint import open_files
from tuneport.checkpoint.open_files import KeptFile
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.reading import reading
from tuneport.errors import CheckpointError


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Room for two open files."""
    monkeypatch.setattr(open_files, "_FILES", open_files._Files(2))
    return 2


@pytest.fixture
def files(tmp_path: Path, few: int) -> Iterator[list[KeptFile]]:
    made = []
    for number in range(6):
        (tmp_path / str(number)).write_text(str(number))
        made.append(KeptFile(tmp_path / str(number), os.O_RDONLY))
    yield made
    for file in made:
        file.close()


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_only_so_many_files_stay_open_and_each_is_read_all_the_same(files: list[KeptFile], few: int) -> None:
    for number in (0, 1, 2, 3, 4, 5, 0, 3):
        with files[number].used() as descriptor:
            assert os.pread(descriptor, 9, 0) == str(number).encode()
        assert len(open_files._FILES._open) <= few


def test_a_file_in_use_is_not_closed_for_others(files: list[KeptFile], few: int) -> None:
    with files[0].used() as first, files[1].used() as second, files[2].used() as third:
        for other in files[3:]:
            with other.used():
                pass
        assert [os.pread(d, 9, 0) for d in (first, second, third)] == [b"0", b"1", b"2"]
    with files[5].used():
        assert len(open_files._FILES._open) <= few


def test_where_others_hold_all_descriptors_those_of_files_not_in_use_are_given_up(
    files: list[KeptFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    with files[0].used() as held:
        pass
    really = os.open

    def refuse_while_it_is_open(*given: object) -> int:
        if is_open(held):
            raise OSError(errno.EMFILE, "Too many open files")
        return really(*given)  # type: ignore[arg-type]  # what os.open was given

    monkeypatch.setattr(os, "open", refuse_while_it_is_open)
    with files[1].used() as descriptor:
        assert os.pread(descriptor, 9, 0) == b"1"


@pytest.mark.usefixtures("few")
def test_a_checkpoint_of_many_shards_is_read_with_two_open_files(tmp_path: Path) -> None:
    made = tiny.llama(1)
    place = tiny.write_model(tmp_path / "m", made, shards=6)
    found = open_checkpoint(place, "base")
    with reading(found) as reader:
        for name, tensor in found.tensors.items():
            content = bytearray(tensor.nbytes)
            reader.read_into(tensor, 0, memoryview(content))
            assert bytes(content) == tiny.bits(made[name]), name
        reader.check_unchanged()
        assert len(open_files._FILES._open) == 2
    assert not open_files._FILES._open


@pytest.mark.usefixtures("few")
def test_a_shard_that_is_another_file_when_it_is_opened_again_is_noticed(tmp_path: Path) -> None:
    place = tiny.write_model(tmp_path / "m", tiny.llama(1), shards=6)
    found = open_checkpoint(place, "base")
    shard = next(iter(found.files))
    with reading(found) as reader:
        status = (place / shard).stat()
        (place / "copy").write_bytes((place / shard).read_bytes())
        os.utime(place / "copy", ns=(status.st_atime_ns, status.st_mtime_ns))
        (place / "copy").rename(place / shard)
        with pytest.raises(CheckpointError, match="changed while"):
            reader.check_unchanged()
