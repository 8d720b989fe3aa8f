"""A study's file, read and checked as a whole.

In comes the path of a TOML file, out comes a `Study`. The promise: every fault is told at once, with its line and with what to
do, and no file makes anything else happen than a `Study` or a `StudyError`. docs/formats.md describes the file.
"""

from __future__ import annotations

import itertools
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuneport.checkpoint.open import HUB_ID
from tuneport.errors import StudyError, TuneportError
from tuneport.lab import catalogue
from tuneport.study import settings
from tuneport.study.declared import Doing, Evaluation, Lines, Pair, Resources, Study, Tuning, Version
from tuneport.study.expected import read_expected
from tuneport.study.inputs import LAB, file_beside, folder_beside
from tuneport.study.lines import Path as Place
from tuneport.study.lines import lines_of
from tuneport.study.tables import Table, Tables, nearest, said
from tuneport.tune.data import HUB

KINDS = ("family", "tune", "transfer", "evaluate", "path", "distance", "precision")
MOST_BYTES = 4 * 2**20
_ROWS = (".jsonl", ".json", ".ndjson", ".parquet")
_SECTIONS = (
    "study", "version", "tune", "transfer", "evaluate", "paths", "do", "resources", "cost", "expected",
)  # fmt: skip


def read_study(path: str | os.PathLike[str]) -> Study:
    """The study that a file declares. Raises `StudyError` with every fault of it, each with its line."""
    place = Path(os.path.expanduser(path))
    try:
        if place.stat().st_size > MOST_BYTES:
            raise StudyError(f"{path} has more than {MOST_BYTES // 2**20} MiB; a study's file is some pages of TOML.")
        text = place.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None)
        raise StudyError(f"{path} cannot be read: {reason or error}. Give the TOML file of a study.") from None
    return study_of(text, place)


