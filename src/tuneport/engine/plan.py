"""Plan a transfer from headers alone.

A `Plan` has the fate of every tensor, the recipe and place of every output tensor, every decision about tokens and
small files with its reason, the reasons to stop, and the bytes to download, read and write. It is made before anything
is written. Two runs with the same plan are the same run.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from blake3 import blake3

from tuneport import __version__
from tuneport.checkpoint.adapter import Alike
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import working_dtype
from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.checkpoint.views import room_to_read
from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine.adapted_terms import adapted_terms
from tuneport.engine.budget import DEFAULT_MAX_MEMORY, DEFAULT_MAX_MEMORY_PARSING
from tuneport.engine.checks.output_contradictions import contradictions
from tuneport.engine.choices import Choices
from tuneport.engine.parents import equal_pairs, pair_models
from tuneport.engine.pieces import DifferenceRecipe, Recipe, Rows, Source, Sum, Term
from tuneport.engine.product import NBYTES
from tuneport.engine.scaling.presets import PRESETS, choices_of_files
from tuneport.engine.scaling.scales import Scales, added_rows, find_scales
from tuneport.engine.tokens import Matrices, lost_runs, token_warnings, without_tokenizers
from tuneport.errors import PairingError, SidecarError, TuneportError, listing, named
from tuneport.files.lazy_sequences import LazySequence
from tuneport.files.opening import contents, read_in_words
from tuneport.files.printable import quoted
from tuneport.output.digest import leaf_count
from tuneport.output.shards import Layout, lay_out
from tuneport.pairing.account import Account, Fate, ParentPair, TensorPair
from tuneport.pairing.tensors import main_dtype, pair_target, usual_dtype
from tuneport.pairing.vocabulary import RowMap, VocabularyMatch
from tuneport.pairing.vocabulary_matrices import columns_of, rows_of, with_rows
from tuneport.sidecars.merge import Decision, FieldDifference, merge_sidecars
from tuneport.sidecars.three_way import Three

FORMAT = "tuneport.manifest/1"
Operation = Literal["transfer", "apply", "diff"]
# The fates of tensors that are in the output.
WRITTEN: tuple[Fate, ...] = ("transferred", "resized", "copied")


@dataclass(frozen=True, slots=True)  # one for each tensor
class OutputTask:
    """One tensor of the output: its line in the account, its place, its recipe."""

    line: TensorPair
    slot: StoredTensor
    recipe: Recipe
    scales: tuple[float, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the output."""
        return self.slot.nbytes


@dataclass(frozen=True)
class LostRows:
    """Rows of one tensor, or all of it, that have a difference and no place in the output: it, and its elements."""

    recipe: DifferenceRecipe
    elements: int


