"""Contradictions between an output's small files and its tensors: token ids without a row, a missing head.

Every plan is checked before anything is written, and `verify` checks a finished folder again. A contradiction that the
target itself has is noted and stops nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import named
from tuneport.files.json_text import read_json
from tuneport.files.opening import contents
from tuneport.files.printable import quoted
from tuneport.pairing.vocabulary_matrices import Side, find_vocabulary_tensors, rows_of
from tuneport.sidecars.config import is_tied, resolve
from tuneport.sidecars.token_ids import ids_of, is_token_field
from tuneport.tokenizer.consistency import tokenizer_in_a_folder

FILES = ("config.json", "generation_config.json")
_HAS_A_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True)
class IdWithoutRow:
    """A field, dotted, of a config that names a token id beyond the rows of the embedding."""

    file: str
    field: str
    id: int

    def in_words(self, rows: int) -> str:
        """What is wrong, and what to do."""
        flag = f"generation.{self.field}" if self.file == "generation_config.json" else self.field
        return (
            f"{self.file} {quoted(self.field)} names token {self.id}, but the output's matrices have {rows} rows. "
            f"Take it from the target with {named('config', f'{flag}=target')}, or keep the tuned model's new tokens "
            f"with {named('new_tokens', 'append')}."
        )


@dataclass(frozen=True)
class Contradictions:
    """What stops a plan, and what the target has itself (which stops nothing, and is noted in the manifest)."""

    refusals: tuple[str, ...]
    of_target: tuple[IdWithoutRow, ...]
    without_head: bool = False

    def record(self) -> dict[str, Any]:
        """The manifest's fields ``ids_without_row`` and ``without_head``; nothing where there is nothing to note."""
        ids = {"ids_without_row": [asdict(each) for each in self.of_target]} if self.of_target else {}
        return {**ids, "without_head": True} if self.without_head else ids


def contradictions(
    files: Mapping[str, bytes | Path], tensors: Mapping[str, StoredTensor], target: Checkpoint
) -> Contradictions:
    """What the output's ``files`` say against its ``tensors``, which are the target's with more rows, if any."""
    written: dict[str, Any] = {name: read_json(contents(files[name])) for name in FILES if name in files}
    config = written.get("config.json", {})
    names = vocabulary_names(target.tensors, target.config)
    rows = most_rows(tensors, names)
    own = set(ids_without_row(_configs(target, written), most_rows(target.tensors, names)))
    found = ids_without_row(written, rows)
    refusals = [each.in_words(rows) for each in found if each not in own]
    tied = is_tied(target.config)
    tying = _tying(config, is_tied(config), tied) if config else None
    return Contradictions(
        (*refusals, *([tying] if tying else [])),
        tuple(each for each in found if each in own),
        lacks_its_head(target, names, tied),
    )


def in_a_folder(produced: Checkpoint, manifest: Mapping[str, Any]) -> list[str]:
    """The contradictions of a finished output, but for those that its manifest says the target has itself."""
    names = vocabulary_names(produced.tensors, produced.config)
    rows = most_rows(produced.tensors, names)
    noted = manifest.get("ids_without_row", [])
    found = ids_without_row(_configs(produced), rows)
    faults = [each.in_words(rows) for each in found if asdict(each) not in noted]
    lacks_head = lacks_its_head(produced, names, is_tied(produced.config))
    if lacks_head and not manifest.get("without_head"):
        faults.append("config.json does not tie head and embedding, but only one of the two is stored")
    return faults + tokenizer_in_a_folder(produced.path, manifest.get("tokenizer_faults"))


def ids_without_row(configs: Mapping[str, Mapping[str, Any]], rows: int) -> list[IdWithoutRow]:
    """Every token id in config and generation config, by file, for which there is no row."""
    return [
        IdWithoutRow(name, field, id)
        for name, config in configs.items()
        for field, id in (_ids(config) if rows else ())
        if id >= rows
    ]


def vocabulary_names(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> Set[str]:
    """Names of the tensors of one model that have one row per token."""
    return find_vocabulary_tensors([Side(tensors, config)]).names


def most_rows(tensors: Mapping[str, StoredTensor], names: Set[str]) -> int:
    """Rows of the largest of the tensors with one row per token; 0 where there is none."""
    return max((rows_of(tensor) for tensor in tensors.values() if tensor.name in names), default=0)


def lacks_its_head(model: Checkpoint, names: Set[str], tied: bool) -> bool:
    """Whether a language model's config unties head and embedding while only one of them is stored.

    ``names`` are those of the tensors with one row per token.
    """
    architectures = model.config.get("architectures")
    classes = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if tied or not any(name.endswith(_HAS_A_HEAD) for name in classes):
        return False
    return sum(name in names and len(tensor.shape) == 2 for name, tensor in model.tensors.items()) == 1


def _tying(config: Mapping[str, Any], tied: bool, tied_target: bool) -> str | None:
    if tied == tied_target:
        return None
    said = resolve(config).values.get("tie_word_embeddings")
    have = "uses one matrix for both" if tied_target else "has a head of its own"
    return (
        f"config.json says `tie_word_embeddings`: {json.dumps(said)}, but the output's tensors are the target's, "
        f"which {have}. Keep the target's value: {named('config', 'tie_word_embeddings=target')}."
    )


def _configs(model: Checkpoint, names: Iterable[str] = FILES) -> dict[str, Mapping[str, Any]]:
    """The files of a folder that name token ids, of those names."""
    read = {name: model.sidecars.json(name) for name in names}
    return {name: config for name, config in read.items() if config is not None}


def _ids(config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    for field, value in config.items():
        if isinstance(value, Mapping) and depth < 8:
            yield from _ids(value, f"{prefix}{field}.", depth + 1)
        elif is_token_field(field):
            yield from ((prefix + field, id) for id in ids_of(field, value))
