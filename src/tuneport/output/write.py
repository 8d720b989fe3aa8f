"""Write an output folder that either does not exist or is complete.

Everything is written into DIR.partial, under a lock and with a journal, and renamed to DIR at the very end. A killed
run leaves only DIR.partial (and, between the two renames of --overwrite, DIR.old); the next run resumes or repairs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tuneport.checkpoint.local_folder import read_file_header
from tuneport.checkpoint.open_files import KeptFile
from tuneport.checkpoint.small_files import JOURNAL
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import CheckpointError, HubError, OutputError, TakenError, TuneportError, named
from tuneport.files.holding import held, is_at
from tuneport.files.opening import check_inside, resolved
from tuneport.files.printable import listed_names
from tuneport.files.writing import open_own, told, whole, write_new
from tuneport.output import journal
from tuneport.output.journal import Journal, LeafRecord
from tuneport.output.replacing import (
    HOLES,
    LENGTHS,
    check_replaceable,
    finish_replacing,
    is_empty_folder,
    is_ours,
    move_into_place,
    read_record,
    strays_in_partial,
)
from tuneport.output.shards import Layout
from tuneport.platforms import flags, read_at

MANIFEST = "tuneport.json"
# Larger writes ask the page cache for large blocks of memory, which cost a virtual machine up to three times as much.
WRITE_BYTES = 2**18


class AlreadyDone(Exception):  # noqa: N818  (no error: the folder is there, made by the same plan)
    """The output is complete and was made by this very plan."""


class OutputFolder:
    """DIR.partial while it is being filled. Use `begin`."""

    def __init__(self, out: Path, partial: Path, plan: Mapping[str, Any], layout: Layout) -> None:
        """Open the journal, and make every shard, of its full size."""
        self.out, self.partial, self.layout = out, partial, layout
        self._shards: dict[str, KeptFile] = {}
        self._closed = False
        with told(partial):
            self.journal = Journal(partial, plan)
            _check_space(out, partial, layout.needed - _allocated(partial))
            for file, size in layout.sizes.items():
                place = partial / self.written_to(file)
                self._shards[file] = KeptFile(place, os.O_RDWR | flags("O_NOFOLLOW"))
                descriptor = open_own(place, os.O_RDWR)
                try:
                    self._begin_shard(descriptor, file, size)
                finally:
                    os.close(descriptor)

    @staticmethod
    def written_to(file: str) -> str:
        """Where a file's tensors are written meanwhile."""
        return file

    def _begin_shard(self, descriptor: int, file: str, size: int) -> None:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, size)
        write_all(descriptor, memoryview(self.layout.headers[file]), 0)

    def write(self, slot: StoredTensor, start: int, content: memoryview) -> None:
        """Write bytes of a tensor, from its byte ``start`` on."""
        with told(self.partial), self._shards[slot.file].used() as descriptor:
            write_all(descriptor, content, slot.offset + start)

    def note(self, tensor: str, leaf: int, record: LeafRecord) -> None:
        """Journal a leaf whose bytes are written."""
        with told(self.partial):
            self.journal.add(tensor, leaf, record)

    def read_into(self, slot: StoredTensor, start: int, buffer: memoryview) -> None:
        """Read back bytes of a tensor that an earlier run wrote."""
        with told(self.partial), self._shards[slot.file].used() as descriptor:
            read_all(descriptor, buffer, slot.offset + start)

    def finish(self, files: Mapping[str, bytes | Path], manifest: Iterable[bytes]) -> None:
        """Write the small files and the manifest, then rename DIR.partial to DIR."""
        with told(self.partial):
            for name, content in files.items():
                place = self.partial / name
                place.parent.mkdir(parents=True, exist_ok=True)
                check_inside(place.parent, self.partial)
                write_new(place, content)
            expected = {*files, *self.layout.sizes, JOURNAL}
            _remove_remains(self.partial, expected)
            with whole(self.partial / MANIFEST) as file:
                file.writelines(manifest)
            self.close()
            self.journal.path.unlink()
            move_into_place(self.out, self.partial)

    def discard(self) -> None:
        """Remove DIR.partial: nothing in it will be of use to a later run."""
        with told(self.partial):
            self.close()
            shutil.rmtree(self.partial)

    def close(self) -> None:
        """Close shards and journal; DIR.partial stays as it is."""
        if not self._closed:
            self._closed = True
            self.journal.close()
        for shard in self._shards.values():
            shard.close()


