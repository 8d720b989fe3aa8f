"""The checked contents of a study file: frozen records of choices, in the paper's words.

Nothing here is computed, opened or run; `study_file.py` makes these records, `build.py` makes a graph from them. Fields
that are options are read from the file as they are declared here: type, bounds and default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tuneport.options import Bounds, option

_POSITIVE, _FROM_ZERO, _SEED = Bounds(above=0), Bounds(least=0), Bounds(least=0, below=2**32)
Pair = tuple[str, str]  # source, target
ADAPT_DATA = ("prompts", "examples", "select", "test", "retain")  # what [adapt] names files for


@dataclass(frozen=True)
class Version:
    """One version of the model, in the order of the file. `tuned` holds fine-tuned models that exist, by tuning's name."""

    name: str
    model: str  # as it is written: a folder (relative to the file), a Hub id with revision, or lab:NAME
    tuned: Mapping[str, str] = field(default_factory=dict)
    target_only: bool = option(False, help="only a target: never fine-tuned, never a source")
    parameters: float | None = option(
        None, help="number of parameters, for estimates without headers", bounds=_POSITIVE
    )


@dataclass(frozen=True)
class Tuning:
    """How versions without a fine-tuned model get one.

    `settings` are the recipe's, spelled as its fields; `running` is how the run goes about it (`save_every`,
    `max_new_tokens` and `eval_batch_size` of the curve).
    """

    name: str
    recipe: str
    data: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    mix: tuple[str, ...] = ()
    after: str | None = None  # the tuning from whose result this one starts (`from` in the file)
    chat_template: str | None = None
    end_token: str | None = None
    lora: str | None = None
    eval_every: int | None = option(None, help="steps between points of the curve", bounds=Bounds(least=1))
    running: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What models are asked. `settings` are `tuneport evaluate`'s, spelled as its arguments."""

    tasks: tuple[str, ...] = ()
    suite: str | None = None
    loss: tuple[str, ...] = ()  # tasks of which the loss of the answers is measured
    validation: tuple[str, ...] = ()  # what curves are read on; never the test
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapting:
    """How transfers are adapted. `fitting` and `settings` are `tuneport adapt`'s, spelled as its arguments.

    `data` is by role (prompts, examples, select, test, retain), `rungs` are those to try, `running` is how a run goes
    about it.
    """

    data: Mapping[str, tuple[str, ...]]
    rungs: tuple[str, ...]
    fitting: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    running: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Healing:
    """How far Algorithm 1 climbs the ladder at each version, before it fine-tunes."""

    heal: Literal["add", "scale", "distil"] | None = option(None, help="last rung to try at each version")


@dataclass(frozen=True)
class Lines:
    """How loss is measured along lines: bases on text, tuned models on data with answers."""

    text: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    points: int = 5
    threshold: float = 0.05  # barriers below it count as connected; stated beforehand
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Doing:
    """What is to be done, as pairs (source, target); chains of pairs for `recycle`."""

    transfer: tuple[Pair, ...] = ()
    adapt: tuple[Pair, ...] = ()
    transfer_then_tune: tuple[Pair, ...] = ()
    recycle: tuple[Pair, ...] = ()
    healing: Healing = Healing()
    paths: tuple[Pair, ...] = ()
    distances: tuple[Pair, ...] = ()
    compare: tuple[Pair, ...] = ()
    scales: tuple[float, ...] = option((1.0,), help="α of target + α·Δ")
    same_total: bool = option(True, help="also fine-tune with the same total of steps")
    reduced_rate: float | None = option(
        None,
        help="further fine-tuning at this fraction of the learning rate, reported separately",
        bounds=Bounds(above=0, below=1),
    )
    carry: Literal["float32", "bfloat16"] = option("float32", help="dtype in which recycle keeps Δ")

    @property
    def anything(self) -> bool:
        """Whether a pair is named at all."""
        further = (self.transfer_then_tune, self.recycle, self.paths, self.distances, self.compare)
        return any((self.transfer, self.adapt, *further))


@dataclass(frozen=True)
class Resources:
    """What one step of a kind needs, for the engines that ask."""

    cpus: float = option(1, help="CPUs, and threads", bounds=_FROM_ZERO)
    gpus: float = option(0, help="GPUs", bounds=_FROM_ZERO)


@dataclass(frozen=True)
class Machine:
    """What [cost] says of the GPUs and of the work, for estimates."""

    flops: float | None = option(None, help="operations per second", bounds=_POSITIVE)
    bandwidth: float | None = option(None, help="bytes of memory per second", bounds=_POSITIVE)
    utilisation: float | None = option(
        None, help="fraction of the peak that is reached", bounds=Bounds(above=0, most=1)
    )
    gpus: float | None = option(None, help="how many", bounds=_POSITIVE)
    tokens_per_example: float | None = option(None, help="of the training data", bounds=_POSITIVE)
    questions: float | None = option(None, help="of an evaluation", bounds=_POSITIVE)
    tokens_per_question: float | None = option(None, help="with the answer", bounds=_POSITIVE)
    new_tokens_per_question: float | None = option(None, help="of these, the answer's, one by one", bounds=_FROM_ZERO)
    tokens_per_path: float | None = option(None, help="at each point", bounds=_POSITIVE)


@dataclass(frozen=True)
class Expected:
    """One of the paper's numbers, shown beside ours; never asserted."""

    table: str
    task: str
    kind: str
    source: str | None
    target: str
    tuning: str
    value: float
    note: str = ""


@dataclass(frozen=True)
class Study:
    """A whole study."""

    name: str
    path: Path
    text: str  # the file as it was read
    versions: tuple[Version, ...]
    seeds: tuple[int, ...] = option((0,), help="of the fine-tunings", bounds=_SEED)
    families: tuple[int, ...] = option(
        (0,), help="seeds of the lab's families; none if the study does not use the lab", bounds=_SEED
    )
    lab: Literal["small", "large"] = option("small", help="size of the lab's models")
    keep: Literal["all", "scored"] = option(
        "all", help="scored: transferred models are deleted once no step needs them"
    )
    tunings: tuple[Tuning, ...] = ()
    transferring: Mapping[str, Any] = field(default_factory=dict)  # [transfer]: drop, vocabulary, new_tokens, …
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)  # "" for all tunings without their own
    adaptations: Mapping[str, Adapting] = field(default_factory=dict)  # as evaluations
    lines: Lines = Lines()
    doing: Doing = Doing()
    resources: Mapping[str, Resources] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    expected: tuple[Expected, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # not faults, but possible mistakes

    @property
    def each_family(self) -> tuple[int | None, ...]:
        """The families, or None where the versions are real checkpoints."""
        return self.families or (None,)

    def version(self, name: str) -> Version:
        """The version of this name."""
        return next(version for version in self.versions if version.name == name)

    def tuning(self, name: str) -> Tuning | None:
        """How versions get a fine-tuning of this name; None where it is only there already."""
        return next((tuning for tuning in self.tunings if tuning.name == name), None)

    @property
    def tuning_names(self) -> tuple[str, ...]:
        """Every fine-tuning that a version has or can get, those of [tune] first."""
        there = (name for version in self.versions for name in version.tuned)
        return tuple(dict.fromkeys([*(tuning.name for tuning in self.tunings), *there]))

    def evaluation(self, tuning: str) -> Evaluation | None:
        """What models of this tuning are asked."""
        return self.evaluations.get(tuning, self.evaluations.get(""))

    def adapting(self, tuning: str) -> Adapting | None:
        """How transfers of this tuning are adapted."""
        return self.adaptations.get(tuning, self.adaptations.get(""))
