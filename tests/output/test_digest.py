"""The digest of a tensor depends on its bytes alone."""

from __future__ import annotations

import pytest
from blake3 import blake3
from support.digests import tensor_digest

from tuneport.output.digest import LEAF_BYTES, leaf_count, root_of

MIB4 = 4 * 2**20


@pytest.mark.parametrize("size", [0, 1, MIB4 - 1, MIB4, MIB4 + 1, 2 * MIB4, 2 * MIB4 + 7])
def test_it_is_blake3_over_the_digests_of_leaves_of_4_mib(size: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    leaves = b"".join(blake3(content[start : start + MIB4]).digest() for start in range(0, size, MIB4))
    assert tensor_digest(content) == "blake3-4MiB:" + blake3(leaves).hexdigest()
    assert leaf_count(size) == len(leaves) // 32
    assert LEAF_BYTES == MIB4


def test_every_bit_counts() -> None:
    content = bytearray(MIB4 + 5)
    seen = {tensor_digest(content)}
    for place in (0, MIB4 - 1, MIB4, MIB4 + 4):
        content[place] ^= 1
        seen.add(tensor_digest(content))
        content[place] ^= 1
    assert len(seen) == 5


def test_the_order_of_leaves_counts() -> None:
    assert root_of([b"a" * 32, b"b" * 32]) != root_of([b"b" * 32, b"a" * 32])
