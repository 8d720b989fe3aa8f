"""A folder of recorded answers: what a model said to prompts, and what it expected at each token.

Answers are kept in lots, one file each, complete or absent, so that a killed run resumes. A lot is a safetensors
file with the likeliest tokens of each place (ids and log-probabilities, and the probability of the rest) and the answers as
JSON. The folder is whole once `RECORD` is there, which is written last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tuneport.errors import DataError, TakenError
from tuneport.examples.questions import Example
from tuneport.files.json_text import read_json
from tuneport.files.opening import content_digest, opened, read_bytes
from tuneport.files.writing import write_whole
from tuneport.scoring.answers.answer_losses import LikeliestTokens

FORMAT = "tuneport.answers/1"
RECORD = "answers.json"
LOT = 64  # answers in a file
_MOST_LOT_BYTES = 2**32
_KEY_BYTES = 16
NOTHING = LikeliestTokens(np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Spoken:
    """One answer: what it answers (by `key_of`), its text, its tokens by their strings, and whether the model ended it."""

    key: str
    text: str
    tokens: tuple[str | None, ...]
    ended: bool


@dataclass(frozen=True)
class Recorded:
    """An answer and what its model expected: a row for each token, and one for the end where the answer ended.

    ``strings`` are those of the ids in ``expected``; ``ends`` are the ids at which the model stops.
    """

    spoken: Spoken
    expected: LikeliestTokens
    strings: Mapping[int, str]
    ends: frozenset[int]


def key_of(example: Example) -> str:
    """What tells one question, or text, from another: a digest of all of it."""
    told = [example.prompt, None if example.messages is None else [dict(each) for each in example.messages]]
    if example.way == "text":
        told.append(example.answer)
    return blake3(json.dumps(told, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest(_KEY_BYTES)


def lot_path(folder: Path, number: int) -> Path:
    """Where a lot is kept."""
    return folder / f"lot-{number:05d}.safetensors"


def write_lot(
    path: Path, answers: Sequence[tuple[Spoken, LikeliestTokens]], strings: Mapping[int, str], ends: Sequence[int]
) -> None:
    """Keep a lot, in full or not at all."""
    from safetensors.numpy import save

    told = {"answers": [asdict(each) for each, _ in answers], "strings": list(strings.items()), "ends": list(ends)}
    text = np.frombuffer(json.dumps(told).encode("utf-8", "surrogatepass"), dtype=np.uint8)
    rows = [len(found.rest) for _, found in answers]
    arrays: dict[str, NDArray[Any]] = {"text": text, "rows": np.array(rows, np.int64)}
    some = [found for _, found in answers if len(found.rest)] or [NOTHING]
    for name in ("ids", "logs", "rest"):
        arrays[name] = np.concatenate([getattr(found, name) for found in some])
    write_whole(path, save(arrays))


def read_lot(path: Path) -> list[Recorded]:
    """The answers of a lot. Raises `DataError` for a file that `write_lot` did not write."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(read_bytes(path, path.parent, _MOST_LOT_BYTES))
        told = read_json(found["text"].tobytes())
        strings = {int(id): str(text) for id, text in told["strings"]}
        ends = frozenset(map(int, told["ends"]))
        shapes = {found[name].shape for name in ("ids", "logs")} | {(len(found["rest"]), found["ids"].shape[-1])}
        if len(shapes) > 1 or found["rows"].min(initial=0) < 0 or found["rows"].sum() != len(found["rest"]):
            raise ValueError("its tensors do not belong together")
        starts = np.concatenate([[0], np.cumsum(found["rows"])])
        answers = [Spoken(str(a["key"]), str(a["text"]), tuple(a["tokens"]), bool(a["ended"])) for a in told["answers"]]
        recorded = [
            Recorded(
                spoken, LikeliestTokens(*(found[name][first:last] for name in ("ids", "logs", "rest"))), strings, ends
            )
            for spoken, first, last in zip(answers, starts[:-1], starts[1:], strict=True)
        ]
        if any(len(each.expected.rest) != len(each.spoken.tokens) + each.spoken.ended for each in recorded):
            raise ValueError("rows and tokens differ in number")
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{path} does not hold recorded answers ({error}). Remove its folder and record again."
        ) from None
    return recorded


def keys_of_lot(path: Path) -> list[str]:
    """What the answers of a lot answer."""
    return [each.spoken.key for each in read_lot(path)]


def check_keys(path: Path, wanted: Sequence[str]) -> None:
    """Raise `TakenError` where a lot that is there holds other answers than those wanted."""
    if keys_of_lot(path) != list(wanted):
        raise TakenError(f"{path.parent} contains answers to other prompts. Choose another folder, or move it away.")


def finish(folder: Path, about: Mapping[str, Any], answers: int) -> None:
    """Mark a folder as whole."""
    write_whole(folder / RECORD, json.dumps({"format": FORMAT, **about, "answers": answers}, indent=1) + "\n")


def is_recording(folder: Path) -> bool:
    """Whether a folder holds recorded answers, all of them."""
    return (folder / RECORD).is_file()


def about_of(folder: Path) -> dict[str, Any]:
    """What `finish` wrote. Raises `DataError` for anything else."""
    try:
        told = read_json(read_bytes(folder / RECORD, folder))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / RECORD} cannot be read: {error}.") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise DataError(f"{folder / RECORD} is not a record of answers ({FORMAT}). Record the answers again.")
    return told


def read_recording(folder: Path) -> dict[str, Recorded]:
    """All answers of a folder, by what they answer."""
    return {each.spoken.key: each for path in sorted(folder.glob("lot-*.safetensors")) for each in read_lot(path)}


def recorded_texts(folder: Path) -> dict[str, str]:
    """The answers alone, by what they answer; one lot is in memory at a time."""
    return {
        each.spoken.key: each.spoken.text
        for path in sorted(folder.glob("lot-*.safetensors"))
        for each in read_lot(path)
    }


def recording_digest(folder: Path) -> str:
    """BLAKE3 over all lots: what is learned from."""
    whole = blake3()
    for path in sorted(folder.glob("lot-*.safetensors")):
        with opened(path, folder) as file:
            whole.update(f"{path.name}\0{content_digest(file)}\0".encode())
    return f"answers:{whole.hexdigest()}"
