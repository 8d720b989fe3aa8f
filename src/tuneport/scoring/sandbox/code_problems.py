"""Problems of LiveCodeBench: the inputs of a program, and the outputs it must give.

A `CodeProblem` judges outputs. The private tests are a pickle in a compressed text; the one string in it is read
without unpickling. Raises `ScoringError` for anything else.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.errors import ScoringError

_MOST = 2**30  # bytes of private tests, unpacked
_TEXT = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")
_AROUND = ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP")


@dataclass(frozen=True)
class CodeProblem:
    """Inputs with their expected outputs; ``function``: what is called with the input, else a program reads it."""

    function: str | None
    tests: tuple[tuple[str, str], ...]

    @property
    def longest_output(self) -> int:
        """Bytes that a program may print to one input, with room for blanks and for another way of writing it."""
        return 65536 + 6 * max((len(output.encode("utf-8", "surrogatepass")) for _, output in self.tests), default=0)

    def is_right(self, number: int, said: bytes) -> bool:
        """Whether ``said`` is the answer to a test: equal JSON from a function, else equal lines, blanks around them aside."""
        expected, text = self.tests[number][1], said.decode("utf-8", "replace")
        if self.function is None:
            return _lines(text) == _lines(expected)
        try:
            return bool(json.loads(text) == json.loads(expected))
        except (ValueError, RecursionError):
            return False


def read_problem(document: Mapping[str, Any]) -> CodeProblem:
    """The problem of a document. Raises `ScoringError` for anything else."""
    try:
        metadata = json.loads(document.get("metadata") or "{}")
        function = metadata.get("func_name")
        public, private = document["public_test_cases"] or "[]", document["private_test_cases"]
        tests = json.loads(public) + (_unpacked(private) if private else [])
        found = tuple((test["input"], test["output"]) for test in tests)
        if not all(isinstance(text, str) for test in found for text in test):
            raise TypeError("an input or output is not a string")
        if function is not None and not isinstance(function, str):
            raise TypeError("`func_name` is not a string")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error, binascii.Error) as error:
        name = str(document.get("question_id", "without an id"))[:60]
        raise ScoringError(
            f"livecodebench: problem {name!r} cannot be read ({type(error).__name__}: {str(error)[:200]}). "
            "Download the data set again."
        ) from None
    return CodeProblem(function or None, found)


def _unpacked(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text), _MOST)
        if not unpacker.eof:
            raise ValueError(f"its private tests end too early, or unpack to more than {_MOST:,} bytes") from None
        return json.loads(_only_text(data))


def _only_text(pickled: bytes) -> str:
    """The text of a pickle that holds one text and nothing else; no opcode is run."""
    texts = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _TEXT:
            texts.append(str(argument))
        elif opcode.name not in _AROUND:
            raise ValueError(f"its private tests are a pickle with more than one string ({opcode.name})")
    if len(texts) != 1:
        raise ValueError(f"its private tests are a pickle of {len(texts)} strings, not one")
    return texts[0]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]
