"""Record what a model was trained on, as digests, so that a test can be checked against it later.

A digest is BLAKE3 of the text in lower case, with each run of white space as one space. `tune` writes the digests of
its training examples beside the model, one per line, and (marked) those of the examples of its curve, because people
choose models by curves. `evaluate` looks test examples up in them. Only exact repeats are found, not paraphrases.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from tuneport.errors import DataError
from tuneport.files.opening import read_bytes
from tuneport.files.writing import write_whole

HASHES = "tune-hashes.txt"
SELECTION = "selection"  # follows a digest of an example that was scored on the way
_BYTES = 16
# Seventeen million examples.
_MOST_BYTES = 2**30


def example_digest(text: str) -> str:
    """The digest of an example's text: 128 bits of BLAKE3, in hexadecimal.

    >>> example_digest("What is 2 + 2?") == example_digest("  what is\\n2 + 2? ")
    True
    """
    return blake3(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass")).hexdigest(_BYTES)


def answered_digest(prompt: str, answer: str) -> str:
    """The digest of a prompt together with its answer."""
    return example_digest(f"{prompt} {answer}")


def write_digests(path: Path, trained: Iterable[str], selected: Iterable[str] = ()) -> None:
    """Write digests to a file, each once, sorted, one a line; those of selection after those of training, marked."""
    lines = [*sorted(set(trained)), *(f"{digest} {SELECTION}" for digest in sorted(set(selected)))]
    write_whole(path, "".join(f"{line}\n" for line in lines))


def parse_digest(line: str) -> tuple[str, bool] | None:
    """The digest of a line that `write_digests` wrote, and whether it is one of selection; None for anything else."""
    digest, _, mark = line.strip().partition(" ")
    whole = len(digest) == 2 * _BYTES and set(digest) <= set("0123456789abcdef")
    return (digest, bool(mark)) if whole and mark in ("", SELECTION) else None


def read_digests(path: Path, *, selection: bool = False) -> frozenset[str]:
    """The digests in a file that `write_digests` wrote, of training or of selection. Raises `DataError` for anything else."""
    found = set()
    for line in read_bytes(path, path.parent, _MOST_BYTES).decode("utf-8", "replace").splitlines():
        parsed = parse_digest(line)
        if parsed is None:
            raise DataError(f"{path}: {line[:40]!r} is not the digest of an example; `tune` did not write this file.")
        if parsed[1] == selection:
            found.add(parsed[0])
    return frozenset(found)