@dataclass(frozen=True)
class Plan:
    """Everything that will happen. With non-empty ``refusals`` the run would stop before it writes anything.

    ``inputs`` are the checkpoints as they are given: of an adapter its own tensors. ``exact`` are pairs that must be equal
    in base and tuned, ``alike`` tensors of an adapter that must be equal to each other. ``lost`` are rows of tokens that
    have no place in the output, ``dropped`` are whole tensors. ``base_samples`` are what diff vectors remember of their
    bases, by role.
    """

    operation: Operation
    formula: str
    inputs: tuple[Checkpoint, ...]
    choices: Choices
    account: Account
    tasks: Sequence[OutputTask]
    layout: Layout
    vocabulary: tuple[VocabularyMatch, ...]
    files: Mapping[str, bytes | Path]
    decisions: tuple[Decision, ...]
    tensor_refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    dropped: tuple[LostRows, ...]
    extra: Mapping[str, Any]
    exact: tuple[ParentPair, ...] = ()
    alike: tuple[Alike, ...] = ()
    differences: tuple[FieldDifference, ...] = ()
    sidecar_refusals: tuple[str, ...] = ()
    lost: tuple[LostRows, ...] = ()
    base_samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]] = field(default_factory=dict)

    @property
    def refusals(self) -> tuple[str, ...]:
        """Everything that would stop the run: problems of tensors first, then of the small files."""
        return (*self.tensor_refusals, *self.sidecar_refusals)

    @property
    def token_warnings(self) -> tuple[str, ...]:
        """What is lost with tokens that have no row in the output, before anything is measured."""
        of_vector = self.operation == "apply"
        return tuple(line for match in self.vocabulary for line in token_warnings(match, of_vector=of_vector))

    @property
    def default_limit(self) -> int:
        """The memory bound where none is given: vocabularies that had to be parsed need more."""
        parsed = bool(self.choices.row_rules) or any(match.how == "strings" for match in self.vocabulary)
        return DEFAULT_MAX_MEMORY_PARSING if parsed else DEFAULT_MAX_MEMORY

    @property
    def more_memory(self) -> int:
        """Bytes that each worker needs beside its pieces: tiles of an adapter's factors, slabs of turned tensors."""
        adapted = any(checkpoint.adapter is not None for checkpoint in self.inputs)
        pairs = (line.pair for line in self.account if line.pair is not None) if adapted else ()
        factors = any(pair.change is not None and pair.change.low_rank is not None for pair in pairs)
        slabs = room_to_read(source for task in self.tasks for source in _sources(task.recipe))
        return (NBYTES if factors else 0) + slabs

    @property
    def slots(self) -> Sequence[StoredTensor]:
        """The place of each task's tensor, in the order of the tasks."""
        return LazySequence(len(self.tasks), lambda number: self.layout.slots.at(self.layout.order[number]))

    @property
    def leaves(self) -> int:
        """Leaves of 4 MiB of the output."""
        return sum(leaf_count(slot.nbytes) for slot in self.slots)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of weights that the run reads (each output tensor's sources once)."""
        return sum(source.nbytes for task in self.tasks for source in _sources(task.recipe))

    @property
    def bytes_to_fetch(self) -> int:
        """Bytes of weights on the Hub that are not in the cache."""
        return sum(checkpoint.to_fetch for checkpoint in self.inputs)

    @property
    def bytes_to_write(self) -> int:
        """Bytes of the output: shards, index and sidecars."""
        small = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in self.files.values())
        return self.layout.nbytes + small

    def record(self) -> dict[str, Any]:
        """What makes two runs the same, as JSON: choices, and headers, size and times of every input."""
        return {
            "format": FORMAT,
            "version": __version__,
            "operation": self.operation,
            "choices": self.choices.record(),
            "inputs": {checkpoint.role: _stamp(checkpoint) for checkpoint in self.inputs},
            "sidecars": self.sidecar_digests(),
        }

    def sidecar_digests(self) -> dict[str, str]:
        """BLAKE3 of every small file of the output, as it is now."""
        return {name: _digest_of_file(content) for name, content in self.files.items()}

    def stop_if_refused(self) -> None:
        """Raise with every reason at once, if there is one."""
        if not self.refusals:
            return
        kind: type[TuneportError] = PairingError if self.tensor_refusals else SidecarError
        count = f"{len(self.refusals)} problem{'s' if len(self.refusals) > 1 else ''} found"
        raise kind(f"Cannot {self.operation}: {count}:{listing(list(self.refusals))}")


def plan_transfer(base: Checkpoint, tuned: Checkpoint, target: Checkpoint, choices: Choices) -> Plan:
    """The plan of target + scale·(tuned − base). Raises an error if the models do not belong together."""
    paired = pair_models(base, tuned, target, choices)
    match, parents = paired.matched.match, paired.parents
    scales = find_scales(choices, [paired.matched], [paired.tuned.sidecars], target.sidecars, target.tensors)
    account = pair_target(parents, target, paired.ties[2], scales.rules, bool(match.added))
    cast = Cast(main_dtype(target.tensors.values()), choices.dtype)
    matrices = Matrices(match)
    written = array("Q", account.places(*WRITTEN))

    kept: dict[int, Made] = {}  # of matrices whose rows have scales of their own

    def make(number: int) -> Made:
        if number in kept:
            return kept[number]
        line = account[written[number]]
        made = line, *_recipe(line, choices, scales, cast, matrices)
        if scales.by_row(line.name):
            kept[number] = made
        return made

    layout, tasks = place(LazySequence(len(written), make), choices.shard_bytes)
    grown = grown_rows(account, layout)
    folders = Three(paired.base.sidecars, paired.tuned.sidecars, target.sidecars)
    sidecars = merge_sidecars(
        folders, match.names, choices.config, files_chosen(choices, folders), choices.dtype, grown
    )
    against = contradictions(sidecars.files, layout.slots, target)
    return Plan(
        operation="transfer",
        formula=formula(choices),
        inputs=paired.inputs,
        choices=choices,
        account=account,
        tasks=tasks,
        exact=equal_pairs(account),
        alike=paired.adapted.alike,
        layout=layout,
        vocabulary=(without_tokenizers(match),),
        files=sidecars.files,
        decisions=(
            *preset_decisions(choices),
            *paired.decisions,
            *scales.decisions(account.of(*WRITTEN)),
            *sidecars.decisions,
        ),
        differences=tuple(sidecars.differences),
        tensor_refusals=paired.refusals(account, rows_without_room(tasks, grown)),
        sidecar_refusals=(*sidecars.refusals, *against.refusals),
        warnings=(*paired.warnings, *row_warnings(scales, tasks), *sidecars.warnings),
        lost=_lost(account, match),
        dropped=dropped(account),
        extra={**sidecars.noted, **against.record()},
    )


