"""The digest of a tensor: BLAKE3 over leaves of 4 MiB, and the root over the leaves' digests.

Written as ``blake3-4MiB:<64 hex digits>``. It does not depend on shards, and leaves can be hashed in any order, by any
number of workers, and again after a kill.
"""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

LEAF_BYTES = 4 * 2**20
PREFIX = "blake3-4MiB:"


def leaf_count(nbytes: int) -> int:
    """How many leaves a tensor of ``nbytes`` bytes has (none, if it is empty)."""
    return -(-nbytes // LEAF_BYTES)


def root_of(leaves: Sequence[bytes]) -> str:
    """The tensor's digest from those of its leaves, in order: BLAKE3 over their 32 bytes each, one after another."""
    return PREFIX + blake3(b"".join(leaves)).hexdigest()
