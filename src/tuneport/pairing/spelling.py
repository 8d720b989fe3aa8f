"""Bring the tensor names and layouts of base and tuned into the target's spelling.

Tensors may be named, joined and transposed differently. The results are views of what is stored: first by the user's
``--rename``, then by the rules of `spelling_search`, if one of them matches every tensor. If none does, nothing
changes, and pairing reports what does not fit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from tuneport.checkpoint.adapter_names import weight_names
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.views import renamed, stored_name
from tuneport.checkpoint.weights import StoredTensor, TensorTable
from tuneport.errors import Fault, PairingError, UsageError, named
from tuneport.files.printable import quoted
from tuneport.pairing.model_kinds import in_words, is_placed, is_text_of
from tuneport.pairing.multimodal_configs import seen_as_text, seen_as_whole
from tuneport.pairing.name_rules import Rename
from tuneport.pairing.spelling_advice import renames_in_words
from tuneport.pairing.spelling_search import find_translation
from tuneport.pairing.tensors import BESIDE, refuse_as_a_whole
from tuneport.pairing.vocabulary_names import is_head_weight
from tuneport.sidecars.merge import Decision
from tuneport.sidecars.read import CONFIG

Tensors = Mapping[str, StoredTensor]

# Of the smaller of two checkpoints; a head under another name is a third of a tiny model.
LEAST_IN_COMMON = 0.5


@dataclass(frozen=True)
class Aligned:
    """Checkpoints under the reference's names. ``decisions`` say by which rules.

    ``outside`` are names beside the language model, where base or tuned is a language model alone.
    """

    checkpoints: tuple[Checkpoint, ...]
    decisions: tuple[Decision, ...]
    reference: Checkpoint
    outside: frozenset[str] = frozenset()

    def hints(self) -> tuple[str, ...]:
        """The renames that would pair what has no partner; where tensors are refused, this may be why."""
        found = (
            renames_in_words(
                checkpoint.tensors, f"the {checkpoint.role}", self.reference.tensors, f"the {self.reference.role}"
            )
            for checkpoint in self.checkpoints
            if checkpoint.adapter is None
        )
        return tuple(dict.fromkeys(hint for hint in found if hint is not None))


def align(
    parents: Sequence[Checkpoint],
    reference: Checkpoint,
    renames: Sequence[Rename] = (),
    drop: Sequence[str] = (),
    alone: bool = False,
    may_rename: bool = True,
) -> Aligned:
    """The parents' tensors in the reference's spelling; an adapter's stay peft's.

    A language model beside multimodal ones is seen as one of them, its config too. ``reference`` may be one of the parents:
    ``--rename`` is then applied to it as well. ``alone``: the parents hold a language model's tensors, whatever their
    config says. ``may_rename``: whether the caller has a ``--rename`` to advise. Raises `UsageError` for a bad rename, and
    `PairingError` where names have nothing in common, or a fine-tuned tower has nowhere to go and is not in ``drop``.
    """
    _check_renames(renames, parents)
    written = reference.tensors
    placed = is_placed(parents, reference, renames)
    if any(parent is reference for parent in parents):
        written = rename_all(written, renames, reference)
    found, decisions = [], []
    for parent in parents:
        if parent.adapter is not None:
            found.append(parent)
            continue
        tensors, rules = rename_all(parent.tensors, renames, parent), ["--rename"] * bool(renames)
        ways = [(written, reference.config)]
        if is_text_of(reference.config, parent.config) and is_text_of(reference.config, parents[0].config):
            # What the target lacks, base and tuned must still call by one name.
            ways.insert(0, (rename_all(parents[0].tensors, renames, parents[0]), parents[0].config))
        for others, config in ways:
            translation = find_translation(tensors, parent.config, others, config)
            if translation is not None:
                tensors = translation.tensors
                rules.append(translation.rule)
        if rules and (told := _examples(tensors)):
            decisions.append(Decision(f"names.{parent.role}", told, "; ".join(rules)))
            parent = replace(parent, tensors=TensorTable(tensors.values()))
        if may_rename:
            _check_names(parent, tensors, reference, written)
        found.append(seen_as(parent, reference.config, placed))
    written_as = {checkpoint.role: (checkpoint, written) for checkpoint in [reference]}
    written_as |= {own.role: (own, seen.tensors) for own, seen in zip(parents, found, strict=True) if not own.adapter}
    outside = _outside(list(written_as.values()), alone or placed, drop)
    if outside & written.keys():
        told = f"{len(outside & written.keys())} tensors stay unchanged ({quoted(min(outside & written.keys()))}, …)"
        decisions.append(Decision("names.beside", told, BESIDE))
    return Aligned(tuple(found), tuple(decisions), reference, outside)


def _check_names(parent: Checkpoint, tensors: Tensors, reference: Checkpoint, written: Tensors) -> None:
    """Raise `PairingError` if names have almost nothing in common: any other message would hide the reason."""
    total = min(sum(tensor.elements for tensor in each.values()) for each in (tensors, written))
    common = sum(tensor.elements for name, tensor in tensors.items() if name in written)
    if common < LEAST_IN_COMMON * total:
        refuse_as_a_whole(replace(reference, tensors=written), replace(parent, tensors=tensors), common / total)


def seen_as(checkpoint: Checkpoint, config: Mapping[str, Any], placed: bool = False) -> Checkpoint:
    """A checkpoint with its config in the words of another class of its kind; as it is where there is none.

    ``placed``: a person said that it is the language model of that class.
    """
    if placed or is_text_of(checkpoint.config, config):
        seen = seen_as_whole(checkpoint.config, config)
    elif is_text_of(config, checkpoint.config):
        seen = seen_as_text(checkpoint.config, config)
    else:
        return checkpoint
    return replace(checkpoint, config=seen, made={**checkpoint.made, CONFIG: json.dumps(seen).encode()})


def _outside(checkpoints: Sequence[tuple[Checkpoint, Tensors]], alone: bool, drop: Sequence[str]) -> frozenset[str]:
    """Names of what lies beside the language model, where one of the checkpoints is that alone; else none."""
    configs = [checkpoint.config for checkpoint, _ in checkpoints]
    texts = [
        (checkpoint, tensors)
        for checkpoint, tensors in checkpoints
        if any(is_text_of(checkpoint.config, other) for other in configs)
    ]
    if alone and not texts:
        texts = list(checkpoints[1:])
    if not texts:
        return frozenset()
    towers = {id(checkpoint): beside(texts[0][1], tensors) for checkpoint, tensors in checkpoints}
    for checkpoint, tensors in checkpoints:
        lost = {name for name in towers[id(checkpoint)] if not any(re.search(pattern, name) for pattern in drop)}
        if lost and not alone and checkpoint.role.startswith(("tuned", "diff")):
            others = " and ".join(f"{text.role} {text.label}" for text, _ in texts)
            raise PairingError(
                f"{checkpoint.role} {checkpoint.label} ({in_words(checkpoint)}) is multimodal, {others} the language model "
                f"alone: {len(lost)} tensors ({quoted(min(lost))}, …) have no counterpart there. Give multimodal "
                f"models, or transfer only the language model's part with "
                f"{named('drop', pattern_of(towers[id(checkpoint)], tensors))}."
            )
    return frozenset[str]().union(*towers.values())


def rename_all(tensors: Tensors, renames: Sequence[Rename], of: Checkpoint) -> Tensors:
    """Tensors under the names that ``--rename`` gives. Raises `UsageError` where two would have one name."""
    for rename in renames:
        names = {name: rename(name) for name in tensors}
        check_distinct(names, rename, of)
        tensors = {other: renamed(tensors[name], other) for name, other in names.items()}
    return tensors


def _examples(tensors: Tensors, most: int = 3) -> str:
    """Names that were read as others, in words; empty where none was."""
    found: list[str] = []
    changed = 0
    for name, tensor in tensors.items():
        sources = sorted(set(_sources(tensor)))
        if sources == [name] and tensor.in_one_piece and tensor.view is None:
            continue
        changed += 1
        if len(found) < most:
            more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
            found.append(f"{quoted(sources[0])}{more} → {quoted(name)}")
    return ", ".join(found) + (f" ({changed} in all)" if changed > len(found) else "")


def _sources(tensor: StoredTensor) -> Iterator[str]:
    if tensor.view is not None and tensor.view.parts:
        for part in tensor.view.parts:
            yield from _sources(part)
    else:
        yield stored_name(tensor)


def _check_renames(renames: Sequence[Rename], parents: Sequence[Checkpoint]) -> None:
    names: dict[str, None] = {}
    for parent in parents if renames else ():
        names |= dict.fromkeys(parent.tensors if parent.adapter is None else weight_names(parent.tensors))
    for rename in renames:
        if not any(re.search(rename.pattern, name) for name in names):
            roles = " and ".join(parent.role for parent in parents)
            example = next(iter(names), "-")
            raise UsageError(
                Fault("renames", rename.pattern, f"matches no tensor of {roles}", f"Names look like {quoted(example)}")
            )
        names = dict.fromkeys(rename(name) for name in names)


def check_distinct(names: Mapping[str, str], rename: Rename, of: Checkpoint) -> None:
    """Raise `UsageError` where a rename makes one name of two."""
    taken: dict[str, str] = {}
    for name, other in names.items():
        if other in taken:
            raise UsageError(
                Fault(
                    "renames",
                    f"{rename.pattern}={rename.replacement}",
                    f"would give {quoted(taken[other])} and {quoted(name)} of {of.role} {of.label} the same name, "
                    f"{quoted(other)}",
                    "Write an expression that keeps them distinct",
                )
            )
        taken[other] = name


def beside(language: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """Those of ``names`` that are in no place of a tensor of the ``language`` model, and are not a head."""
    places = {_place(name) for name in language}
    return frozenset(name for name in names if _place(name) not in places and not is_head_weight(name))


def pattern_of(towers: Set[str], names: Iterable[str]) -> str:
    """The shortest expression that finds all of ``towers`` and no other of ``names``."""
    others = [name for name in names if name not in towers]
    found: dict[str, None] = {}
    for name in sorted(towers):
        parts = name.split(".")
        for count in range(1, len(parts)):
            begin = ".".join(parts[:count]) + "."
            if not any(other.startswith(begin) for other in others):
                found[re.escape(begin)] = None
                break
        else:
            found[re.escape(name) + "$"] = None
    return f"^({'|'.join(found)})" if len(found) > 1 else f"^{next(iter(found), '')}"


def _place(name: str) -> str:
    """A name up to the number of its layer, or without its last part: what it shares with its neighbours."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[:number])