@dataclass(frozen=True)
class Cast:
    """``--dtype``: tensors of the target's ``main`` dtype are stored as ``to``; others keep theirs."""

    main: str
    to: str | None

    def of(self, target: StoredTensor) -> str:
        """The stored dtype of the output tensor of this target."""
        dtype = usual_dtype(target)
        return self.to if self.to is not None and dtype == self.main else dtype


# A line of the account, what is made of it, in which shape, and the scales that were used.
Made = tuple[TensorPair, Recipe, tuple[int, ...], tuple[float, ...]]


def place(made: Sequence[Made], shard_bytes: int, stem: str = "model") -> tuple[Layout, Sequence[OutputTask]]:
    """The layout of the output and its tasks, in the order of their bytes; a task is made when it is looked at."""
    layout = lay_out(((recipe.name, recipe.dtype, shape) for _, recipe, shape, _ in made), shard_bytes, stem)

    def make(number: int) -> OutputTask:
        line, recipe, _, scales = made[layout.tensors[number]]
        return OutputTask(line, layout.slots.at(layout.order[number]), recipe, scales)

    return layout, LazySequence(len(made), make)


def grown_rows(account: Account, layout: Layout) -> dict[int, int]:
    """How many rows the output's vocabulary matrices have that have more than the target's, by how many those have."""
    rows = [(line.target, layout.slots.get(line.name)) for line in account.by_token()]
    return {
        rows_of(before): rows_of(now)
        for before, now in rows
        if before is not None and now is not None and rows_of(now) > rows_of(before)
    }


def rows_without_room(tasks: Sequence[OutputTask], grown: Mapping[int, int]) -> list[str]:
    """Messages for tensors that have no room for new tokens when the vocabulary grows.

    CPM-Ant keeps its prompts behind the vocabulary, Llama 3.2 Vision its image token: a class builds such a matrix of the
    vocabulary's size and a number of its own, so new tokens would take rows that mean something. DeepSeek 4 has tables of
    integers by token, which no difference can be taken of.
    """
    found = []
    least = min(grown, default=0)
    for task in tasks if grown else ():
        target, rows = task.line.target, 0 if task.line.target is None else rows_of(task.line.target)
        if target is None or len(target.shape) < 2:
            continue
        if task.line.by_token and rows > least and grown.get(rows, rows) - rows != grown[least] - least:
            found.append(
                f"{quoted(target.name)} has {rows - least} rows more than the vocabulary; they do not belong to tokens"
            )
        elif DTYPES[target.dtype].kind == "exact" and rows in grown:
            found.append(f"{quoted(target.name)} holds integers, a row for each token")
    return [
        f"{line}; the tuned model's new tokens cannot be added to it. Pass {named('new_tokens', 'drop')} to leave "
        f"them out."
        for line in found
    ]


def formula(choices: Choices) -> str:
    """The formula in words that a manifest shows."""
    scale = "" if choices.scale == 1 else f"{choices.scale:g} · "
    return f"target + {scale}(tuned − base){rules_in_words(choices)}"


def rules_in_words(choices: Choices) -> str:
    """What follows a formula where rules change the scale of some tensors."""
    by_row = [f"; rows of {','.join(rule.tokens)}: {rule.shown_scale}" for rule in choices.row_rules]
    return "".join([*(f"; {rule.shown} where /{rule.pattern}/" for rule in choices.rules), *by_row])


def preset_decisions(choices: Choices) -> list[Decision]:
    """Which options a preset stood for."""
    if choices.preset is None:
        return []
    preset = PRESETS[choices.preset]
    return [Decision("preset", choices.preset, f"stands for {preset.flags}: {preset.what} ({preset.source})")]


def files_chosen(choices: Choices, folders: Iterable[SidecarFolder]) -> Mapping[str, str]:
    """The choices of files that have an effect, or that the user made."""
    folders = list(folders)
    present = {name for name in choices.sidecar if any(folder.has(name) for folder in folders)}
    return choices_of_files(choices.preset, choices.sidecar, present)


def row_warnings(scales: Scales, tasks: Sequence[OutputTask]) -> list[str]:
    """Rules for tokens that have no effect."""
    if scales.rows is None:
        return []
    return scales.rows.warnings(added_rows(task.recipe for task in tasks if scales.by_row(task.line.name)))