def study_of(text: str, path: Path) -> Study:
    """The study that a text declares, as if it stood in the file `path`."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what = "values are nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise StudyError(f"{path.name} is no TOML: {what}.") from None
    reader = _Reader(path, lines_of(text))
    study = reader.study(content, text)
    if reader.faults:
        told = [f"{path.name}:{line}: {what}" for line, what in sorted(dict.fromkeys(reader.faults))]
        count = f"{len(told)} faults" if len(told) > 1 else "1 fault"
        raise StudyError(f"{path.name} has {count}; nothing was done.\n  " + "\n  ".join(told))
    assert study is not None, "what is not read is a fault"
    return study


class _Reader(Tables):
    """Reads the tables one after another, and notes what is wrong with each."""

    def __init__(self, path: Path, lines: Mapping[Place, int]) -> None:
        super().__init__(lines)
        self._path = path
        self._warnings: list[str] = []

    # What a file says, table by table

    def study(self, content: Table, text: str) -> Study | None:
        self.known(content, _SECTIONS, ())
        head = self.table(content, "study", ())
        self.known(head, ("name", "seeds", "families", "lab", "keep", "notes"), ("study",))
        name = self.text(head, "name", ("study",), required=True)
        seeds = self.seeds(head, "seeds", (0,))
        families = self.seeds(head, "families", (0,))
        lab = self.among(head, "lab", ("study",), ("small", "large")) or "small"
        keep = self.among(head, "keep", ("study",), ("all", "scored")) or "all"
        notes = self.texts(head, "notes", ("study",))
        tunings = self._tunings(content)
        versions = self._versions(content, tunings)
        from_lab = any(version.model.startswith(LAB) for version in versions)
        if "families" in head and not from_lab:
            self.fault(("study", "families"), "no version comes from the lab, which makes families; leave it out")
        evaluations = self._evaluations(content, versions, tunings)
        lines = self._paths(content)
        doing = self._doing(content, versions, tunings, lines)
        study = Study(
            name=name or "",
            path=self._path,
            text=text,
            versions=versions,
            seeds=seeds,
            families=families if from_lab else (None,),
            lab=lab,
            keep=keep,
            tunings=tunings,
            transferring=self._transferring(content),
            evaluations=evaluations,
            lines=lines,
            doing=doing,
            resources=self._resources(content),
            cost=self._cost(content),
            expected=read_expected(self, content, versions, tunings, doing),
            notes=notes,
            warnings=(),
        )
        self._curves(study)
        self._sizes(study)
        self._warn_of_revisions(study)
        return None if self.faults else _with_warnings(study, self._warnings)

    def _versions(self, content: Table, tunings: Sequence[Tuning]) -> tuple[Version, ...]:
        rows = content.get("version")
        if rows is None:
            self.fault((), "there is no version; write a [[version]] with name and model for each")
            return ()
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.fault(("version",), "versions are a list of tables; write [[version]] with two brackets for each")
            return ()
        alone = tunings[0].name if len(tunings) == 1 else "tuned"
        found: list[Version] = []
        for place, row in enumerate(rows):
            path = ("version", place)
            self.known(row, ("name", "model", "parameters", "tuned", "target-only"), path)
            name = self.text(row, "name", path, required=True)
            model = self._model(row, "model", path, required=True)
            if name is not None and any(version.name == name for version in found):
                self.fault((*path, "name"), f"{name!r} is the name of another version too; give each its own")
                continue
            tuned = row.get("tuned", {})
            if isinstance(tuned, str):
                tuned = {alone: tuned}
                self._model({"tuned": tuned[alone]}, "tuned", path)
            elif isinstance(tuned, dict):
                for key in tuned:
                    self._model(tuned, key, (*path, "tuned"))
                    if not key.strip():
                        self.fault((*path, "tuned"), "a fine-tuning has an empty name; give it one")
            else:
                self.fault((*path, "tuned"), "is neither a model nor a table of models by name; write one")
            parameters = self.number(row, "parameters", path, above=0)
            target_only = self.flag(row, "target-only", path)
            if isinstance(tuned, dict) and name is not None and model is not None:
                kept = {key: value for key, value in tuned.items() if isinstance(value, str)}
                found.append(Version(name, model, kept, bool(target_only), parameters))
        return tuple(found)

    def _tunings(self, content: Table) -> tuple[Tuning, ...]:
        table = self.table(content, "tune", (), optional=True)
        if not table:
            return ()
        if all(isinstance(value, dict) for value in table.values()):
            found = [self._tuning(name, table[name], ("tune", name), tuple(table)) for name in table]
        else:
            recipe = table.get("recipe", "sft")
            found = [self._tuning(recipe if isinstance(recipe, str) else "sft", table, ("tune",), ())]
        tunings = tuple(tuning for tuning in found if tuning is not None)
        after = {tuning.name: tuning.after for tuning in tunings}
        for tuning in tunings:
            seen, name = [tuning.name], tuning.after
            while name is not None and name not in seen:
                seen.append(name)
                name = after.get(name)
            if name == tuning.name:
                self.fault(("tune", tuning.name, "from"), f"runs in a circle: {' from '.join([*seen, name])}")
        return tuple(_ordered(tunings))

    def _tuning(self, name: str, table: Table, path: Place, others: Sequence[str]) -> Tuning | None:
        recipe = self.among(table, "recipe", path, settings.recipe_names()) or "sft"
        self.known(table, (*settings.tuning_keys(recipe), *(("from",) if others else ())), path)
        data = self.texts(table, "data", path, required=True)
        for spec in data:
            self._rows(spec, (*path, "data"))
        for spec in self.texts(table, "mix", path):
            self._try((*path, "mix"), lambda spec=spec: settings.check_mix(spec))
        after = self.text(table, "from", path)
        if after is not None and after not in others:
            self.fault((*path, "from"), f"there is no [tune.{after}]{nearest(after, others)}")
            after = None
        chosen, running = settings.of_tuning(recipe, table)
        for key, fault in settings.faults_of_tuning(recipe, table, chosen, running):
            self.fault((*path, key) if key in table else path, fault)
        template = self.text(table, "chat-template", path)
        if template is not None:
            self._template(template, (*path, "chat-template"))
        lora = self.text(table, "lora", path)
        if lora is not None:
            self._try((*path, "lora"), lambda: settings.check_lora(lora))
        return Tuning(
            name=name,
            recipe=recipe,
            data=data,
            settings=chosen,
            mix=self.texts(table, "mix", path),
            after=after,
            chat_template=template,
            end_token=self.text(table, "end-token", path),
            lora=lora,
            eval_every=self.whole(table, "eval-every", path, least=1),
            running=running,
        )

    def _transferring(self, content: Table) -> Table:
        table = self.table(content, "transfer", (), optional=True)
        self.known(table, settings.TRANSFER_KEYS, ("transfer",))
        chosen: list[dict[str, Any]] = []
        self._try(("transfer",), lambda: chosen.append(settings.of_transfer(table)))
        return chosen[0] if chosen else {}

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
                    f"there is no fine-tuning {name!r}{nearest(name, names)}; name one, or leave it out",
                )
        found: dict[str, Evaluation] = {}
        if len(own) < len(table):
            found[""] = self._evaluation({key: table[key] for key in table if key not in own}, ("evaluate",))
        for name, values in own.items():
            found[name] = self._evaluation(values, ("evaluate", name))
        return found

    def _evaluation(self, table: Table, path: Place) -> Evaluation:
        self.known(table, ("tasks", "suite", "loss", "validation", *settings.evaluation_keys()), path)
        tasks, loss, validation = (self.texts(table, key, path) for key in ("tasks", "loss", "validation"))
        for key, specs in (("tasks", tasks), ("loss", loss), ("validation", validation)):
            for spec in specs:
                self._task(spec, (*path, key), named=key != "loss")
        suite = self.text(table, "suite", path)
        if suite is not None:
            self._try((*path, "suite"), lambda: settings.check_suite(suite))
        chosen = {}
        for key in settings.evaluation_keys():
            if key in table:
                fault = settings.fault_of_evaluation(key, table[key])
                if fault is not None:
                    self.fault((*path, key), fault)
                chosen[key.replace("-", "_")] = table[key]
        template = chosen.get("chat_template")
        if isinstance(template, str) and template.startswith((LAB, ".", "/")):
            self._template(template, (*path, "chat-template"))
        if not tasks and not loss and suite is None:
            self.fault(path, "asks nothing; give tasks, loss or suite")
        evaluation = Evaluation(tasks, suite, loss, validation, chosen)
        self._not_selected_on_the_test(evaluation, path)
        return evaluation

    def _not_selected_on_the_test(self, evaluation: Evaluation, path: Place) -> None:
        """Refuse validation data that stand in the test: curves would then choose the model by its test score."""
        both = sorted({*evaluation.tasks, *evaluation.loss} & {*evaluation.validation})
        for spec in both:
            self.fault(
                (*path, "validation"),
                f"{spec!r} is a test task too: selection on the test set is refused; give other examples",
            )
        if both or self.faults:
            return
        tests = [file for spec in (*evaluation.tasks, *evaluation.loss) if (file := self._file(spec)) is not None]
        chosen = [file for spec in evaluation.validation if (file := self._file(spec)) is not None]
        if tests and chosen:
            self._try((*path, "validation"), lambda: settings.check_apart(list(dict.fromkeys(tests)), chosen))

    def _paths(self, content: Table) -> Lines:
        table = self.table(content, "paths", (), optional=True)
        path = ("paths",)
        extra = ("max-new-tokens", "batch-size", "refine", "device", "chat-template", "match", "loss-only")
        self.known(table, ("text", "data", "points", "threshold", *extra), path)
        text, data = (self.texts(table, key, path) for key in ("text", "data"))
        for key, specs in (("text", text), ("data", data)):
            for spec in specs:
                self._task(spec, (*path, key), named=False)
        chosen: dict[str, Any] = {}
        for key in ("max-new-tokens", "batch-size", "refine"):
            value = self.whole(table, key, path, least=0 if key == "refine" else 1)
            if value is not None:
                chosen[key.replace("-", "_")] = value
        loss_only = self.flag(table, "loss-only", path)
        if loss_only is not None:
            chosen["loss_only"] = loss_only
        for key in ("device", "chat-template", "match"):
            value_text = self.text(table, key, path)
            if value_text is not None:
                chosen[key.replace("-", "_")] = value_text
        points = self.whole(table, "points", path, least=3)
        threshold = self.number(table, "threshold", path, least=0)
        default = Lines()
        return Lines(
            text,
            data,
            default.points if points is None else points,
            default.threshold if threshold is None else threshold,
            chosen,
        )

    def _doing(self, content: Table, versions: Sequence[Version], tunings: Sequence[Tuning], lines: Lines) -> Doing:
        table = self.table(content, "do", (), optional=True)
        path = ("do",)
        keys = ("transfer", "transfer-then-tune", "recycle", "paths", "distances")
        self.known(table, (*keys, "scales", "same-total", "reduced-rate", "carry"), path)
        pairs = {key: self._pairs(table, key, versions, tunings) for key in keys}
        self._check_doing(pairs, versions, tunings)
        if "paths" in table and not lines.text and not lines.data:
            self.fault(
                (*path, "paths"),
                "on which data is not said; give [paths] with text (bases), data (tuned models), or both",
            )
        scales = self.numbers(table, "scales", path) or (1.0,)
        rate = self.number(table, "reduced-rate", path, above=0)
        if rate is not None and rate >= 1:
            self.fault((*path, "reduced-rate"), f"{rate:g} is no reduction; give a part of the rate, below 1")
        carry = self.among(table, "carry", path, ("float32", "bfloat16")) or "float32"
        same_total = self.flag(table, "same-total", path)
        return Doing(
            transfer=pairs["transfer"],
            transfer_then_tune=pairs["transfer-then-tune"],
            recycle=pairs["recycle"],
            paths=pairs["paths"],
            distances=pairs["distances"],
            scales=scales,
            same_total=True if same_total is None else same_total,
            reduced_rate=rate,
            carry=carry,
        )

    def _check_doing(
        self, pairs: Mapping[str, tuple[Pair, ...]], versions: Sequence[Version], tunings: Sequence[Tuning]
    ) -> None:
        by_name = {version.name: version for version in versions}
        trained = {tuning.name for tuning in tunings}
        for key in ("transfer", "transfer-then-tune", "recycle", "paths"):
            place = ("do", key)
            for source, target in pairs[key]:
                one, other = by_name[source], by_name[target]
                if key != "paths" and one.target_only:
                    self.fault(place, f"{source} is a target only, and stands as a source in [{source}, {target}]")
                elif key != "paths" and not one.tuned and not trained:
                    self.fault(place, f"{source} has no fine-tuned model; give it `tuned`, or a [tune] that makes one")
                if key in ("transfer-then-tune", "recycle"):
                    if not trained:
                        self.fault(place, "how to fine-tune is not said; give a [tune]")
                    if other.target_only:
                        self.fault(
                            place,
                            f"{target} is never fine-tuned (target-only), as [{source}, {target}] asks; drop one of the two",
                        )
        begun, reached = {source for source, _ in pairs["recycle"]}, {target for _, target in pairs["recycle"]}
        for before, after in itertools.pairwise(pairs["recycle"]):
            if before[1] != after[0] and (after[0] in reached or after[1] in begun):
                self.fault(
                    ("do", "recycle"),
                    f"[{', '.join(after)}] does not go on from [{', '.join(before)}]; order the pairs as a chain",
                )
        targets = [target for _, target in pairs["recycle"]]
        for twice in sorted({target for target in targets if targets.count(target) > 1}):
            self.fault(("do", "recycle"), f"{twice} is reached twice; in a chain each version has one before it")

    def _pairs(
        self, table: Table, key: str, versions: Sequence[Version], tunings: Sequence[Tuning]
    ) -> tuple[Pair, ...]:
        value = table.get(key)
        if value is None:
            return ()
        names = [version.name for version in versions]
        sources = [v.name for v in versions if not v.target_only and (v.tuned or tunings)]
        if value == "all":
            if key == "recycle":
                line = [version.name for version in versions if not version.target_only]
                return tuple(itertools.pairwise(line))
            if key == "distances":
                return tuple((one, other) for place, one in enumerate(names) for other in names[place + 1 :])
            untuned = {v.name for v in versions if v.target_only} if key == "transfer-then-tune" else set()
            return tuple((one, other) for one in sources for other in names if one != other and other not in untuned)
        wanted = '"all", or pairs such as [["M1", "M2"], ["M2", "M3"]], each [source, target]'
        if not isinstance(value, list):
            self.fault(("do", key), f"is {said(value)}; write {wanted}")
            return ()
        found: list[Pair] = []
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
                self.fault(("do", key), f"{said(pair)} is no pair; write {wanted}")
                continue
            unknown = [name for name in pair if name not in names]
            for name in unknown:
                self.fault(("do", key), f"there is no version {name!r}{nearest(name, names)}")
            if pair[0] == pair[1]:
                self.fault(("do", key), f"[{pair[0]}, {pair[1]}] is one version twice; name two")
            elif tuple(pair) in found:
                self.fault(("do", key), f"[{pair[0]}, {pair[1]}] stands there twice; leave one out")
            elif not unknown:
                found.append((pair[0], pair[1]))
        return tuple(found)

    def _resources(self, content: Table) -> Mapping[str, Resources]:
        table = self.table(content, "resources", (), optional=True)
        self.known(table, KINDS, ("resources",))
        found = {}
        for kind in table:
            row = self.table(table, kind, ("resources",))
            self.known(row, ("cpus", "gpus"), ("resources", kind))
            cpus = self.number(row, "cpus", ("resources", kind), least=0)
            gpus = self.number(row, "gpus", ("resources", kind), least=0)
            found[kind] = Resources(1 if cpus is None else cpus, gpus or 0)
        return found

    def _cost(self, content: Table) -> Table:
        table = self.table(content, "cost", (), optional=True)
        numbers = (
            "flops",
            "utilisation",
            "gpus",
            "tokens-per-example",
            "questions",
            "tokens-per-question",
            "tokens-per-path",
        )
        self.known(table, ("gpu", *numbers), ("cost",))
        found: dict[str, Any] = {}
        gpu = self.text(table, "gpu", ("cost",))
        if gpu is not None:
            found["gpu"] = gpu
        for key in numbers:
            value = self.number(table, key, ("cost",), above=0)
            if value is not None:
                found[key.replace("-", "_")] = value
        if found.get("utilisation", 0) > 1:
            self.fault(("cost", "utilisation"), "is a part of the peak, from 0 to 1")
        return found

    # What tables say together

    def _curves(self, study: Study) -> None:
        for tuning in study.tunings:
            if tuning.eval_every is None:
                continue
            path = (
                ("tune", tuning.name, "eval-every") if ("tune", tuning.name) in self.lines else ("tune", "eval-every")
            )
            evaluation = study.evaluation(tuning.name)
            if evaluation is None or not evaluation.validation:
                self.fault(
                    path, "curves are read on validation data, which nobody names; give [evaluate] validation = […]"
                )

    def _sizes(self, study: Study) -> None:
        """`from` needs the tuning before it, in every version that is fine-tuned."""
        for version in study.versions:
            for tuning in study.tunings:
                if version.target_only or tuning.name in version.tuned or tuning.after is None:
                    continue
                before = study.tuning(tuning.after)
                if before is None and tuning.after not in version.tuned:
                    self.fault(("tune", tuning.name, "from"), f"{version.name} has no fine-tuning {tuning.after!r}")

    def _warn_of_revisions(self, study: Study) -> None:
        repositories: dict[str, list[Version]] = {}
        for version in study.versions:
            found = HUB_ID.fullmatch(version.model)
            if found and not version.model.startswith(LAB) and self._folder(version.model) is None:
                repositories.setdefault(found["repo"], []).append(version)
        for repository, sharing in repositories.items():
            loose = [version.name for version in sharing if "@" not in version.model]
            if loose and len(sharing) > 1:
                line = self.line(("version",))
                self._warnings.append(
                    f"{self._path.name}:{line}: {', '.join(loose)} of {repository} name no revision, and other versions share "
                    "the id; write org/name@revision for each."
                )

    # What a value is

    def _model(self, table: Table, key: str, path: Place, required: bool = False) -> str | None:
        spec = self.text(table, key, path, required=required)
        if spec is None:
            return None
        place = (*path, key)
        if spec.startswith(LAB):
            self._try(place, lambda: catalogue.find(spec))
        elif self._folder(spec) is None and (spec.startswith((".", "/", "~")) or HUB_ID.fullmatch(spec) is None):
            self.fault(place, f"{spec!r}: no such folder beside the file, and no Hub id either (org/name@revision)")
        return spec

    def _rows(self, spec: str, place: Place) -> None:
        """Training data: the lab's, a file, or a data set."""
        if spec.startswith(LAB):
            self._try(place, lambda: catalogue.find(spec))
        elif self._file(spec) is None and (spec.endswith(_ROWS) or HUB.fullmatch(spec) is None):
            self.fault(
                place,
                f"{spec!r}: no such file beside the study's, and no data set either (org/name[@REVISION][:SPLIT][?…])",
            )

    def _task(self, spec: str, place: Place, named: bool) -> None:
        """Questions: the lab's, a file, or (where `named`) a task of the harness by name."""
        if spec.startswith(LAB):
            self._try(place, lambda: catalogue.find(spec))
        elif self._file(spec) is None and (not named or spec.endswith(_ROWS) or "/" in spec):
            self.fault(
                place,
                f"{spec!r}: no such file beside the study's; give a .jsonl file{' or the name of a task' if named else ''}",
            )

    def _template(self, spec: str, place: Place) -> None:
        if spec.startswith(LAB):
            self._try(place, lambda: catalogue.find(spec))
        elif self._file(spec) is None and spec not in settings.template_names():
            self.fault(
                place, f"{spec!r}: no such file beside the study's, and none of {', '.join(settings.template_names())}"
            )

    def _folder(self, spec: str) -> Path | None:
        return folder_beside(self._path.parent, spec)

    def _file(self, spec: str) -> Path | None:
        return file_beside(self._path.parent, spec)

    def _try(self, place: Place, check: Any) -> None:
        """Note what a check of the package's own says, without the dashes of the command line."""
        try:
            check()
        except TuneportError as error:
            self.fault(place, settings.in_file_words(str(error)))


def _with_warnings(study: Study, warnings: Sequence[str]) -> Study:
    return replace(study, warnings=tuple(warnings))


def _ordered(tunings: Sequence[Tuning]) -> list[Tuning]:
    """Each after the one it goes on from; in a circle (a fault that is told) as they stand."""
    found: list[Tuning] = []
    waiting = list(tunings)
    while waiting:
        ready = [t for t in waiting if t.after is None or t.after not in {other.name for other in waiting}]
        found += ready or waiting
        waiting = [tuning for tuning in waiting if tuning not in found]
    return found
