"""The plan of a run, made from headers alone.

A `Plan` has the fate of every tensor, the recipe and place of every output tensor, every decision about tokens and
small files with its reason, the reasons to stop, and the bytes to download, read and write. It is made before anything
is written. Two runs with the same plan are the same run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from tuneport import __version__
from tuneport.checkpoint.adapter import Alike
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.encoded.chunk import ROOM
from tuneport.checkpoint.views import room_to_read
from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine.budget import DEFAULT_MAX_MEMORY, DEFAULT_MAX_MEMORY_PARSING
from tuneport.engine.choices import Choices
from tuneport.engine.kernel import BLOCK
from tuneport.engine.pieces import DifferenceRecipe, Recipe, Rows, Source, Sum
from tuneport.engine.product import NBYTES
from tuneport.engine.tokens import LostDifference, token_warnings
from tuneport.errors import PairingError, SidecarError, TuneportError, listing, named
from tuneport.files.lazy_sequences import LazySequence
from tuneport.files.opening import contents, read_in_words
from tuneport.files.printable import quoted
from tuneport.output.digest import leaf_count
from tuneport.output.shards import Layout, lay_out
from tuneport.pairing.account import Account, Fate, TensorPair
from tuneport.pairing.tensors import usual_dtype
from tuneport.pairing.vocabulary import VocabularyMatch
from tuneport.pairing.vocabulary_matrices import rows_of
from tuneport.sidecars.merge import Decision, FieldDifference

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
class Added:
    """One of the differences of a plan: ``role`` brings it, a tuned model's or a diff vector's.

    ``account`` has its own lines. ``base`` is the role of its base, where that is given; ``base_sample`` is what a diff vector
    remembers of it.
    """

    role: str
    account: Account
    scale: float = 1.0
    base: str | None = None
    base_sample: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Everything that will happen. With non-empty ``refusals`` the run would stop before it writes anything.

    ``inputs`` are the checkpoints as they are given: of an adapter its own tensors. ``added`` are the differences, in the order
    in which they are added, and ``vocabulary`` how the tokens of each are matched. ``exact`` are pairs that must be equal in base
    and tuned, ``alike`` tensors of an adapter (whose role is given) that must be equal to each other. ``lost`` are rows of tokens
    that have no place in the output, ``dropped`` are whole tensors.
    """

    operation: Operation
    formula: str
    inputs: tuple[Checkpoint, ...]
    choices: Choices
    account: Account
    tasks: Sequence[OutputTask]
    layout: Layout
    added: tuple[Added, ...]
    vocabulary: tuple[VocabularyMatch, ...]
    files: Mapping[str, bytes | Path]
    decisions: tuple[Decision, ...]
    tensor_refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    dropped: tuple[LostRows, ...]
    extra: Mapping[str, Any]
    exact: tuple[tuple[Source, Source], ...] = ()
    alike: tuple[tuple[str, Alike], ...] = ()
    differences: tuple[FieldDifference, ...] = ()
    sidecar_refusals: tuple[str, ...] = ()
    lost: tuple[LostRows, ...] = ()

    @property
    def refusals(self) -> tuple[str, ...]:
        """Everything that would stop the run: problems of tensors first, then of the small files."""
        return (*self.tensor_refusals, *self.sidecar_refusals)

    @property
    def token_warnings(self) -> tuple[str, ...]:
        """What is lost with tokens that have no row in the output, before anything is measured."""
        return self.token_losses(None)

    def token_losses(self, measured: LostDifference | None) -> tuple[str, ...]:
        """The same once it is ``measured``, all differences together."""
        both = zip(self.added, self.vocabulary, strict=True)
        return tuple(
            line for one, match in both for line in token_warnings(match, measured, of_vector=one.base is None)
        )

    @property
    def default_limit(self) -> int:
        """The memory bound where none is given: vocabularies that had to be parsed need more."""
        parsed = bool(self.choices.row_rules) or any(match.how == "strings" for match in self.vocabulary)
        return DEFAULT_MAX_MEMORY_PARSING if parsed else DEFAULT_MAX_MEMORY

    @property
    def more_memory(self) -> int:
        """Bytes that each worker needs beside its pieces: tiles of an adapter's factors, slabs of turned tensors, chunks."""
        adapted = any(checkpoint.adapter is not None for checkpoint in self.inputs)
        lines = (line for one in self.added for line in one.account) if adapted else ()
        pairs = (line.pair for line in lines if line.pair is not None)
        factors = any(pair.change is not None and pair.change.low_rank is not None for pair in pairs)
        slabs = room_to_read(source for task in self.tasks for source in _sources(task.recipe))
        blocks = 2 * 8 * BLOCK * (len(self.added) - 1)  # base and tuned of each further difference
        coders = self.layout.encoded + sum(checkpoint.encoded is not None for checkpoint in self.inputs)
        return (NBYTES if factors else 0) + slabs + blocks + coders * ROOM

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
        """Bytes of weights on the Hub that are not in the cache; a model of several roles is fetched once."""
        return sum({(each.hub_id, each.revision, each.path): each.to_fetch for each in self.inputs}.values())

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
            **({"encoding": "exact"} if self.layout.encoded else {}),
            "choices": self.choices.record(),
            "scales": [one.scale for one in self.added],
            "inputs": {checkpoint.role: _stamp(checkpoint) for checkpoint in self.inputs},
            "sidecars": self.sidecar_digests(),
        }

    def sidecar_digests(self) -> dict[str, str]:
        """BLAKE3 of every small file of the output, as it is now."""
        return {name: _digest_of_file(content) for name, content in self.files.items()}

    def line_of(self, task: OutputTask, one: Added) -> TensorPair | None:
        """The line of a task's tensor in the account of one of the differences."""
        return task.line if len(self.added) == 1 else one.account.find(task.slot.name)

    def stop_if_refused(self) -> None:
        """Raise with every reason at once, if there is one."""
        if not self.refusals:
            return
        kind: type[TuneportError] = PairingError if self.tensor_refusals else SidecarError
        count = f"{len(self.refusals)} problem{'s' if len(self.refusals) > 1 else ''} found"
        raise kind(f"Cannot {self.operation}: {count}:{listing(list(self.refusals))}")


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