def _recipe(
    line: TensorPair, choices: Choices, scales: Scales, cast: Cast, matrices: Matrices
) -> tuple[Recipe, tuple[int, ...], tuple[float, ...]]:
    assert line.target is not None
    target, dtype = line.target, cast.of(line.target)
    seed = choices.seed if choices.rounding == "stochastic" else None
    if line.fate == "copied" or line.pair is None:
        work = working_dtype(target.dtype)
        return Sum(line.name, Source("target", target), (), dtype, work, seed), target.shape, (0.0,)
    base, tuned = line.pair.base, line.pair.tuned
    scale, by_row = scales.of(line.name, choices.scale), scales.by_row(line.name)
    change = line.pair.change
    matched = line.by_token or by_row or (change is not None and change.rows is not None)
    rows = matrices.map(rows_of(base), rows_of(tuned), rows_of(target)) if matched else None
    shape = with_rows(target.shape, rows.rows) if rows is not None else target.shape
    if change is None:
        runs = matrices.runs(base, tuned, target) if matched else None
        terms: tuple[Term, ...] = (Term(Source("tuned", tuned), Source("base", base), scale, runs),)
    else:
        terms = adapted_terms(line.pair, scale, rows, columns_of(target))
    if rows is not None and by_row:
        terms = scales.of_rows(terms, scale, rows.rows)
    work = working_dtype(base.dtype, tuned.dtype, target.dtype)
    return Sum(line.name, Source("target", target), terms, dtype, work, seed), shape, (scale,)


def _lost(account: Account, match: VocabularyMatch) -> tuple[LostRows, ...]:
    """What the fine-tuning changed in rows of tokens that the target lacks, matrix by matrix."""
    found = []
    for line in account.by_token():
        if line.pair is None or line.pair.untrained:
            continue
        base, tuned, columns = line.pair.base, line.pair.tuned, columns_of(line.pair.base)
        rows = match.lost_rows(rows_of(base), rows_of(tuned))
        if not len(rows):
            continue
        if line.pair.change is None:
            runs = lost_runs(rows[:, 0], rows[:, 1], columns)
            terms: tuple[Term, ...] = (Term(Source("tuned", tuned), Source("base", base), 1.0, runs),)
        else:
            places = np.arange(len(rows), dtype=np.int64)
            terms = adapted_terms(line.pair, 1.0, RowMap(len(rows), places, rows[:, 0], rows[:, 1]), columns)
        recipe = DifferenceRecipe(line.name, terms, working_dtype(base.dtype, tuned.dtype))
        found.append(LostRows(recipe, len(rows) * columns))
    return tuple(found)


def dropped(account: Account) -> tuple[LostRows, ...]:
    """The differences of tensors that have no place in the output, where they can be told."""
    found = []
    for line in account.of("dropped"):
        pair = line.pair
        if pair is None or pair.exact or pair.base.shape != pair.tuned.shape:
            continue
        if pair.change is None:
            terms: tuple[Term, ...] = (Term(Source("tuned", pair.tuned), Source("base", pair.base), 1.0),)
        elif pair.change.rows is not None:
            rows = np.arange(rows_of(pair.base), dtype=np.int64)
            terms = adapted_terms(pair, 1.0, RowMap(len(rows), rows, rows, rows), columns_of(pair.base))
        else:
            terms = () if pair.untrained else adapted_terms(pair, 1.0, None, columns_of(pair.base))
        recipe = DifferenceRecipe(line.name, terms, working_dtype(pair.base.dtype, pair.tuned.dtype))
        found.append(LostRows(recipe, pair.base.elements))
    return tuple(found)


def _sources(recipe: Recipe) -> list[StoredTensor]:
    """What a recipe reads in whole; rows that are taken as they stand are few."""
    if isinstance(recipe, Rows):
        return []
    target = [recipe.target.tensor] if isinstance(recipe, Sum) else []
    parts: dict[tuple[str, str], StoredTensor] = {}  # rows with other scales are read from the same tensors
    for term in recipe.terms:
        if term.scale and (term.plus is not None or term.product is not None):
            sources = [source for source in (term.plus, term.minus) if source is not None]
            parts |= {(source.role, source.tensor.name): source.tensor for source in sources}
            if term.product is not None:
                parts |= {(term.product.role, each.name): each for each in term.product.low_rank.factors}
    return [*target, *parts.values()]


def _stamp(checkpoint: Checkpoint) -> dict[str, Any]:
    files = {
        file.name: {
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "ctime_ns": file.ctime_ns,
            "header": file.header_digest,
        }
        for file in checkpoint.files.values()
    }
    return {"name": checkpoint.hub_id or checkpoint.label, "revision": checkpoint.revision, "files": files}


def _digest_of_file(content: bytes | Path) -> str:
    with read_in_words(str(content) if isinstance(content, Path) else "a small file"):
        return blake3(contents(content)).hexdigest()
