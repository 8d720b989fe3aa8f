"""Open a model on the Hub through the standard cache.

Small files are downloaded into the cache and headers are read at once; weights that are not cached are read by range
requests until `fetch` downloads them. The Hub client honours HF_HOME, HF_TOKEN, HF_ENDPOINT and offline mode. Only the
weights that tuneport uses and the small files beside them are downloaded.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.checkpoint.checkpoint import Checkpoint, WeightFile
from tuneport.checkpoint.local_folder import as_adapter, open_folder
from tuneport.checkpoint.quantised.scaled_tensors import dequantised_reads
from tuneport.checkpoint.small_files import SidecarFolder, is_sidecar
from tuneport.checkpoint.two_sets import HUB, PICKLED, Read, compared, told_of_two, unreadable_beside
from tuneport.checkpoint.views import read_view
from tuneport.checkpoint.weight_sets import ADAPTER, NAMED_IN_CONFIG, Weights, choose_weights
from tuneport.checkpoint.weights import (
    MAX_INDEX_BYTES,
    StoredTensor,
    TensorTable,
    check_gathered,
    check_headers_together,
    join_files,
    tensors_of_file,
)
from tuneport.errors import CheckpointError, HubError
from tuneport.files.opening import MOST_SIDECAR_BYTES, check_file, opened, read_bytes, read_text
from tuneport.files.printable import quoted
from tuneport.files.writing import write_new

# What a server that knows no ranges may send for nothing before a part in a file's middle.
MOST_SKIPPED = 2**20
_MOST_REF_BYTES = 4096


def open_hub(repo: str, revision: str | None, role: str) -> Checkpoint:
    """A checkpoint on the Hub at a revision (a branch, a tag, or a commit; the default branch where none is given).

    The commit is resolved and recorded. Raises `HubError` with the page to visit or the id to correct.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return _from_cache(repo, revision, role, "offline mode is on (HF_HUB_OFFLINE)")
    try:
        with _told(repo, revision, role):
            info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    except _NoAnswerError as error:
        return _from_cache(repo, revision, role, str(error))
    return _from_listing(repo, revision, role, info)


def check_data_set(repo: str, revision: str | None) -> None:
    """Raise `HubError` if this account may not read a data set; does nothing if the Hub does not answer."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return
    with suppress(_NoAnswerError), _told(repo, revision, "data set", "datasets/"):
        if HfApi().dataset_info(repo, revision=revision).gated:  # it is listed for everybody
            HfApi().auth_check(repo, repo_type="dataset")


def fetch(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with all its weights in the cache. Raises `HubError` if the disk is too small or the Hub refuses."""
    from huggingface_hub import hf_hub_download

    assert checkpoint.hub_id is not None
    free = free_in_cache()
    if checkpoint.to_fetch > free:
        raise HubError(
            f"{checkpoint.role} {checkpoint.label}: {checkpoint.to_fetch:,} bytes must be downloaded, but the disk of "
            f"the Hub cache has {free:,} free. Free some space, or set HF_HOME to another disk."
        )
    for name in checkpoint.files:
        with _needed(checkpoint.hub_id, checkpoint.revision, checkpoint.role):
            hf_hub_download(checkpoint.hub_id, name, revision=checkpoint.revision)
    local = _as_hub(open_folder(checkpoint.path, checkpoint.role), checkpoint.hub_id, checkpoint.revision)
    known = {name: (file.size, file.header_digest) for name, file in checkpoint.files.items()}
    if known != {name: (file.size, file.header_digest) for name, file in local.files.items()}:
        raise HubError(
            f"{checkpoint.role} {checkpoint.label}: the downloaded weights differ from those the Hub "
            f"announced. Run again."
        )
    return local


class RangesError(HubError):
    """A server that sends whole files where a part in their middle was asked for."""


