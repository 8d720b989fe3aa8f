"""`evaluate`: score models on tasks, and write one record with every example's outcome beside it.

Read `evaluate` from top to bottom: find all inputs and report all problems, plan, check the models, score each model on
each task, compare, write. A killed run resumes with its finished scores; results are never written in part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tuneport import __version__
from tuneport.errors import (
    ABSENT,
    CheckpointError,
    DoubtError,
    Fault,
    UsageError,
    listing,
    named,
    recorded,
    spoken,
)
from tuneport.examples import leakage
from tuneport.examples.conversation_template import shipped_template, template_names
from tuneport.examples.naming import names_data
from tuneport.examples.questions import OwnTask, digest_of_task, read_tasks
from tuneport.files.opening import check_file, read_text
from tuneport.libraries import packages, quietly
from tuneport.options import Place
from tuneport.progress import Progress
from tuneport.public_functions import takes
from tuneport.results import comparing
from tuneport.results.example_outcomes import TaskResult
from tuneport.results.schema import EVALUATION_FORMAT
from tuneport.scoring import olmes
from tuneport.scoring.evaluate_options import Asking, EvaluateOptions
from tuneport.scoring.harness import in_words
from tuneport.scoring.keeping import Kept, already_done, examples_file, keeping
from tuneport.scoring.models import Loading, Seat, find_models, load, look_over, need_device, need_harness, tokenizer_of
from tuneport.scoring.named import NamedTask, ask_named, load_named, load_suite
from tuneport.scoring.question_tasks import ask_own
from tuneport.scoring.sandbox.sandbox import Sandbox
from tuneport.scoring.suites import Variant, find_suite
from tuneport.shown import Found

_ACROSS = (
    "Suite {suite}: models without a chat template get its base variant, the others its tuned one. Differences "
    "between the two (flagged `across_variants`) are partly due to the tasks; choose variant base or tuned to compare "
    "like with like."
)


def _plan(
    given: EvaluateOptions, own: Sequence[OwnTask], names: Sequence[str], loading: Loading, seats: Sequence[Seat]
) -> dict[str, Any]:
    """What makes two evaluations the same. The batch size does not matter: a smaller one can resume after memory ran
    out.
    """
    loaded = {name: value for name, value in asdict(loading).items() if name != "batch_size"}
    return {
        "format": EVALUATION_FORMAT,
        "models": [dict(seat.identity) for seat in seats],
        "tasks": [*({"task": task.name, "digest": digest_of_task(task)} for task in own), *names],
        "settings": {**asdict(given.asking), **loaded, "chat": given.chat, "seed": given.seed},
        **({} if given.suite is None else {"suite": given.suite, "variant": given.variant}),
        "versions": versions(),
    }


class Scores(Found):
    """The record of an evaluation, by key as its JSON is (docs/formats.md)."""

    def heading(self) -> str:
        """One line: how many models, and on what."""
        names = dict.fromkeys(name for model in self["models"] for name in model["tasks"])
        return f"scores of {len(self['models'])} model(s) on {', '.join(names)}"

    def table(self) -> list[list[str]]:
        """A row for each model and task."""
        rows = [["model", "task", "metric", "score", "95 % interval", "n"]]
        for model in self["models"]:
            for name, task in model["tasks"].items():
                interval = "–" if task["interval"] is None else " to ".join(f"{end:.3f}" for end in task["interval"])
                value = f"{task['value']:.3f}"
                rows.append([model["model"], name, task["metric"], value, interval, f"{task['n']:,}"])
        return rows


@takes(EvaluateOptions)
def evaluate(given: EvaluateOptions) -> Scores:
    """Score models on tasks with lm-evaluation-harness; with ``out`` the record is written there.

    Tasks are your own examples (files, data sets on the Hub, tables of pandas or datasets; see docs/formats.md) and
    names of the harness's tasks. Your own examples are answered greedily; the whole answer must match, or the group of
    ``match``. Every outcome is written beside ``out``, to a file that ends in ``.examples.jsonl``. If models were
    chosen on examples of the tests, nothing is scored, unless ``allow_selection``. Raises `TuneportError`.

        tuneport.evaluate("v2", "test.jsonl")
        tuneport.evaluate(["v1", "v2"], ["test.jsonl", "gsm8k"], "scores.json")
    """
    if given.out is not None:
        return Scores(_evaluate(given, Path(given.out).expanduser()))
    with TemporaryDirectory(prefix="tuneport-") as folder:
        return Scores({**_evaluate(given, Path(folder) / "scores.json"), "examples": None})


def _evaluate(given: EvaluateOptions, out: Path) -> dict[str, Any]:
    backend, suite, variant, chat = given.backend, given.suite, given.variant, given.chat
    strict, overwrite, asking = given.strict, given.overwrite, given.asking
    need_harness(backend)
    program = olmes.find_program() if backend == "olmes" else None
    models, seats = _with_those_against([os.fspath(model) for model in given.models], given.against)
    wanted_suite = None if suite is None else find_suite(suite)
    sandbox = None if given.run_code_in is None else Sandbox(given.run_code_in)
    if sandbox is not None:
        sandbox.check()
    data, names = _sorted_tasks(given.tasks, wanted_suite is not None)
    own = tuple(read_tasks(data, loss=asking.loss, columns=given.columns))
    loading = Loading(backend, given.device, given.dtype, given.batch_size, template_text(given.chat_template))
    need_device(loading)
    triples = [_roles("recovered_gain", triple, seats, models) for triple in given.recovered_gain]
    against = _roles("against", [os.fspath(model) for model in given.against], seats, models)
    trained_on = [Path(place) for place in given.trained_on]
    leaks = leakage.leaked(own, trained_on, names, [Path(seat.adapter or seat.source) for seat in seats])
    if not given.allow_selection:
        leakage.refuse_selection(leaks)
    plan = _plan(given, own, names, loading, seats) | {"against": against, "recovered_gain": triples, "leakage": leaks}
    done = already_done(out, plan, overwrite)
    if done is not None:
        return {**done, "already_done": True}
    warnings = [leakage.in_words(row) for row in leaks] + [warning for task in own for warning in task.warnings]
    notes = [note for task in own for note in task.notes]
    if program is not None:
        if own:
            problem, remedy = "only scores OLMES's own tasks", "Use the backend hf for your own files"
            raise UsageError(Fault("backend", "olmes", problem, remedy))
        with keeping(out, plan, overwrite) as kept:
            tasks = olmes.names_of(suite, names)
            with Progress("evaluate", len(seats) * len(tasks), "tasks", rate=False) as progress:
                scored = _score_by_olmes(program, seats, tasks, loading, kept, progress)
            record = _record(scored, plan, loading, triples, leaks, warnings, out)
            kept.finish(record, _lines(scored))
        return {**record, "warnings": _shown(warnings), "plan": kept.plan, "already_done": False}
    results: dict[str, list[TaskResult]]
    with keeping(out, plan, overwrite) as kept, quietly():
        known = load_named(names, chat=chat) if names else []
        variants: list[Variant] = []
        for seat in seats:
            needs_template = chat or variant == "tuned"
            others = bool(known) or wanted_suite is not None
            looked = look_over(seat, loading, own, limit=asking.limit, others=others, needs_template=needs_template)
            warnings += looked.warnings
            variants.append("tuned" if variant == "tuned" or (variant == "auto" and looked.template) else "base")
        suites = (
            {} if wanted_suite is None else {v: load_suite(wanted_suite, v, sandbox) for v in dict.fromkeys(variants)}
        )
        if len(suites) > 1:
            warnings.append(_ACROSS.format(suite=suite))
        _no_two_alike([*own, *known, *next(iter(suites.values()), [])])
        if strict and warnings:
            raise DoubtError(
                f"{named('strict')} stopped this run before scoring, because of these warnings:{listing(warnings)}"
            )
        results = {}
        everything: list[list[OwnTask | NamedTask]] = [[*own, *known, *suites.get(each, [])] for each in variants]
        with Progress("evaluate", sum(map(len, everything)), "tasks", rate=False) as progress:
            for place, seat in enumerate(seats):
                found, told = _score(place, seat, everything[place], loading, asking, kept, strict, progress)
                results[seat.name] = found
                warnings += told
        warnings += notes
        record = _record(results, plan, loading, triples, leaks, warnings, out)
        kept.finish(record, _lines(results))
    return {**record, "warnings": _shown(warnings), "plan": kept.plan, "already_done": False}


def _shown(warnings: Sequence[str]) -> list[str]:
    return list(spoken(dict.fromkeys(warnings)))


def _record(
    results: Mapping[str, Sequence[TaskResult]],
    plan: Mapping[str, Any],
    loading: Loading,
    triples: Sequence[Sequence[str]],
    leaks: Sequence[Mapping[str, Any]],
    warnings: Sequence[str],
    out: Path,
) -> dict[str, Any]:
    """What `--out` holds, apart from the plan (see docs/formats.md)."""
    seed = plan["settings"]["seed"]
    return {
        "format": EVALUATION_FORMAT,
        "models": [
            {"model": name, "tasks": {result.task: result.record(seed) for result in of_model}}
            for name, of_model in results.items()
        ],
        "comparisons": comparing.compare(results, seed, comparing.pairs_of(list(results), plan["against"])),
        "recovered_gain": [row for triple in triples for row in comparing.recovered(results, triple, seed)],
        "leakage": list(leaks),
        "warnings": recorded(dict.fromkeys(warnings)),
        "settings": plan["settings"] | {"batch_size": loading.batch_size},
        "versions": plan["versions"],
        "examples": examples_file(out).name,
    }


def _score_by_olmes(
    program: str, seats: Sequence[Seat], tasks: Mapping[str, str], loading: Loading, kept: Kept, progress: Progress
) -> dict[str, list[TaskResult]]:
    results: dict[str, list[TaskResult]] = {}
    for place, seat in enumerate(seats):
        earlier = [kept.get(place, number) for number in range(len(tasks))]
        if all(earlier):
            results[seat.name] = [found[0] for found in earlier if found is not None]
            progress.taken_up(len(tasks))
            progress.add(len(tasks))
            continue
        progress.note = f"{seat.name}: OLMES"
        results[seat.name] = olmes.ask(program, seat, tasks, loading, kept.folder / f"olmes-{place:03d}")
        for number, result in enumerate(results[seat.name]):
            kept.put(place, number, result, [])
            progress.add()
    return results


def _score(
    place: int,
    seat: Seat,
    everything: Sequence[OwnTask | NamedTask],
    loading: Loading,
    asking: Asking,
    kept: Kept,
    strict: bool,
    progress: Progress,
) -> tuple[list[TaskResult], list[str]]:
    """One model on every task, from what is kept or from the model, which is loaded only where something is missing."""
    results: list[TaskResult] = []
    warnings: list[str] = []
    told: list[str] = []

    def tell(found: list[str]) -> None:
        if strict and found:
            raise DoubtError(f"{named('strict')} stopped scoring, because of these warnings:{listing(found)}")
        told.extend(found)

    model = None
    for number, task in enumerate(everything):
        earlier = kept.get(place, number)
        if earlier is None:
            if model is None:
                model = load(seat, loading, tell)
            progress.note = f"{seat.name}: {task.name}"
            told.clear()
            with in_words(f"model {seat.name} could not be scored on {task.name}"):
                result = (
                    ask_own(task, model, asking)
                    if isinstance(task, OwnTask)
                    else ask_named(task, model, limit=asking.limit)
                )
            earlier = result, list(told)
            kept.put(place, number, *earlier)
        else:
            progress.taken_up(1)
        progress.add()
        results.append(earlier[0])
        warnings += earlier[1]
    return results, warnings


def _lines(results: Mapping[str, Sequence[TaskResult]]) -> Iterator[dict[str, Any]]:
    for name, of_model in results.items():
        for result in of_model:
            left_out = {"weight"} if result.right_or_wrong else set()
            for outcome in result.outcomes:
                told = {key: value for key, value in vars(outcome).items() if value is not None and key not in left_out}
                yield {"model": name, "task": result.task, **told}


def _sorted_tasks(tasks: Sequence[Any], has_suite: bool) -> tuple[list[Any], list[str]]:
    """Data of one's own, and names of the harness's tasks."""
    data = [task for task in tasks if names_data(task)]
    names = [os.fspath(task) for task in tasks if not names_data(task)]
    if not data and not names and not has_suite:
        remedy = "Name a file of your own examples or a task of lm-evaluation-harness"
        raise UsageError(Fault("tasks", ABSENT, "is missing", remedy))
    return data, list(dict.fromkeys(names))


def _no_two_alike(tasks: Sequence[OwnTask | NamedTask]) -> None:
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            Fault("tasks", ABSENT, f"{', '.join(twice)} is listed twice, directly or in a group", "Name each once")
        )


def _with_those_against(models: list[str], against: Sequence[Place]) -> tuple[list[str], list[Seat]]:
    """All models that are scored: those that were named, and those that they are compared with."""
    seats = find_models(models)
    known = {*models, *(seat.name for seat in seats)}
    more = [spec for spec in dict.fromkeys(os.fspath(each) for each in against) if spec not in known]
    return ([*models, *more], find_models([*models, *more])) if more else (models, seats)


def _roles(option: str, triple: Sequence[str], seats: Sequence[Seat], models: Sequence[str]) -> list[str]:
    """The names in the record of models that are given as they were first, or by those names."""
    known = {model: seat.name for model, seat in zip(models, seats, strict=True)}
    known |= {seat.name: seat.name for seat in seats}
    unknown = [str(role) for role in triple if str(role) not in known]
    if unknown:
        told = f"{', '.join(unknown)} is not among the models to score"
        raise UsageError(Fault(option, tuple(triple), told))
    return [known[str(role)] for role in triple]


def template_text(source: Place | None) -> str | None:
    """The text of a chat template: one that comes along, by name, or from a file, or from a model that has one."""
    if source is None:
        return None
    source = os.fspath(source)
    if source in template_names():
        return shipped_template(source)
    path = Path(source).expanduser()
    if check_file(path):
        try:
            return read_text(path)
        except UnicodeDecodeError:
            raise UsageError(Fault("chat_template", str(source), "is not a text file")) from None
    try:
        template = tokenizer_of(find_models([source])[0]).chat_template
    except CheckpointError as error:
        told = f"{named('chat_template', source)}: there is no such file, and as a model: {error}"
        raise CheckpointError(told) from None
    if not isinstance(template, str):
        told = "has no chat template, or several by name"
        raise UsageError(Fault("chat_template", str(source), told, "Give a file"))
    return template


def versions() -> dict[str, str]:
    """The versions of the libraries that decide scores."""
    return {"tuneport": __version__, **packages()}
