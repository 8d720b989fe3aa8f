"""What a command prints, and where: the result on stdout, warnings and errors on stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneport.errors import in_brief
from tuneport.files.json_text import finite
from tuneport.files.printable import printable, printable_json, printable_lines
from tuneport.terminal import tell, tell_all


@dataclass(frozen=True)
class Told:
    """What a command prints: text, and one JSON object; ``told`` are warnings that were already shown."""

    words: str
    content: Mapping[str, Any]
    status: int = 0
    told: Sequence[str] = ()

    def adding(self, words: str, **content: Any) -> Told:
        """This, and more."""
        return replace(self, words=f"{self.words}\n{words}", content={**self.content, **content})


def told(result: dict[str, Any]) -> Told:
    """What a function that returns a dictionary with ``words`` says."""
    words, status = result.pop("words", ""), int(result.pop("status", 0))
    return Told(words, result, status)


def measured(options: argparse.Namespace, words: str, found: Mapping[str, Any]) -> Told:
    """A record that was measured, and is in the file that was asked for."""
    if "out" in options:
        words += f"\n{options.out}: {'already done' if found['already_done'] else 'done'}"
    return Told(words, {name: value for name, value in found.items() if name != "plan"})


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def show(result: Told, *, as_json: bool) -> int:
    """Print the result, and the warnings that were not shown yet; the exit status."""
    status = result.status
    try:
        _say(_as_one_object(result.content) if as_json else printable_lines(result.words))
    except BrokenPipeError:
        raise
    except OSError as error:
        tell(f"tuneport: Done, but the result could not be written to stdout: {error.strerror or error}.")
        status = 1
    for warning in result.content.get("warnings", []):
        if warning not in result.told:
            warn(warning)
    return status


def warn(warning: str) -> None:
    """A warning, on stderr."""
    tell_all(f"warning: {warning}")


def fail(kind: str, message: str, *, as_json: bool, debug: bool, status: int = 1) -> int:
    """Print why a command failed; the exit status."""
    if debug:
        import traceback

        tell(traceback.format_exc())
    if as_json:
        with contextlib.suppress(OSError):  # the reader of stdout went away, or its disk is full; stderr says the same
            _say(_as_one_object({"error": {"type": kind, "message": message}}))
    tell_all(f"tuneport: {in_brief(message)}")
    return status


def _as_one_object(result: Mapping[str, Any]) -> str:
    """One line of JSON that any reader takes, and any terminal."""
    return printable_json(json.dumps(finite(dict(result)), ensure_ascii=False, allow_nan=False))


def _say(text: str) -> None:
    try:
        print(text)
        sys.stdout.flush()
    except OSError:
        # What could not be written must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def panic_message(error: BaseException) -> str:
    """What a library in Rust (tokenizers, safetensors) stopped at, and what the usual cause is."""
    told = " ".join(printable(str(error)).split())[:300]
    return (
        f"A library failed on its input: {told}. Where it names `retry-limit`, an expression in the model's "
        "tokenizer.json takes too long on one of the texts: remove that text, or use another tokenizer."
    )


def system_message(error: OSError | MemoryError) -> str:
    """What the system refused."""
    if isinstance(error, MemoryError):
        return "Not enough memory. Use fewer --workers, or close other programs."
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}. Existing files were not changed."