class RangeReader:
    """Reads samples of a checkpoint's tensors where they are stored: in the cache, or on the Hub by ranges. Safe for
    threads.

    What is read is kept, so each range is downloaded once.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Nothing is opened: each read is a request of its own, or opens the cached file."""
        assert checkpoint.hub_id is not None and checkpoint.revision is not None
        self._where = f"{checkpoint.role} {checkpoint.label}"
        self._read = dequantised_reads(checkpoint.scaled, self._read_stored) if checkpoint.scaled else self._read_stored
        self._reads: dict[str, Callable[[int, int], bytes]] = {}
        self._kept: dict[tuple[str, int, int], bytes] = {}
        for name, file in checkpoint.files.items():
            if file.cached:
                self._reads[name] = _reader_of(checkpoint.path / name)
            else:
                repo, commit = checkpoint.hub_id, checkpoint.revision
                self._reads[name] = _range_reader(repo, name, commit, commit, checkpoint.role, MOST_SKIPPED)

    def read_into(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from byte ``start`` on."""
        read_view(tensor, start, buffer, self._read)

    def _read_stored(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        wanted = tensor.file, tensor.offset + start, len(buffer)
        content = self._kept.get(wanted)
        if content is None:
            content = self._kept[wanted] = self._reads[tensor.file](*wanted[1:])
        if len(content) != len(buffer):
            raise HubError(
                f"{self._where}: {tensor.file} ends inside {quoted(tensor.name)}. The download is "
                f"incomplete; try again later."
            )
        buffer[:] = content

    def place(self, tensor: StoredTensor) -> None:
        """It does not lie in a file that is open."""

    def check_unchanged(self) -> None:
        """A commit does not change."""

    def close(self) -> None:
        """Nothing is open."""


def free_in_cache() -> int:
    """Free bytes on the disk of the Hub cache."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE).expanduser()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _from_listing(repo: str, revision: str | None, role: str, info: Any) -> Checkpoint:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    siblings = info.siblings or ()
    sizes = {entry.rfilename: int(entry.size or 0) for entry in siblings}
    hashes = {entry.rfilename: getattr(entry.lfs, "sha256", None) for entry in siblings if entry.lfs}
    listed = _Listed(repo, str(info.sha), revision, role, sizes, hashes)
    place = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    folder = place / "snapshots" / listed.commit
    sidecars = [name for name in sizes if is_sidecar(name) or name == ADAPTER]
    sidecars = [name for name in sidecars if sizes[name] <= MOST_SIDECAR_BYTES]
    if "config.json" in sidecars:  # it may say which weights count
        listed.fetched("config.json")
    config = SidecarFolder(role, repo, folder).json("config.json") or {}
    names = {name if "/" not in name else name.split("/")[0] + "/" for name in sizes}
    named = config.get(NAMED_IN_CONFIG)
    weights = choose_weights(
        names, lambda name: read_bytes(listed.fetched(name), most=MAX_INDEX_BYTES), listed.where, named=named
    )
    for name in sidecars:
        listed.fetched(name)
    _remember(place, revision or constants.DEFAULT_REVISION, listed.commit)
    if weights.legacy:  # pickles have no header that could be read from afar
        for name in weights.files:
            listed.fetched(name)
        checkpoint = _as_hub(open_folder(folder, role), repo, listed.commit)
        told = [listed.compared(weights, checkpoint.tensors, other) for other in weights.beside]
        return replace(checkpoint, warnings=(*weights.warnings, *told))
    files, tensors = listed.tensors(weights)
    check_gathered(tensors, weights.pickled, listed.where)
    warnings = (*weights.warnings, *(listed.compared(weights, tensors, other) for other in weights.beside))
    checkpoint = Checkpoint(role, repo, listed.commit, folder, files, tensors, hub_id=repo, warnings=warnings)
    return as_adapter(checkpoint) if weights.adapter else replace(checkpoint, config=config, parents=_parents_in(info))


@dataclass(frozen=True)
class _Listed:
    """A repository at a commit: what it calls its files, how large they are, and how they are read."""

    repo: str
    commit: str
    revision: str | None
    role: str
    sizes: Mapping[str, int]
    hashes: Mapping[str, str | None]

    @property
    def where(self) -> str:
        """What to call it."""
        return f"{self.role} {self.repo}"

    def fetched(self, name: str) -> Path:
        """The file's place in the cache, after downloading it."""
        from huggingface_hub import hf_hub_download

        with _needed(self.repo, self.revision, self.role):
            return Path(hf_hub_download(self.repo, name, revision=self.commit))

    def opened(self, name: str) -> tuple[Callable[[int, int], bytes], int, bool]:
        """How to read bytes of a file, its size, and whether it is in the cache."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo, name, revision=self.commit)
        if isinstance(cached, str):
            return _reader_of(Path(cached)), Path(cached).stat().st_size, True
        return _range_reader(self.repo, name, self.commit, self.revision, self.role), self.sizes[name], False

    def tensors(self, weights: Weights) -> tuple[dict[str, WeightFile], TensorTable]:
        """The files of a set of weights and, from their headers, what is in them."""
        files: dict[str, WeightFile] = {}
        per_file: dict[str, TensorTable] = {}
        header_bytes = 0
        for name in weights.files:
            read, size, cached = self.opened(name)
            per_file[name], header = tensors_of_file(name, size, read, f"{self.where}: {name}")
            header_bytes += len(header)
            check_headers_together(header_bytes, self.where)
            digest = blake3(header).hexdigest()
            files[name] = WeightFile(name, size, 0, digest, self.hashes.get(name), cached)
        return files, join_files(weights.index, per_file, self.where)

    def compared(self, weights: Weights, tensors: Mapping[str, StoredTensor], beside: Weights) -> str:
        """What to say of a second whole set. Raises `CheckpointError` where it differs from the one that counts."""
        way_out = (
            f"Download it without the files you do not need (`hf download {self.repo} --revision {self.commit} "
            f"--local-dir DIR --exclude '{_pattern(beside)}'`, or `--exclude '{_pattern(weights)}'`), and pass DIR."
        )
        if weights.legacy or beside.legacy:
            return told_of_two(weights, beside, PICKLED, self.where, way_out)
        try:
            _, others = self.tensors(beside)
        except HubError:
            raise
        except CheckpointError as error:
            return unreadable_beside(weights, beside, error)
        found = compared(tensors, others, (self._reads(weights), self._reads(beside)), HUB)
        return told_of_two(weights, beside, found, self.where, way_out)

    def _reads(self, weights: Weights) -> Read:
        readers = {name: self.opened(name)[0] for name in weights.files}
        return lambda tensor, start, count: readers[tensor.file](tensor.offset + start, count)


def _pattern(weights: Weights) -> str:
    """A pattern for the files of one set of weights."""
    if len(weights.files) == 1:
        return weights.files[0]
    return os.path.commonprefix(weights.files) + "*"  # noqa: RUF071  (names are compared letter by letter, no paths)


def _parents_in(info: Any) -> tuple[str, ...]:
    """What the model's card on the Hub names as its ``base_model``."""
    named = getattr(getattr(info, "card_data", None), "base_model", None)
    return tuple(str(name) for name in (named if isinstance(named, list) else [named]) if isinstance(name, str))


def _remember(place: Path, revision: str, commit: str) -> None:
    """Note which commit a name stands for, as the Hub's client does: offline the name is all there is."""
    ref = place / "refs" / revision
    if revision == commit or ".." in ref.parts:
        return
    with suppress(OSError):  # a cache that may be read only
        if not check_file(ref) or read_text(ref, most=_MOST_REF_BYTES) != commit:
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_new(ref, commit.encode())


def _from_cache(repo: str, revision: str | None, role: str, why: str) -> Checkpoint:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        return _as_hub(open_folder(folder, role), repo, folder.name)
    except (OSError, ValueError, CheckpointError) as error:
        at = f"@{revision}" if revision else ""
        detail = f" ({error})" if isinstance(error, CheckpointError) else ""
        raise HubError(
            f"{role} {repo}{at}: {why}, and it is not complete in the cache{detail}. "
            "Download it once with the network on, or pass a local folder."
        ) from None


def _as_hub(checkpoint: Checkpoint, repo: str, commit: str | None) -> Checkpoint:
    """A folder of the cache, seen as the model on the Hub: the commit says what it is, file times say nothing."""
    files = {name: replace(file, mtime_ns=0, ctime_ns=0) for name, file in checkpoint.files.items()}
    return replace(checkpoint, label=repo, hub_id=repo, revision=commit, files=files)


def _reader_of(path: Path) -> Callable[[int, int], bytes]:
    def read(start: int, count: int) -> bytes:
        with opened(path) as file:
            file.seek(start)
            return file.read(count)

    return read


def _range_reader(
    repo: str, name: str, commit: str, revision: str | None, role: str, most_skipped: int | None = None
) -> Callable[[int, int], bytes]:
    """Reads parts of a file. A server that sends all of it is read up to the part, over ``most_skipped`` bytes at most."""
    from huggingface_hub import hf_hub_url

    # Documented names, which the package does not mark as exported for type checkers.
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(repo, name, revision=commit)

    def read(start: int, count: int) -> bytes:
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{start + count - 1}", "Accept-Encoding": "identity"}
        with _needed(repo, revision, role), get_session().stream("GET", url, headers=headers) as response:
            hf_raise_for_status(response)
            # A server that does not know ranges sends everything: read no further than needed.
            skip = start if response.status_code == 200 else 0
            if most_skipped is not None and skip > most_skipped:
                raise RangesError(f"{role} {repo}: the server sends whole files only, not parts of them.")
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) >= skip + count:
                    break
        return bytes(content[skip : skip + count])

    return read


