"""The tensors of an encoded checkpoint: as they are once decoded, and as they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.weights import ENCODED, StoredTensor


class EncodedTable(Mapping[str, StoredTensor]):
    """The tensors of an encoded checkpoint as they are once decoded; ``stored`` as they lie in the files."""

    def __init__(self, stored: Mapping[str, StoredTensor], kinds: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """``kinds``: dtype and shape of each by name."""
        self.stored, self._kinds = stored, kinds

    def __getitem__(self, name: str) -> StoredTensor:
        """The tensor of a name."""
        dtype, shape = self._kinds[name]
        return StoredTensor(name, dtype, shape, ENCODED + name, 0, math.prod(shape) * DTYPES[dtype].itemsize)

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of the files' tensors."""
        return iter(self.stored)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.stored)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name."""
        return name in self.stored
