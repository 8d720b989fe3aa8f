"""Digests of examples, by which a test question is found again in what a model was trained on.

Two texts that differ in case or in blanks alone have the same digest.
"""

from __future__ import annotations

from blake3 import blake3


def example_digest(text: str) -> str:
    """BLAKE3-128, in hexadecimal, of the text with blanks collapsed and case folded."""
    return blake3(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass")).hexdigest(length=16)