class _NoAnswerError(Exception):
    """The Hub does not answer, and why; the cache may help."""


@contextmanager
def _needed(repo: str, revision: str | None, role: str) -> Iterator[None]:
    """Like `_told`, for errors that the cache cannot help with."""
    try:
        with _told(repo, revision, role):
            yield
    except _NoAnswerError as error:
        raise HubError(f"{role} {repo}: {error}. Try again later, or pass a local folder.") from None


@contextmanager
def _told(repo: str, revision: str | None, role: str, below: str = "") -> Iterator[None]:
    """A message for the Hub's answer, with the next action; ``below`` is the path of its pages for this type."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{below}{repo}"
    where = f"{role} {repo}"
    try:
        yield
    except GatedRepoError:
        raise HubError(
            f"{where} is gated. Accept its licence at {page}, then log in (hf auth login) or set HF_TOKEN."
        ) from None
    except RevisionNotFoundError:
        raise HubError(f"{where} has no revision {revision!r}; {page}/tree/main lists branches and tags.") from None
    except RepositoryNotFoundError as error:
        lacks = "the Hub has no such data set" if below else "the Hub has no such model"
        private = " or it is private: set HF_TOKEN to a token that may read it" if status_of(error) == 401 else ""
        raise HubError(
            f"{where}: no folder of that name here, and {lacks}. Correct the id{private} ({page})."
        ) from None
    except HFValidationError as error:
        raise HubError(f"{where} is not a valid Hub id: {error}") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, transport_error()) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _NoAnswerError(f"the Hub cannot be reached ({first[:160]})") from None
    except HfHubHTTPError as error:
        status = status_of(error)
        if status in (401, 403):
            raise HubError(
                f"{where}: the Hub refuses access ({status}). Accept the licence at {page} if it has one, and set "
                "HF_TOKEN to a token that may read it."
            ) from None
        raise HubError(f"{where}: the Hub answered {status}. Try again later, or pass a local folder.") from None


def transport_error() -> type[Exception]:
    """What the Hub client's HTTP library raises when no answer comes: it is httpx2 today, formerly httpx."""
    for library in ("httpx2", "httpx"):
        with suppress(ModuleNotFoundError):
            error: type[Exception] = importlib.import_module(library).TransportError
            return error
    return ConnectionError


def status_of(error: Any) -> int | None:
    """The HTTP status of an error that the Hub client raised, where an answer came."""
    return getattr(getattr(error, "response", None), "status_code", None)
