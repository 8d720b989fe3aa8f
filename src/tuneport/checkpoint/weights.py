"""List the tensors in the chosen weight files, each with its file and byte range.

`weight_sets` chooses the files. Index and files must agree, and no path in an index may leave its folder. The files may
be on this disk or remote.
"""

from __future__ import annotations

import itertools
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.header import header_length, parse_header
from tuneport.errors import CheckpointError, listing
from tuneport.files.long_json import NamedTwiceError, read_long_json
from tuneport.files.printable import quoted

# In place of a file's name: what the tensor of this name stands for, which lies in no file as it is (`checkpoint.quantised`).
DEQUANTISED = "dequantised/"
# Likewise: what the tensor of this name holds once it is decoded (`checkpoint.encoded`).
ENCODED = "encoded/"
MAX_INDEX_BYTES = 64 * 2**20
# Of all files of a checkpoint together. The largest that we know (Kimi K2, some 140,000 tensors) has about 21 MB.
MOST_HEADER_BYTES = 64 * 2**20
# Files of a checkpoint. Large ones have some hundreds.
MOST_FILES = 10_000
# Disagreements of index and files that are listed; the rest is counted.
_MOST_TOLD = 100


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor lies in stored ones, where it is not simply one of them (`checkpoint.views` makes these).

    It lies in the tensor that its file calls ``stored``, row after row, or with ``strides`` in elements for each dimension
    of ``grid`` (its shape, dimensions cut further); or it is its ``parts``, joined along the dimension ``dim``, which parts of
    one dimension less do not have (they are stacked).
    """

    stored: str = ""
    grid: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    parts: tuple[StoredTensor, ...] = ()
    dim: int = 0


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint: safetensors dtype, shape, and the byte range of ``file`` that holds it.

    With a ``view`` it is made of stored tensors; ``file`` and ``offset`` are then those of its first element.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int
    view: View | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.nbytes // DTYPES[self.dtype].itemsize

    @property
    def is_dequantised(self) -> bool:
        """Whether it is stored as codes with scales, and computed when it is read."""
        return self.file.startswith(DEQUANTISED)

    @property
    def is_computed(self) -> bool:
        """Whether its bytes lie in no file as they are."""
        return self.file.startswith((DEQUANTISED, ENCODED))

    @property
    def in_one_piece(self) -> bool:
        """Whether its bytes lie one after another, from ``offset`` on."""
        return self.view is None or (self.view.strides is None and not self.view.parts)


class TensorTable(Mapping[str, StoredTensor]):
    """Stored tensors by name, in columns: some forty bytes each, beside a name that all checkpoints share.

    They are in the order of ``names``, where two of one name are neighbours. A tensor is made when it is looked at.
    """

    def __init__(self, tensors: Iterable[StoredTensor]) -> None:
        """The table of these tensors."""
        names: list[str] = []
        kinds: dict[tuple[str, tuple[int, ...], int], int] = {}
        files: dict[str, int] = {}
        kind, file, offset = array("I"), array("I"), array("Q")
        self._views: dict[str, StoredTensor] = {}  # what does not lie in a file as it is called
        for tensor in tensors:
            name = sys.intern(tensor.name)
            names.append(name)
            kind.append(kinds.setdefault((tensor.dtype, tensor.shape, tensor.nbytes), len(kinds)))
            file.append(files.setdefault(tensor.file, len(files)))
            offset.append(tensor.offset)
            if tensor.view is not None:
                self._views[name] = tensor
        order = sorted(range(len(names)), key=names.__getitem__)
        self.names = [names[place] for place in order]
        self._kinds, self._files = list(kinds), list(files)
        self._kind, self._file, self._offset = (
            array(column.typecode, (column[place] for place in order)) for column in (kind, file, offset)
        )

    def at(self, place: int) -> StoredTensor:
        """The tensor at a place in the order of names."""
        name = self.names[place]
        if name in self._views:
            return self._views[name]
        dtype, shape, nbytes = self._kinds[self._kind[place]]
        return StoredTensor(name, dtype, shape, self._files[self._file[place]], self._offset[place], nbytes)

    def place(self, name: str) -> int:
        """The index of a name in their order, or -1."""
        place = bisect_left(self.names, name)
        return place if place < len(self.names) and self.names[place] == name else -1

    def twice(self) -> list[str]:
        """Names that occur more than once."""
        return [one for one, other in zip(self.names, self.names[1:], strict=False) if one == other]

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name."""
        return isinstance(name, str) and self.place(name) >= 0

    def __getitem__(self, name: str) -> StoredTensor:
        """The tensor of a name."""
        place = self.place(name)
        if place < 0:
            raise KeyError(name)
        return self.at(place)


