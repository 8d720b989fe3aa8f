"""Read and check a whole study file.

Returns a `Study`. All faults are reported together, each with its line and what to do, and any file gives either a
`Study` or a `StudyError`. docs/formats.md describes the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tuneport.checkpoint.open_model import HUB_ID
from tuneport.diagnosis.path_options import PathOptions
from tuneport.errors import StudyError
from tuneport.examples.questions import OwnTask
from tuneport.files.opening import read_bytes
from tuneport.scoring.suites import find_suite
from tuneport.studies.declared import Evaluation, Lines, Machine, Resources, Study, Tuning, Version
from tuneport.studies.file import settings
from tuneport.studies.file.adapt_table import read_adaptations
from tuneport.studies.file.do_table import read_doing
from tuneport.studies.file.expected_numbers import read_expected
from tuneport.studies.file.named_models import Names
from tuneport.studies.file.question_files import asked_in_two_ways, need_apart, read_questions
from tuneport.studies.file.toml_lines import Path as Place
from tuneport.studies.file.toml_lines import lines_of, unquoted
from tuneport.studies.file.toml_tables import Table, nearest
from tuneport.studies.graph.build import BEYOND
from tuneport.studies.graph.study_inputs import LAB
from tuneport.tuning.recipes import TuneOptions

KINDS = ("family", "tune", "transfer", "adapt", "evaluate", "path", "distance", "compare", "rounding")
MOST_BYTES = 4 * 2**20
_SECTIONS = (
    "study", "version", "tune", "transfer", "adapt", "evaluate", "paths", "do", "resources", "cost", "expected",
)  # fmt: skip


def read_study(path: str | os.PathLike[str]) -> Study:
    """The study that a file declares. Raises `StudyError` with every fault of it, each with its line."""
    place = Path(os.path.expanduser(path))
    try:
        if place.exists() and not place.is_file():  # a device has no end, a pipe may never begin
            raise StudyError(f"{path} is not a file. Give the TOML file of a study.")
        if place.stat().st_size > MOST_BYTES:
            raise StudyError(f"{path} has more than {MOST_BYTES // 2**20} MiB; a study file is a few pages of TOML.")
        text = read_bytes(place, most=MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None)
        raise StudyError(f"{path} cannot be read: {reason or error}. Give the TOML file of a study.") from None
    return study_of(text, place)


def study_of(text: str, path: Path) -> Study:
    """The study that a text declares, as if it were the file `path`."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what = "values are nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise StudyError(f"{path.name} is not valid TOML: {what}.{unquoted(text, what)}") from None
    reader = _Reader(path, lines_of(text))
    study = reader.study(content, text)
    if reader.faults:
        told = [f"{path.name}:{line}: {what}" for line, what in sorted(dict.fromkeys(reader.faults))]
        count = f"{len(told)} faults" if len(told) > 1 else "1 fault"
        raise StudyError(f"{path.name} has {count}; nothing was done.\n  " + "\n  ".join(told))
    assert study is not None, "unknown settings are reported"
    return study


