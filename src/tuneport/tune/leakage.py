"""What a model was trained on, as digests, so that a test can be checked against it later.

In come texts, out come digests: BLAKE3 of the text in one case, with every run of white space as one space. `tune`
writes those of its training examples beside the model, one a line; whoever scores the model looks test examples up
in them. Only exact repeats are found this way, not paraphrases.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from tuneport.errors import DataError

HASHES = "tune-hashes.txt"
_BYTES = 16


def example_digest(text: str) -> str:
    """The digest of an example's text: 128 bits of BLAKE3, in hexadecimal.

    >>> example_digest("What is 2 + 2?") == example_digest("  what is\\n2 + 2? ")
    True
    """
    return blake3(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass")).hexdigest(_BYTES)


def answered_digest(prompt: str, answer: str) -> str:
    """The digest of a prompt together with its answer."""
    return example_digest(f"{prompt} {answer}")


def write_digests(path: Path, digests: Iterable[str]) -> None:
    """Write digests to a file, each once, sorted, one a line."""
    path.write_text("".join(f"{digest}\n" for digest in sorted(set(digests))), encoding="ascii")


def read_digests(path: Path) -> frozenset[str]:
    """The digests in a file that `write_digests` wrote. Raises `DataError` for anything else."""
    lines = path.read_text(encoding="utf-8", errors="replace").split()
    wrong = [line for line in lines if len(line) != 2 * _BYTES or not set(line) <= set("0123456789abcdef")]
    if wrong:
        raise DataError(f"{path}: {wrong[0][:40]!r} is no digest of an example; the file is not one that tune wrote.")
    return frozenset(lines)
