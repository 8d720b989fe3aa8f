"""Read the [adapt] table of a study: the settings of `tuneport adapt`, for all fine-tunings or for one by name.

The options are those that `AdaptOptions` declares. Files are read and parted as the command does it, so that problems
show hours before it would find them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from tuneport.adaptation.adapt_options import AdaptOptions, Fitting
from tuneport.adaptation.prompt_parts import read_parts
from tuneport.errors import KEYS, TuneportError, UsageError
from tuneport.examples.questions import OwnTask, read_tasks
from tuneport.options import build, options_of
from tuneport.studies.declared import ADAPT_DATA, Adapting, Evaluation, Tuning, Version
from tuneport.studies.file.named_models import Names
from tuneport.studies.file.question_files import need_apart
from tuneport.studies.file.toml_lines import Path as Place
from tuneport.studies.file.toml_tables import Table, nearest
from tuneport.studies.graph.study_inputs import LAB

FITTED = ("prompts", "examples", "select", "retain")  # what a rung is fitted on or chosen by: never the study's test
_RUNNING = ("device", "eval_batch_size")
_SETTINGS = ("match", "max_new_tokens", "chat_template", "keep_harmed", "keep_diff")
_FITTING = tuple(one.name for one in options_of(Fitting))
_MODELS = {"base": "a", "tuned": "b", "onto": "c", "out": "d"}  # stand for the models, which each step has of its own


def keys() -> tuple[str, ...]:
    """What [adapt] may hold."""
    return tuple(KEYS.name(name) for name in (*ADAPT_DATA, "up_to", "rungs", *_FITTING, *_SETTINGS, *_RUNNING))


def read_adaptations(
    names: Names,
    content: Table,
    versions: Sequence[Version],
    tunings: Sequence[Tuning],
    evaluations: Mapping[str, Evaluation],
) -> Mapping[str, Adapting]:
    """What [adapt] says, by fine-tuning ("" for all without their own); what is wrong is noted in `names`."""
    table = names.table(content, "adapt", (), optional=True)
    tuned = {*(tuning.name for tuning in tunings), *(name for version in versions for name in version.tuned)}
    own = {key: value for key, value in table.items() if isinstance(value, dict)}
    for name in own.keys() - tuned:
        told = f"there is no fine-tuning {name!r}{nearest(name, tuned)}; name an existing one, or leave it out"
        names.fault(("adapt", name), told)
    shared = {key: value for key, value in table.items() if key not in own}
    tables: dict[str, tuple[Table, Place]] = {} if not shared else {"": (shared, ("adapt",))}
    tables |= {name: (value, ("adapt", name)) for name, value in own.items()}
    found: dict[str, Adapting] = {}
    for tuning, (values, path) in tables.items():
        adapting = _adapting(names, values, path)
        if adapting is not None:
            found[tuning] = adapting
            asked = [tuning] if tuning else [name for name in ("", *evaluations) if name not in own]
            for name in dict.fromkeys(asked):
                evaluation = evaluations.get(name, evaluations.get(""))
                if evaluation is not None:
                    _apart(names, adapting, evaluation, path)
    return found


def _adapting(names: Names, table: Table, path: Place) -> Adapting | None:
    """One table of settings; None where a fault was noted."""
    before = len(names.faults)
    names.known(table, keys(), path)
    data = {role: names.texts(table, role, path) for role in ADAPT_DATA if role in table}
    for role, specs in data.items():
        for spec in specs:
            names.task(spec, (*path, role), named=False)
    template = names.text(table, "chat-template", path)
    if template is not None:
        names.template_or_model(template, (*path, "chat-template"))
    chosen = {KEYS.name(name): name for name in ("up_to", "rungs", *_FITTING, *_SETTINGS, *_RUNNING)}
    values = {name: table[key] for key, name in chosen.items() if key in table}
    if len(names.faults) > before:
        return None
    given = _given(names, values, data, path)
    if given is None:
        return None
    _read(names, given, data, path)
    fitting = {name: getattr(given.fitting, name) for name in _FITTING}
    fitting["lora"] = None if given.fitting.lora is None else given.fitting.lora.text
    return Adapting(
        data=data,
        rungs=given.wanted,
        fitting=fitting,
        settings={name: values[name] for name in _SETTINGS if name in values},
        running={name: values[name] for name in _RUNNING if name in values},
    )


def _given(
    names: Names, values: Mapping[str, Any], data: Mapping[str, tuple[str, ...]], path: Place
) -> AdaptOptions | None:
    """The settings as the command has them; what it says against them is noted."""
    files = {role: tuple(names.data(spec) or spec for spec in specs) for role, specs in data.items()}
    try:
        return build(AdaptOptions, {**_MODELS, **values, **files}, "adapt")
    except UsageError as error:
        _tell(names, error, path)
        return None


def _read(names: Names, given: AdaptOptions, data: Mapping[str, tuple[str, ...]], path: Place) -> None:
    """Part the prompts as the command does; where some are still to be made or fetched, it does so itself."""
    if not all(names.data(spec) is not None for specs in data.values() for spec in specs):
        return
    try:
        read_parts(given, None)
    except UsageError as error:
        _tell(names, error, path)
    except TuneportError as error:
        names.fault(path, error.message(KEYS).removesuffix("."))


def _tell(names: Names, error: UsageError, path: Place) -> None:
    """Each fault at its key."""
    for fault in error.faults:
        names.fault((*path, KEYS.name(fault.option)), fault.beside(KEYS))
    if not error.faults:
        names.fault(path, error.message(KEYS).removesuffix("."))


def _apart(names: Names, adapting: Adapting, evaluation: Evaluation, path: Place) -> None:
    """Nothing that a rung is fitted on or chosen by is also in the study's test."""
    tests = {*evaluation.tasks, *evaluation.loss}
    for role in FITTED:
        specs = adapting.data.get(role, ())
        both = sorted(tests & {*specs})
        for spec in both:
            told = f"{spec!r} is also a test task. Selection on the test set is not allowed; use other examples"
            names.fault((*path, role), told)
        files = _files(names, specs)
        if files and not both:
            names.attempt((*path, role), partial(_need_apart, names, evaluation, files, role))


def _need_apart(names: Names, evaluation: Evaluation, files: list[str], role: str) -> None:
    tasks: list[OwnTask] = []
    for specs, loss in ((evaluation.tasks, False), (evaluation.loss, True)):
        with suppress(TuneportError):  # told at [evaluate]
            tasks += read_tasks(of_test, loss=loss) if (of_test := _files(names, specs)) else []
    if tasks:
        need_apart(tasks, files, f"{role} of [adapt]")


def _files(names: Names, specs: Sequence[str]) -> list[str]:
    """Those that lie beside the study file."""
    found = (names.data(spec) for spec in dict.fromkeys(specs) if not spec.startswith(LAB))
    return [file for file in found if file is not None]