class _Reader(Names):
    """Reads the tables one after another, and notes what is wrong with each."""

    def __init__(self, path: Path, lines: Mapping[Place, int]) -> None:
        super().__init__(path.parent, lines)
        self._path = path

    # What a file says, table by table

    def study(self, content: Table, text: str) -> Study | None:
        self.known(content, _SECTIONS, ())
        head = self.table(content, "study", ())
        chosen = self.values(Study, head, ("study",), "name", "notes")
        name = self.text(head, "name", ("study",), required=True)
        notes = self.texts(head, "notes", ("study",))
        tunings = self._tunings(content)
        versions = self._versions(content, tunings)
        from_lab = _names_the_lab(content)
        if "families" in head and not from_lab:
            self.fault(("study", "families"), "is only for models from the lab, and this study has none; leave it out")
        if not from_lab:
            chosen["families"] = ()
        evaluations = self._evaluations(content, versions, tunings)
        lines = self._paths(content)
        doing = read_doing(self, content, versions, tunings, lines)
        adaptations = read_adaptations(self, content, versions, tunings, evaluations)
        study = Study(
            name=name or "",
            path=self._path,
            text=text,
            versions=versions,
            tunings=tunings,
            transferring=self._transferring(content),
            evaluations=evaluations,
            adaptations=adaptations,
            lines=lines,
            doing=doing,
            resources=self._resources(content),
            cost=self._cost(content),
            expected=read_expected(self, content, versions, tunings, doing),
            notes=notes,
            **chosen,
        )
        self._curves(study)
        self._goes_on(study)
        if "adapt" not in content or adaptations:  # else their faults are reported already
            self._adapts(study)
        return None if self.faults else replace(study, warnings=tuple(self._warn(study)))

    def _versions(self, content: Table, tunings: Sequence[Tuning]) -> tuple[Version, ...]:
        rows = content.get("version")
        if rows is None:
            self.fault((), "there are no versions; write a [[version]] with name and model for each")
            return ()
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.fault(("version",), "must be a list of tables; write [[version]] with two brackets for each")
            return ()
        alone = tunings[0].name if len(tunings) == 1 else "tuned"
        found: list[Version] = []
        for place, row in enumerate(rows):
            path = ("version", place)
            chosen = self.values(Version, row, path, "name", "model", "tuned")
            name = self.text(row, "name", path, required=True)
            model = self.model(row, "model", path, required=True)
            if name is not None and any(version.name == name for version in found):
                self.fault((*path, "name"), f"{name!r} is the name of two versions; give each its own")
                continue
            tuned = row.get("tuned", {})
            if isinstance(tuned, str):
                tuned = {alone: tuned}
                self.model({"tuned": tuned[alone]}, "tuned", path)
            elif isinstance(tuned, dict):
                for key in tuned:
                    self.model(tuned, key, (*path, "tuned"))
                    if not key.strip():
                        self.fault((*path, "tuned"), "a fine-tuning has an empty name; give it one")
            else:
                self.fault((*path, "tuned"), "must be a model or a table of models by name")
            if name is not None:  # where something else of it is wrong, pairs may still name it
                given = tuned if isinstance(tuned, dict) else {}
                kept = {key: value for key, value in given.items() if isinstance(value, str)}
                found.append(Version(name, model or "", kept, **chosen))
        return tuple(found)

    def _tunings(self, content: Table) -> tuple[Tuning, ...]:
        table = self.table(content, "tune", (), optional=True)
        if not table:
            return ()
        named = [name for name, value in table.items() if isinstance(value, dict)]
        if len(named) == len(table):
            tunings = [self._tuning(name, table[name], ("tune", name)) for name in named]
        else:
            for own in named:
                self.fault(
                    ("tune", own),
                    "is a named fine-tuning beside settings of [tune] itself; give each fine-tuning its own "
                    "[tune.NAME]",
                )
            table = {key: value for key, value in table.items() if key not in named}
            recipe = table.get("recipe", "sft")
            tunings = [self._tuning(recipe if isinstance(recipe, str) else "sft", table, ("tune",))]
        after = {tuning.name: tuning.after for tuning in tunings}
        for tuning in tunings:
            seen, name = [tuning.name], tuning.after
            while name is not None and name not in seen:
                seen.append(name)
                name = after.get(name)
            if name == tuning.name == min(seen):  # once, not once for each of its members
                self.fault(self._of_tuning(tuning, "from"), f"is circular: {' from '.join([*seen, name])}")
        return tuple(_ordered(tunings))

    def _of_tuning(self, tuning: Tuning, key: str) -> Place:
        """Where a key of a tuning stands: [tune] has one, or several by name."""
        return ("tune", tuning.name, key) if ("tune", tuning.name) in self.lines else ("tune", key)

    def _tuning(self, name: str, table: Table, path: Place) -> Tuning:
        recipe = self.among(table, "recipe", path, settings.RECIPES_OF_A_STUDY) or "sft"
        self.known(table, settings.tuning_keys(recipe), path)
        data = self.texts(table, "data", path, required=True)
        for spec in data:
            self.rows(spec, (*path, "data"))
        mix = self.texts(table, "mix", path)
        places = {spec: self.as_given(spec) for spec in data}
        for key, fault in settings.faults_of_sources(places, mix):
            self.fault((*path, key), fault)
        chosen, running = settings.of_tuning(recipe, table)
        for key, fault in settings.faults_of_tuning(recipe, chosen, running):
            self.fault((*path, key) if key in table else path, fault)
        template = self.text(table, "chat-template", path)
        if template is not None:
            self.template(template, (*path, "chat-template"))
        lora = self.text(table, "lora", path)
        if lora is not None:
            self.values(TuneOptions, table, path, only=("lora",))
        return Tuning(
            name=name,
            recipe=recipe,
            data=data,
            settings=chosen,
            mix=mix,
            after=self.text(table, "from", path),
            chat_template=template,
            end_token=self.text(table, "end-token", path),
            lora=lora,
            running=running,
            **self.values(Tuning, table, path, only=("eval_every",)),
        )

    def _transferring(self, content: Table) -> Table:
        table = self.table(content, "transfer", (), optional=True)
        path = ("transfer",)
        self.known(table, (*settings.TRANSFER_TEXTS, *settings.TRANSFER_LISTS), path)
        texts = {key: self.text(table, key, path) for key in settings.TRANSFER_TEXTS}
        lists = {key: self.texts(table, key, path) for key in settings.TRANSFER_LISTS}
        given = {key: value for key, value in (texts | lists).items() if value}
        chosen, faults = settings.of_transfer({key: list(v) if isinstance(v, tuple) else v for key, v in given.items()})
        for key, fault in faults:
            self.fault((*path, key), fault)
        return chosen

    def _evaluations(
        self, content: Table, versions: Sequence[Version], tunings: Sequence[Tuning]
    ) -> Mapping[str, Evaluation]:
        table = self.table(content, "evaluate", (), optional=True)
        if not table:
            return {}
        names = {*(tuning.name for tuning in tunings), *(name for version in versions for name in version.tuned)}
        own = {key: value for key, value in table.items() if isinstance(value, dict)}
        for name in own:
            if name not in names:
                self.fault(
                    ("evaluate", name),
                    f"there is no fine-tuning {name!r}{nearest(name, names)}; name an existing one, or leave it out",
                )
        found: dict[str, Evaluation] = {}
        if len(own) < len(table):
            found[""] = self._evaluation({key: table[key] for key in table if key not in own}, ("evaluate",))
        for name, values in own.items():
            found[name] = self._evaluation(values, ("evaluate", name))
        for first, second, tasks, differ in asked_in_two_ways(found):
            before = f"[evaluate.{first}]" if first else "[evaluate]"
            self.fault(
                ("evaluate", second),
                f"{', '.join(tasks)}: {before} has the same task with other settings "
                f"({', '.join(differ).replace('_', '-')}), but a base has only one score per task; use the same "
                f"settings in both, or the task in only one",
            )
        return found

    def _evaluation(self, table: Table, path: Place) -> Evaluation:
        self.known(table, ("tasks", "suite", "loss", "validation", *settings.evaluation_keys()), path)
        tasks, loss, validation = (self.texts(table, key, path) for key in ("tasks", "loss", "validation"))
        for key, specs in (("tasks", tasks), ("loss", loss), ("validation", validation)):
            for spec in specs:
                self.task(spec, (*path, key), named=key != "loss")
        suite = self.text(table, "suite", path)
        if suite is not None:
            self.attempt((*path, "suite"), lambda: find_suite(suite))
        for key, fault in settings.faults_of_evaluation(table):
            self.fault((*path, key), fault)
        chosen = {key.replace("-", "_"): table[key] for key in settings.evaluation_keys() if key in table}
        self.template_or_model(chosen.get("chat_template"), (*path, "chat-template"))
        if not tasks and not loss and suite is None:
            self.fault(path, "is empty; give tasks, loss or suite")
        evaluation = Evaluation(tasks, suite, loss, validation, chosen)
        self._questions(evaluation, path)
        return evaluation

    def _questions(self, evaluation: Evaluation, path: Place) -> None:
        """Read the files; refuse validation data that are also in the test: curves would choose the model by its test
        score.
        """
        tests = [
            *self._read(evaluation.tasks, (*path, "tasks")),
            *self._read(evaluation.loss, (*path, "loss"), loss=True),
        ]
        readable = self._read(evaluation.validation, (*path, "validation"))
        both = sorted({*evaluation.tasks, *evaluation.loss} & {*evaluation.validation})
        for spec in both:
            self.fault(
                (*path, "validation"),
                f"{spec!r} is also a test task. Selection on the test set is not allowed; use other examples",
            )
        if tests and readable and not both:
            files = self._files(evaluation.validation)
            self.attempt((*path, "validation"), lambda: need_apart(tests, files))

    def _read(self, specs: Sequence[str], place: Place, *, loss: bool = False) -> list[OwnTask]:
        """The tasks of those that are files; none where something is wrong with them, which is noted."""
        specs = list(dict.fromkeys(specs))  # duplicates are reported already
        names = [spec for spec in specs if self.data(spec) is None]
        found: list[OwnTask] = []
        self.attempt(place, lambda: found.extend(read_questions(self._files(specs), names, loss=loss)))
        return found

    def _files(self, specs: Sequence[str]) -> list[str]:
        found = (self.data(spec) for spec in specs if not spec.startswith(LAB))
        return [file for file in found if file is not None]

    def _paths(self, content: Table) -> Lines:
        table = self.table(content, "paths", (), optional=True)
        path = ("paths",)
        asking = ("max-new-tokens", "batch-size", "device", "chat-template", "match")
        own = ("points", "threshold", "refine", "loss_only", "allow_config")
        chosen = self.values(PathOptions, table, path, "text", "data", *asking, only=own)
        text, data = (self.texts(table, key, path) for key in ("text", "data"))
        for key, specs in (("text", text), ("data", data)):
            for spec in specs:
                self.task(spec, (*path, key), named=False)
            self._read([spec for spec in specs if self.data(spec) is not None], (*path, key), loss=True)
        for key, fault in settings.faults_of_evaluation({key: table[key] for key in asking if key in table}):
            self.fault((*path, key), fault)
        self.template_or_model(table.get("chat-template"), (*path, "chat-template"))
        chosen |= {key.replace("-", "_"): table[key] for key in asking if key in table}
        too_many = settings.fault_of_points(chosen.get("points"), chosen.get("refine"), BEYOND if data else None)
        if too_many is not None:
            self.fault((*path, "points" if "points" in table else "refine"), too_many)
        line = {name: chosen.pop(name) for name in ("points", "threshold") if name in chosen}
        return Lines(text, data, settings=chosen, **line)

    def _resources(self, content: Table) -> Mapping[str, Resources]:
        table = self.table(content, "resources", (), optional=True)
        self.known(table, KINDS, ("resources",))
        rows = {kind: self.table(table, kind, ("resources",)) for kind in table}
        return {kind: Resources(**self.values(Resources, row, ("resources", kind))) for kind, row in rows.items()}

    def _cost(self, content: Table) -> Table:
        table = self.table(content, "cost", (), optional=True)
        gpu = self.text(table, "gpu", ("cost",))
        return self.values(Machine, table, ("cost",), "gpu") | ({} if gpu is None else {"gpu": gpu})

    # What tables say together

    def _curves(self, study: Study) -> None:
        for tuning in study.tunings:
            evaluation = study.evaluation(tuning.name)
            if tuning.eval_every is not None and (evaluation is None or not evaluation.validation):
                self.fault(
                    self._of_tuning(tuning, "eval-every"),
                    "curves need validation data; give [evaluate] validation = […]",
                )

    def _goes_on(self, study: Study) -> None:
        """`from` needs the tuning before it, in every version that is fine-tuned."""
        for tuning in study.tunings:
            if tuning.after is None:
                continue
            place, names = self._of_tuning(tuning, "from"), study.tuning_names
            if tuning.after not in names:
                self.fault(place, f"there is no fine-tuning {tuning.after!r}{nearest(tuning.after, names)}")
            elif study.tuning(tuning.after) is None:
                for version in study.versions:
                    if not version.target_only and not {tuning.after, tuning.name} & version.tuned.keys():
                        self.fault(place, f"{version.name} has no fine-tuning {tuning.after!r} to continue from")

    def _adapts(self, study: Study) -> None:
        """What adapts needs its settings, for every fine-tuning that it carries."""
        chains = study.doing.recycle if study.doing.healing.heal else ()
        for key, pairs in (("adapt", study.doing.adapt), ("recycle", chains)):
            sources = {source for source, _ in pairs}
            carried = [version.tuned for version in study.versions if version.name in sources]
            names = dict.fromkeys([*(tuning.name for tuning in study.tunings), *(name for t in carried for name in t)])
            lacking = [name for name in names if study.adapting(name) is None] if sources else []
            if lacking and not study.adaptations:
                self.fault(("do", key), "an [adapt] section is missing; add one with prompts or examples")
            elif lacking:
                told = f"{', '.join(lacking)} has no settings; give [adapt.{lacking[0]}], or [adapt] for all"
                self.fault(("adapt",), told)

    def _warn(self, study: Study) -> Iterator[str]:
        """What is not a fault but may be a mistake."""
        if study.adaptations and not study.doing.adapt and study.doing.healing.heal is None:
            yield f'{self._path.name}: nothing is adapted by [adapt]; give [do] adapt = "all", or pairs.'
        if not study.evaluations:
            yield f"{self._path.name}: nothing is scored; give [evaluate] with tasks, suite or loss."
            if not study.tunings and not study.doing.anything:
                yield f'{self._path.name}: there is nothing to do; give [do], such as transfer = "all", or [tune].'
        further = study.doing.transfer_then_tune or study.doing.recycle
        for tuning in study.tunings:
            if further and study.doing.same_total and not settings.counts_steps(tuning.recipe, tuning.settings):
                line = self.line(self._of_tuning(tuning, "epochs"))
                yield (
                    f"{self._path.name}:{line}: {tuning.name} is trained for epochs, so the same total of steps is "
                    f"unknown beforehand; give steps, or same-total = false."
                )
        yield from self._loose_revisions(study)

    def _loose_revisions(self, study: Study) -> Iterator[str]:
        repositories: dict[str, list[Version]] = {}
        for version in study.versions:
            found = HUB_ID.fullmatch(version.model)
            if found and not version.model.startswith(LAB) and self.folder(version.model) is None:
                repositories.setdefault(found["repo"], []).append(version)
        for repository, sharing in repositories.items():
            loose = [version.name for version in sharing if "@" not in version.model]
            if loose and len(sharing) > 1:
                yield (
                    f"{self._path.name}:{self.line(('version',))}: {', '.join(loose)} of {repository} name no "
                    f"revision, but other versions have the same id; write org/name@revision for each."
                )


def _names_the_lab(value: object) -> bool:
    """Whether anything in the file is the lab's."""
    if isinstance(value, dict):
        return any(map(_names_the_lab, value.values()))
    if isinstance(value, list):
        return any(map(_names_the_lab, value))
    return isinstance(value, str) and value.startswith(LAB)


def _ordered(tunings: Sequence[Tuning]) -> list[Tuning]:
    """Each after the one it continues from; a circle (a reported fault) keeps its order."""
    found: list[Tuning] = []
    waiting = list(tunings)
    while waiting:
        ready = [t for t in waiting if t.after is None or t.after not in {other.name for other in waiting}]
        found += ready or waiting
        waiting = [tuning for tuning in waiting if tuning not in found]
    return found
