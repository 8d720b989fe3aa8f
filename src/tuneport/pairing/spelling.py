"""One model under two spellings: the tensors of each parent under the target's names.

In come checkpoints whose tensors may be called, joined and turned differently; out come the same checkpoints in the spelling
of the last one, as views of what they store: first by what a person gives with ``--rename``, then by the rules of
`spelling_search`, where one of them pairs every tensor. Where none does, nothing is changed, and pairing says what does not
fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tuneport.checkpoint.adapter_names import weight_names
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.sidecars import Decision
from tuneport.checkpoint.views import renamed, stored_name
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import UsageError
from tuneport.pairing.spelling_advice import renames_in_words
from tuneport.pairing.spelling_rules import Rename
from tuneport.pairing.spelling_search import find_translation

Tensors = Mapping[str, StoredTensor]


@dataclass(frozen=True)
class Aligned:
    """Checkpoints under the reference's names. ``decisions`` say by which rules."""

    checkpoints: tuple[Checkpoint, ...]
    decisions: tuple[Decision, ...]
    reference: Checkpoint

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


def align(parents: Sequence[Checkpoint], reference: Checkpoint, renames: Sequence[Rename] = ()) -> Aligned:
    """The parents' tensors in the reference's spelling; an adapter's stay peft's. Raises `UsageError` for a bad rename.

    ``reference`` may be one of the parents: ``--rename`` is then applied to it as well.
    """
    _check_renames(renames, parents)
    written = reference.tensors
    if any(parent is reference for parent in parents):
        written = rename_all(written, renames, reference)
    found, decisions = [], []
    for parent in parents:
        if parent.adapter is not None:
            found.append(parent)
            continue
        tensors = rename_all(parent.tensors, renames, parent)
        translation = find_translation(tensors, parent.config, written, reference.config)
        tensors = translation.tensors if translation is not None else tensors
        rules = ["--rename"] * bool(renames) + ([translation.rule] if translation is not None else [])
        if rules and (told := _examples(tensors)):
            decisions.append(Decision(f"names.{parent.role}", told, "; ".join(rules)))
            parent = replace(parent, tensors=dict(sorted(tensors.items())))
        found.append(parent)
    return Aligned(tuple(found), tuple(decisions), reference)


def rename_all(tensors: Tensors, renames: Sequence[Rename], of: Checkpoint) -> dict[str, StoredTensor]:
    """Tensors under the names that ``--rename`` gives. Raises `UsageError` where two would have one name."""
    for rename in renames:
        names = {name: rename(name) for name in tensors}
        check_distinct(names, rename, of)
        tensors = {other: renamed(tensors[name], other) for name, other in names.items()}
    return dict(tensors)


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
            found.append(f"`{sources[0]}`{more} → `{name}`")
    return ", ".join(found) + (f" ({changed} in all)" if changed > len(found) else "")


def _sources(tensor: StoredTensor) -> Iterator[str]:
    if tensor.view is not None and tensor.view.parts:
        for part in tensor.view.parts:
            yield from _sources(part)
    else:
        yield stored_name(tensor)


def _check_renames(renames: Sequence[Rename], parents: Sequence[Checkpoint]) -> None:
    names: dict[str, None] = {}
    for parent in parents:
        names |= dict.fromkeys(parent.tensors if parent.adapter is None else weight_names(parent.tensors))
    for rename in renames:
        if not any(re.search(rename.pattern, name) for name in names):
            roles = " and ".join(parent.role for parent in parents)
            example = next(iter(names), "-")
            raise UsageError(f"--rename {rename.pattern!r} matches no tensor of {roles}; names look like `{example}`.")
        names = dict.fromkeys(rename(name) for name in names)


def check_distinct(names: Mapping[str, str], rename: Rename, of: Checkpoint) -> None:
    """Raise `UsageError` where a rename makes one name of two."""
    taken: dict[str, str] = {}
    for name, other in names.items():
        if other in taken:
            raise UsageError(
                f"--rename {rename.pattern}={rename.replacement} would give `{taken[other]}` and `{name}` of {of.role} {of.label} one name, `{other}`. Write an "
                "expression that tells them apart."
            )
        taken[other] = name
