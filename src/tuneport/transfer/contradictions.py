"""What an output's small files say and its tensors cannot keep: token ids without a row, a head that is not there.

Checked in every plan before the first byte, whichever flag led there, and again of a finished folder by `verify`. A
contradiction that the target has itself is its own affair: it is noted, and stops nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.config import is_tied, resolve
from tuneport.checkpoint.token_names import is_token_field, map_ids
from tuneport.checkpoint.tokenizer_check import tokenizer_in_a_folder
from tuneport.checkpoint.weights import StoredTensor
from tuneport.pairing.matrices import Side, find_vocabulary_tensors, rows_of

FILES = ("config.json", "generation_config.json")
_HAS_A_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True)
class IdWithoutRow:
    """A field, dotted, of a config that names a token id beyond the rows of the embedding."""

    file: str
    field: str
    id: int

    def record(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return asdict(self)

    def in_words(self, rows: int) -> str:
        """What is wrong, and what to do."""
        flag = f"generation.{self.field}" if self.file == "generation_config.json" else self.field
        return (
            f"{self.file} `{self.field}` names token {self.id}, and the output's matrices have {rows} rows. Take it from the "
            f"target with --config {flag}=target, or keep the tuned model's new tokens with --new-tokens append."
        )


@dataclass(frozen=True)
class Contradictions:
    """What stops a plan, and what the target has itself (which stops nothing, and is noted in the manifest)."""

    refusals: tuple[str, ...]
    of_target: tuple[IdWithoutRow, ...]

    def record(self) -> dict[str, Any]:
        """The manifest's field ``ids_without_row``; nothing where there is none."""
        return {"ids_without_row": [each.record() for each in self.of_target]} if self.of_target else {}


def contradictions(
    files: Mapping[str, bytes | Path], tensors: Mapping[str, StoredTensor], target: Checkpoint
) -> Contradictions:
    """What the output's ``files`` say against its ``tensors``, which are the target's with more rows, if any."""
    config = read_json(files.get("config.json"))
    rows = vocabulary_rows(tensors, config)
    own = set(ids_without_row(_kept(files, target), vocabulary_rows(target.tensors, target.config)))
    found = ids_without_row(files, rows)
    refusals = [each.in_words(rows) for each in found if each not in own]
    tying = _tying(config, is_tied(config), is_tied(target.config)) if config else None
    return Contradictions((*refusals, *([tying] if tying else [])), tuple(each for each in found if each in own))


def in_a_folder(out: Path, produced: Checkpoint, manifest: Mapping[str, Any]) -> list[str]:
    """The contradictions of a finished output, but for those that its manifest says the target has itself."""
    files = {name: out / name for name in FILES if (out / name).is_file()}
    rows = vocabulary_rows(produced.tensors, produced.config)
    noted = manifest.get("ids_without_row", [])
    faults = [each.in_words(rows) for each in ids_without_row(files, rows) if each.record() not in noted]
    if lacks_its_head(produced.tensors, produced.config, is_tied(produced.config)):
        faults.append("config.json does not tie head and embedding, and only one of the two is stored")
    return faults + tokenizer_in_a_folder(out, manifest.get("tokenizer_faults"))


def ids_without_row(files: Mapping[str, bytes | Path], rows: int) -> list[IdWithoutRow]:
    """Every token id in config and generation config for which there is no row. ``files`` by name, as bytes or on disk."""
    found = []
    for name in FILES if rows else ():
        config = read_json(files.get(name))
        found += [IdWithoutRow(name, field, id) for field, id in _ids(config) if id >= rows]
    return found


def vocabulary_rows(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> int:
    """Rows of the largest matrix with one row per token; 0 where there is none."""
    names = find_vocabulary_tensors([Side(tensors, config)]).names
    return max((rows_of(tensor) for tensor in tensors.values() if tensor.name in names), default=0)


def lacks_its_head(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any], tied: bool) -> bool:
    """Whether a language model's config unties head and embedding while only one of them is stored."""
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if tied or not any(name.endswith(_HAS_A_HEAD) for name in names):
        return False
    found = find_vocabulary_tensors([Side(tensors, config)]).names
    return sum(name in found and len(tensor.shape) == 2 for name, tensor in tensors.items()) == 1


def _tying(config: Mapping[str, Any], tied: bool, tied_target: bool) -> str | None:
    if tied == tied_target:
        return None
    said = resolve(config).values.get("tie_word_embeddings")
    have = "has one matrix for both" if tied_target else "has a head of its own"
    return (
        f"config.json says `tie_word_embeddings`: {json.dumps(said)}, but the output's tensors are the target's, which {have}. "
        "Leave this field as the target has it: --config tie_word_embeddings=target."
    )


def _kept(files: Mapping[str, bytes | Path], target: Checkpoint) -> dict[str, bytes | Path]:
    """The target's own files of the names that the output has."""
    return {name: target.sidecars.place(name) for name in FILES if name in files and target.sidecars.has(name)}


def _ids(config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    for field, value in config.items():
        if isinstance(value, Mapping) and depth < 8:
            yield from _ids(value, f"{prefix}{field}.", depth + 1)
        elif is_token_field(field):
            seen: list[int] = []
            map_ids(field, value, lambda id, seen=seen: seen.append(id) or id)  # type: ignore[misc]  # a visitor
            yield from ((prefix + field, id) for id in dict.fromkeys(seen))


def read_json(content: bytes | Path | None) -> Mapping[str, Any]:
    """One of the output's small files as a JSON object; empty where there is none."""
    if content is None:
        return {}
    value = json.loads(content if isinstance(content, bytes) else content.read_bytes())
    return value if isinstance(value, Mapping) else {}