@contextmanager
def begin(
    out: Path, plan: Mapping[str, Any], layout: Layout, overwrite: bool, kind: type[OutputFolder] = OutputFolder
) -> Iterator[OutputFolder]:
    """DIR.partial, locked, for a run of ``plan``; a killed run's folder is resumed if its plan is the same. ``plan`` is
    a JSON object; equal plans mean the same run. Raises `AlreadyDone` if DIR is complete with this plan, and
    `OutputError` if DIR is something else (unless ``overwrite``), in use by another run, or started with another plan.
    """
    partial = _partial(out)
    with _locked(partial):
        _check_ours(partial)
        _repair(out, partial)
        if os.path.lexists(out):
            _take_up_existing(out, partial, plan, layout, overwrite)
        partial.mkdir(exist_ok=True)
        with told(partial):
            if (partial / JOURNAL).exists() and journal.can_be_discarded(partial, plan):
                _clear(partial)
        try:
            with closing(kind(out, partial, plan, layout)) as folder, _refusals_noted(folder):
                yield folder
        except BaseException:
            with suppress(OSError):
                if (partial / JOURNAL).exists() and not journal.holds_leaves(partial):
                    _clear(partial)  # nothing was finished, so nothing is left in the way of another try
                    partial.rmdir()
            raise


@contextmanager
def _refusals_noted(folder: OutputFolder) -> Iterator[None]:
    """Record in the journal that a run stopped itself (NaN, doubts, changed inputs); runs that failed from outside are
    resumed.
    """
    try:
        yield
    except (OutputError, HubError):
        raise
    except TuneportError as error:
        if folder.partial.exists():
            with told(folder.partial):
                folder.journal.add_refusal(type(error).__name__)
        raise


def check_place(out: Path, inputs: list[Path]) -> None:
    """Refuse places where an output would destroy what it is made of. Raises `OutputError`."""
    place = resolved(out)
    for path in inputs:
        other = resolved(path)
        if place == other or place in other.parents:
            raise OutputError(f"{named('out', out)} contains the input {path}; give a separate folder.")
        if _partial(place) in (other, *other.parents):
            raise OutputError(
                f"{named('out', out)} would be written in {_partial(out)}, which is the input {path} or contains it; "
                f"give another {named('out')}."
            )
        if other in place.parents:
            raise OutputError(f"{named('out', out)} is inside the input {path}; give a folder outside it.")
    if place in resolved(Path.cwd()).parents or place == resolved(Path.cwd()):
        raise OutputError(f"{named('out', out)} is the current folder or one above it; give a separate folder.")
    if not out.name or not place.parent.is_dir():
        raise OutputError(f"{named('out', out)}: the folder {place.parent} does not exist. Create it first.")