def tensors_of_file(file: str, size: int, prefix: Callable[[int, int], bytes], where: str) -> tuple[TensorTable, bytes]:
    """Tensors of one safetensors file and its raw header. ``prefix(start, count)`` reads bytes of the file."""
    first = prefix(0, min(8, size))
    if first == b"version ":
        raise CheckpointError(
            f"{where} is a Git LFS pointer, not the weights. Run `git lfs pull` in that folder, or download it again."
        )
    length = header_length(first, size, where)
    header = prefix(8, length)
    ranges = parse_header(header, size, where)
    found = (StoredTensor(name, dtype, shape, file, at, size) for name, (dtype, shape, at, size) in ranges)
    return TensorTable(found), header


def join_files(
    index: Mapping[str, str] | None, per_file: Mapping[str, Mapping[str, StoredTensor]], where: str
) -> TensorTable:
    """All tensors of a checkpoint, in the order of their names; index and files must tell the same story."""
    joined = TensorTable(itertools.chain.from_iterable(tensors.values() for tensors in per_file.values()))
    faults = _disagreements(index, per_file, joined)
    told = list(itertools.islice(faults, _MOST_TOLD))
    if told:
        more = sum(1 for _ in faults)
        if more:
            told.append(f"… and {more:,} more")
        raise CheckpointError(
            f"{where}: index and files disagree:{listing(told)}\nDownload the checkpoint again, or correct its index."
        )
    return joined


def _disagreements(
    index: Mapping[str, str] | None, per_file: Mapping[str, Mapping[str, StoredTensor]], joined: TensorTable
) -> Iterator[str]:
    for place, name in enumerate(dict.fromkeys(joined.twice())):
        if place < _MOST_TOLD:  # all files are looked through for each
            files = [file for file, tensors in per_file.items() if name in tensors]
            yield f"{quoted(name)} is in {' and in '.join(files[:4])}{' and in more' if len(files) > 4 else ''}"
        else:
            yield f"{quoted(name)} is in more than one file"
    if index is None:
        return
    for name, file in index.items():
        if name not in per_file[file]:
            yield f"the index places {quoted(name)} in {file}, which does not contain it"
    for name, tensor in joined.items():
        if index.get(name) != tensor.file:
            yield f"{quoted(name)} is in {tensor.file}, but the index {'places it elsewhere' if name in index else 'omits it'}"


def check_headers_together(nbytes: int, where: str) -> None:
    """Raise `CheckpointError` where the headers of a checkpoint's files, read one after another, have become too many bytes."""
    if nbytes > MOST_HEADER_BYTES:
        raise CheckpointError(
            f"{where}: the headers of its weight files have more than {MOST_HEADER_BYTES:,} bytes together, the limit "
            "for a checkpoint. Is this the right folder? If it is, save the model with its experts fused."
        )


def check_gathered(tensors: Mapping[str, StoredTensor], pickled: str | None, where: str) -> None:
    """Raise `CheckpointError` for what DeepSpeed's ZeRO-3 leaves of weights that it did not gather: matrices of shape [0].

    ``pickled`` is a whole pickle beside these files, as zero_to_fp32.py writes it.
    """
    empty = [
        tensor
        for tensor in tensors.values()
        if tensor.shape == (0,) and tensor.name.endswith("weight") and DTYPES[tensor.dtype].kind == "float"
    ]
    if not empty:
        return
    files = ", ".join(sorted({tensor.file for tensor in empty}))
    more = f" If that wrote {pickled}, move {files} away; tuneport then reads {pickled}." if pickled is not None else ""
    raise CheckpointError(
        f"{where}: {len(empty)} weight(s) in {files} have the shape [0] ({quoted(empty[0].name)}, for example). "
        "DeepSpeed ZeRO-3 saved the model without gathering its weights. Run zero_to_fp32.py on the training "
        f"checkpoint, or save again with `stage3_gather_16bit_weights_on_model_save` set to true.{more}"
    )


def parse_index(content: bytes, where: str, legacy: bool) -> Mapping[str, str]:
    """Files by tensor name, as an index has them. Raises `CheckpointError` for a damaged index, or a path out of the
    folder.
    """
    if len(content) > MAX_INDEX_BYTES:
        raise CheckpointError(f"{where} has {len(content)} bytes, over the limit of {MAX_INDEX_BYTES}.")
    try:
        parsed = read_long_json(BytesIO(content), (), (("weight_map",),))
    except NamedTwiceError:
        raise CheckpointError(f"{where} names a tensor twice. Download it again, or correct it.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON ({error}). Download it again.") from None
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where} has no `weight_map`. Download it again.")
    suffix = ".bin" if legacy else ".safetensors"
    for name, file in weight_map.items():
        if (
            not isinstance(file, str)
            or not file.endswith(suffix)
            or "/" in file
            or "\\" in file
            or file.startswith(".")
        ):
            raise CheckpointError(
                f"{where} places {quoted(name)} in {file!r}; tuneport only follows *{suffix} files of the same folder."
            )
    return weight_map