def place_refusals(
    out: Path, inputs: list[Path], plan: Mapping[str, Any], layout: Layout, overwrite: bool
) -> list[str]:
    """Why a run would not write to ``out``, without touching anything; empty if it would, or is done already."""
    try:
        check_place(out, inputs)
        if os.path.lexists(out):
            _check_existing(out, plan, layout, overwrite)
        partial = _partial(out)
        _check_ours(partial)
        if (partial / JOURNAL).exists():
            journal.can_be_discarded(partial, plan)
        written = _allocated(partial) if partial.is_dir() else 0
        _check_space(out, resolved(out).parent, layout.needed - written)
    except AlreadyDone:
        return []
    except OutputError as error:
        return [str(error)]
    return []


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Hold DIR.partial; where it was made for this and nothing came into it, it goes again."""
    made = not partial.exists()
    with held(partial, "Wait for it, or stop it.", holder=lambda _: journal.holder(partial)) as descriptor:
        try:
            yield
        finally:
            if made and is_at(descriptor, partial) and not any(partial.iterdir()):
                partial.rmdir()


def _repair(out: Path, partial: Path) -> None:
    """Finish the move that a kill cut short after the last write, where nothing is in its place; nothing is removed."""
    with told(out.parent):
        if _is_complete(partial) and not os.path.lexists(out):
            partial.rename(out)


def _take_up_existing(out: Path, partial: Path, plan: Mapping[str, Any], layout: Layout, overwrite: bool) -> None:
    """Raise an error if this run may not proceed; else finish what a killed run with --overwrite left."""
    try:
        _check_existing(out, plan, layout, overwrite)
    except AlreadyDone:
        with told(out.parent):
            finish_replacing(out)
        raise
    with told(out.parent):
        finish_replacing(out)
        if _is_complete(partial) and _is_of_plan(partial, plan):
            move_into_place(out, partial)
            raise AlreadyDone(str(out))


def _is_complete(partial: Path) -> bool:
    return is_ours(partial) and not os.path.lexists(partial / JOURNAL)


def _is_of_plan(folder: Path, plan: Mapping[str, Any]) -> bool:
    made_by = read_plan(folder)
    return made_by is not None and not journal.differing_fields(made_by, plan)


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _check_ours(partial: Path) -> None:
    """Raise where a folder merely has this name, or holds what no run writes: at the end that would go, or be published."""
    with told(partial):
        if not partial.is_dir() or partial.is_symlink():
            return
        strays = strays_in_partial(partial)
        begun = os.path.lexists(partial / JOURNAL) or is_ours(partial)
        if begun and strays:
            raise TakenError(
                f"{partial} contains files that tuneport did not write:{listed_names(strays, 8)}\nMove them away, or "
                f"give another {named('out')}."
            )
        if not begun and {entry.name for entry in partial.iterdir()} - {f"{JOURNAL}.new"}:
            raise TakenError(
                f"{partial} exists and was not written by tuneport. Move it away, or give another {named('out')}."
            )


def _clear(partial: Path) -> None:
    """Remove what a run writes before its first leaf is finished; the journal last, by which the folder is known as ours."""
    for shard in (*partial.glob("*.safetensors"), *partial.glob(f"*.safetensors{HOLES}"), partial / LENGTHS):
        if shard.exists() and not shard.is_dir():
            shard.unlink()
    for name in (f"{JOURNAL}.new", JOURNAL):
        (partial / name).unlink(missing_ok=True)


def _check_existing(out: Path, plan: Mapping[str, Any], layout: Layout, overwrite: bool) -> None:
    made_by = read_plan(out)
    different = [] if made_by is None else journal.differing_fields(made_by, plan)
    if made_by is not None and not different:
        lost = [file for file, size in layout.sizes.items() if not _has(out / file, None if layout.encoded else size)]
        if not lost:
            raise AlreadyDone(str(out))
        if not overwrite:
            raise TakenError(
                f"{out} was written by this plan, but {', '.join(lost)} is missing or has another size. Give "
                f"{named('overwrite')} to write it again, or another {named('out')}."
            )
    if is_empty_folder(out) and overwrite:
        return
    if not overwrite:
        if made_by is None and not is_ours(out):
            raise TakenError(
                f"{out} exists and was not written by tuneport. Move it away, or give another {named('out')}."
            )
        how = (
            "was written by another plan"
            if made_by is not None
            else "was written by tuneport, from other inputs or options"
        )
        if made_by is not None:
            how += f": {journal.differences_in_words(made_by, plan)}"
        raise TakenError(
            f"{out} {how.removesuffix('.')}. Give another {named('out')}, or {named('overwrite')} to replace it."
        )
    check_replaceable(out)


def _check_space(out: Path, place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"The disk of {out} has {free:,} bytes free, the output needs {needed:,} more. "
            f"Free some space, or give another {named('out')}."
        )


def _remove_remains(partial: Path, expected: set[str]) -> None:
    """Remove what an earlier, killed run of this very plan wrote with other software; other files are reported before
    that.
    """
    strange = set(strays_in_partial(partial))
    for path in sorted(partial.rglob("*")):
        name = path.relative_to(partial).as_posix()
        if name not in expected | strange and (path.is_symlink() or not path.is_dir()):
            path.unlink()


def _allocated(folder: Path) -> int:
    """Bytes on disk that a folder's files take already (a shard that is not filled yet is sparse)."""
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir() if path.is_file())


def _has(path: Path, size: int | None) -> bool:
    """Whether a file of this size is there; None: of the size that its header says."""
    if not path.is_file():
        return False
    if size is not None:
        return path.stat().st_size == size
    try:
        read_file_header(path, path.name)
    except CheckpointError:
        return False
    return True


def read_plan(out: Path) -> dict[str, Any] | None:
    """The plan in a finished folder's manifest, or None where there is no such manifest."""
    try:
        manifest = read_record(out / MANIFEST)
        plan = manifest["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plan if isinstance(plan, dict) else None


def read_all(descriptor: int, buffer: memoryview, position: int) -> None:
    """Fill a buffer from a file that is long enough."""
    while buffer:
        count = read_at(descriptor, buffer, position)
        assert count, "the file has its full size"
        position, buffer = position + count, buffer[count:]


def write_all(descriptor: int, content: memoryview, position: int) -> None:
    """Write all bytes from a place of a file on."""
    while content:
        count = os.pwrite(descriptor, content[:WRITE_BYTES], position)
        position, content = position + count, content[count:]
