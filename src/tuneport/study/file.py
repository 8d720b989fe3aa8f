"""A study's file, read and checked as a whole.

In comes the path of a TOML file, out comes a `Study`. The promise: every fault is told at once, with its line and with what to
do, and no file makes anything else happen than a `Study` or a `StudyError`. docs/formats.md describes the file.
"""

from __future__ import annotations

import datetime
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tuneport.checkpoint.open import HUB_ID
from tuneport.errors import StudyError, TuneportError, UsageError
from tuneport.study import settings
from tuneport.study.declared import Doing, Evaluation, Expected, Lines, Pair, Resources, Study, Tuning, Version
from tuneport.study.families import find_lab
from tuneport.study.inputs import LAB
from tuneport.study.lines import lines_of

KINDS = ("family", "tune", "transfer", "evaluate", "path", "distance", "precision")
RESULTS = ("base", "tuned", "transfer", "transfer-then-tune", "recycle-iterative", "recycle-direct")
MOST_BYTES = 4 * 2**20
_ROWS = (".jsonl", ".json", ".ndjson", ".parquet")
_DATA_SET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.+/-]+)?(:[\w.+-]+)?")
_SECTIONS = (
    "study", "version", "tune", "transfer", "evaluate", "paths", "do", "resources", "cost", "expected",
)  # fmt: skip
_MOST_SEED = 2**32 - 1


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


class _Reader:
    """Reads the tables one after another, and notes what is wrong with each."""

    def __init__(self, path: Path, lines: Mapping[tuple[str | int, ...], int]) -> None:
        self._path, self._lines = path, lines
        self.faults: list[tuple[int, str]] = []
        self._warnings: list[str] = []

    # What a file says, table by table

    def study(self, content: Mapping[str, Any], text: str) -> Study | None:
        self._known(content, _SECTIONS, ())
        head = self._table(content, "study", ())
        self._known(head, ("name", "seeds", "families", "lab", "keep", "notes"), ("study",))
        name = self._text(head, "name", ("study",), required=True)
        seeds = self._seeds(head, "seeds", (0,))
        families = self._seeds(head, "families", (0,))
        lab = self._among(head, "lab", ("study",), ("small", "large")) or "small"
        keep = self._among(head, "keep", ("study",), ("all", "scored")) or "all"
        notes = self._texts(head, "notes", ("study",))
        tunings = self._tunings(content)
        versions = self._versions(content, tunings)
        from_lab = any(version.model.startswith(LAB) for version in versions)
        if "families" in head and not from_lab:
            self._fault(("study", "families"), "no version comes from the lab, which makes families; leave it out")
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
            expected=self._expected(content, versions, tunings, doing),
            notes=notes,
            warnings=(),
        )
        self._curves(study)
        self._sizes(study)
        self._warn_of_revisions(study)
        return None if self.faults else _with_warnings(study, self._warnings)

    def _versions(self, content: Mapping[str, Any], tunings: Sequence[Tuning]) -> tuple[Version, ...]:
        rows = content.get("version")
        if rows is None:
            self._fault((), "there is no version; write a [[version]] with name and model for each")
            return ()
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self._fault(("version",), "versions are a list of tables; write [[version]] with two brackets for each")
            return ()
        alone = tunings[0].name if len(tunings) == 1 else "tuned"
        found: list[Version] = []
        for place, row in enumerate(rows):
            path = ("version", place)
            self._known(row, ("name", "model", "parameters", "tuned", "target-only"), path)
            name = self._text(row, "name", path, required=True)
            model = self._model(row, "model", path, required=True)
            if name is not None and any(version.name == name for version in found):
                self._fault((*path, "name"), f"{name!r} is the name of another version too; give each its own")
                continue
            tuned = row.get("tuned", {})
            if isinstance(tuned, str):
                tuned = {alone: tuned}
                self._model({"tuned": tuned[alone]}, "tuned", path)
            elif isinstance(tuned, dict):
                for key in tuned:
                    self._model(tuned, key, (*path, "tuned"))
                    if not key.strip():
                        self._fault((*path, "tuned"), "a fine-tuning has an empty name; give it one")
            else:
                self._fault((*path, "tuned"), "is neither a model nor a table of models by name; write one")
            parameters = self._number(row, "parameters", path, above=0)
            target_only = self._flag(row, "target-only", path)
            if isinstance(tuned, dict) and name is not None and model is not None:
                kept = {key: value for key, value in tuned.items() if isinstance(value, str)}
                found.append(Version(name, model, kept, bool(target_only), parameters))
        return tuple(found)

    def _tunings(self, content: Mapping[str, Any]) -> tuple[Tuning, ...]:
        table = self._table(content, "tune", (), optional=True)
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
                self._fault(("tune", tuning.name, "from"), f"runs in a circle: {' from '.join([*seen, name])}")
        return tuple(_ordered(tunings))

    def _tuning(
        self, name: str, table: Mapping[str, Any], path: tuple[str | int, ...], others: Sequence[str]
    ) -> Tuning | None:
        recipe = self._among(table, "recipe", path, settings.recipe_names()) or "sft"
        self._known(table, (*settings.tuning_keys(recipe), *(("from",) if others else ())), path)
        data = self._texts(table, "data", path, required=True)
        for spec in data:
            self._rows(spec, (*path, "data"))
        for spec in self._texts(table, "mix", path):
            self._try((*path, "mix"), lambda spec=spec: settings.check_mix(spec))
        after = self._text(table, "from", path)
        if after is not None and after not in others:
            self._fault((*path, "from"), f"there is no [tune.{after}]{_nearest(after, others)}")
            after = None
        chosen, running = settings.of_tuning(recipe, table)
        for key, fault in settings.faults_of_tuning(recipe, table, chosen, running):
            self._fault((*path, key) if key in table else path, fault)
        template = self._text(table, "chat-template", path)
        if template is not None:
            self._template(template, (*path, "chat-template"))
        lora = self._text(table, "lora", path)
        if lora is not None:
            self._try((*path, "lora"), lambda: settings.check_lora(lora))
        return Tuning(
            name=name,
            recipe=recipe,
            data=data,
            settings=chosen,
            mix=self._texts(table, "mix", path),
            after=after,
            chat_template=template,
            end_token=self._text(table, "end-token", path),
            lora=lora,
            eval_every=self._whole(table, "eval-every", path, least=1),
            running=running,
        )

    def _transferring(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        table = self._table(content, "transfer", (), optional=True)
        self._known(table, settings.TRANSFER_KEYS, ("transfer",))
        chosen: list[dict[str, Any]] = []
        self._try(("transfer",), lambda: chosen.append(settings.of_transfer(table)))
        return chosen[0] if chosen else {}

    def _evaluations(
        self, content: Mapping[str, Any], versions: Sequence[Version], tunings: Sequence[Tuning]
    ) -> Mapping[str, Evaluation]:
        table = self._table(content, "evaluate", (), optional=True)
        if not table:
            return {}
        names = {*(tuning.name for tuning in tunings), *(name for version in versions for name in version.tuned)}
        own = {key: value for key, value in table.items() if isinstance(value, dict)}
        for name in own:
            if name not in names:
                self._fault(
                    ("evaluate", name),
                    f"there is no fine-tuning {name!r}{_nearest(name, names)}; name one, or leave it out",
                )
        found: dict[str, Evaluation] = {}
        if len(own) < len(table):
            found[""] = self._evaluation({key: table[key] for key in table if key not in own}, ("evaluate",))
        for name, values in own.items():
            found[name] = self._evaluation(values, ("evaluate", name))
        return found

    def _evaluation(self, table: Mapping[str, Any], path: tuple[str | int, ...]) -> Evaluation:
        self._known(table, ("tasks", "suite", "loss", "validation", *settings.evaluation_keys()), path)
        tasks, loss, validation = (self._texts(table, key, path) for key in ("tasks", "loss", "validation"))
        for key, specs in (("tasks", tasks), ("loss", loss), ("validation", validation)):
            for spec in specs:
                self._task(spec, (*path, key), named=key != "loss")
        suite = self._text(table, "suite", path)
        if suite is not None:
            self._try((*path, "suite"), lambda: settings.check_suite(suite))
        chosen = {}
        for key in settings.evaluation_keys():
            if key in table:
                fault = settings.fault_of_evaluation(key, table[key])
                if fault is not None:
                    self._fault((*path, key), fault)
                chosen[key.replace("-", "_")] = table[key]
        template = chosen.get("chat_template")
        if isinstance(template, str) and template.startswith((LAB, ".", "/")):
            self._template(template, (*path, "chat-template"))
        if not tasks and not loss and suite is None:
            self._fault(path, "asks nothing; give tasks, loss or suite")
        evaluation = Evaluation(tasks, suite, loss, validation, chosen)
        self._not_selected_on_the_test(evaluation, path)
        return evaluation

    def _not_selected_on_the_test(self, evaluation: Evaluation, path: tuple[str | int, ...]) -> None:
        """Refuse validation data that stand in the test: curves would then choose the model by its test score."""
        both = sorted({*evaluation.tasks, *evaluation.loss} & {*evaluation.validation})
        for spec in both:
            self._fault(
                (*path, "validation"),
                f"{spec!r} is a test task too: selection on the test set is refused; give other examples",
            )
        if both or self.faults:
            return
        tests = [self._beside(spec) for spec in (*evaluation.tasks, *evaluation.loss) if not spec.startswith(LAB)]
        chosen = [self._beside(spec) for spec in evaluation.validation if not spec.startswith(LAB)]
        test_files = list(dict.fromkeys(test for test in tests if os.path.isfile(test)))
        files = list(dict.fromkeys(file for file in chosen if os.path.isfile(file)))
        if test_files and files:
            self._try((*path, "validation"), lambda: settings.check_apart(test_files, files))

    def _paths(self, content: Mapping[str, Any]) -> Lines:
        table = self._table(content, "paths", (), optional=True)
        path = ("paths",)
        extra = ("max-new-tokens", "batch-size", "refine", "device", "chat-template", "match", "loss-only")
        self._known(table, ("text", "data", "points", "threshold", *extra), path)
        text, data = (self._texts(table, key, path) for key in ("text", "data"))
        for key, specs in (("text", text), ("data", data)):
            for spec in specs:
                self._task(spec, (*path, key), named=False)
        chosen: dict[str, Any] = {}
        for key in ("max-new-tokens", "batch-size", "refine"):
            value = self._whole(table, key, path, least=0 if key == "refine" else 1)
            if value is not None:
                chosen[key.replace("-", "_")] = value
        loss_only = self._flag(table, "loss-only", path)
        if loss_only is not None:
            chosen["loss_only"] = loss_only
        for key in ("device", "chat-template", "match"):
            value_text = self._text(table, key, path)
            if value_text is not None:
                chosen[key.replace("-", "_")] = value_text
        points = self._whole(table, "points", path, least=3)
        threshold = self._number(table, "threshold", path, least=0)
        default = Lines()
        return Lines(
            text,
            data,
            default.points if points is None else points,
            default.threshold if threshold is None else threshold,
            chosen,
        )

    def _doing(
        self, content: Mapping[str, Any], versions: Sequence[Version], tunings: Sequence[Tuning], lines: Lines
    ) -> Doing:
        table = self._table(content, "do", (), optional=True)
        path = ("do",)
        keys = ("transfer", "transfer-then-tune", "recycle", "paths", "distances")
        self._known(table, (*keys, "scales", "same-total", "reduced-rate", "carry"), path)
        pairs = {key: self._pairs(table, key, versions, tunings) for key in keys}
        self._check_doing(pairs, versions, tunings)
        if "paths" in table and not lines.text and not lines.data:
            self._fault(
                (*path, "paths"),
                "on which data is not said; give [paths] with text (bases), data (tuned models), or both",
            )
        scales = self._numbers(table, "scales", path) or (1.0,)
        rate = self._number(table, "reduced-rate", path, above=0)
        if rate is not None and rate >= 1:
            self._fault((*path, "reduced-rate"), f"{rate:g} is no reduction; give a part of the rate, below 1")
        carry = self._among(table, "carry", path, ("float32", "bfloat16")) or "float32"
        same_total = self._flag(table, "same-total", path)
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
                    self._fault(place, f"{source} is a target only, and stands as a source in [{source}, {target}]")
                elif key != "paths" and not one.tuned and not trained:
                    self._fault(place, f"{source} has no fine-tuned model; give it `tuned`, or a [tune] that makes one")
                if key in ("transfer-then-tune", "recycle"):
                    if not trained:
                        self._fault(place, "how to fine-tune is not said; give a [tune]")
                    if other.target_only:
                        self._fault(
                            place,
                            f"{target} is never fine-tuned (target-only), as [{source}, {target}] asks; drop one of the two",
                        )
        for before, after in zip(pairs["recycle"], pairs["recycle"][1:], strict=False):
            if before[1] != after[0] and after[0] in {name for pair in pairs["recycle"] for name in pair[1:]}:
                self._fault(
                    ("do", "recycle"),
                    f"[{', '.join(after)}] does not go on from [{', '.join(before)}]; order the pairs as a chain",
                )
        targets = [target for _, target in pairs["recycle"]]
        for twice in sorted({target for target in targets if targets.count(target) > 1}):
            self._fault(("do", "recycle"), f"{twice} is reached twice; in a chain each version has one before it")

    def _pairs(
        self, table: Mapping[str, Any], key: str, versions: Sequence[Version], tunings: Sequence[Tuning]
    ) -> tuple[Pair, ...]:
        value = table.get(key)
        if value is None:
            return ()
        names = [version.name for version in versions]
        sources = [v.name for v in versions if not v.target_only and (v.tuned or tunings)]
        if value == "all":
            if key == "recycle":
                line = [version.name for version in versions if not version.target_only]
                return tuple(zip(line, line[1:], strict=False))
            if key == "distances":
                return tuple((one, other) for place, one in enumerate(names) for other in names[place + 1 :])
            untuned = {v.name for v in versions if v.target_only} if key == "transfer-then-tune" else set()
            return tuple((one, other) for one in sources for other in names if one != other and other not in untuned)
        wanted = '"all", or pairs such as [["M1", "M2"], ["M2", "M3"]], each [source, target]'
        if not isinstance(value, list):
            self._fault(("do", key), f"is {_said(value)}; write {wanted}")
            return ()
        found: list[Pair] = []
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
                self._fault(("do", key), f"{_said(pair)} is no pair; write {wanted}")
                continue
            unknown = [name for name in pair if name not in names]
            for name in unknown:
                self._fault(("do", key), f"there is no version {name!r}{_nearest(name, names)}")
            if pair[0] == pair[1]:
                self._fault(("do", key), f"[{pair[0]}, {pair[1]}] is one version twice; name two")
            elif tuple(pair) in found:
                self._fault(("do", key), f"[{pair[0]}, {pair[1]}] stands there twice; leave one out")
            elif not unknown:
                found.append((pair[0], pair[1]))
        return tuple(found)

    def _resources(self, content: Mapping[str, Any]) -> Mapping[str, Resources]:
        table = self._table(content, "resources", (), optional=True)
        self._known(table, KINDS, ("resources",))
        found = {}
        for kind in table:
            row = self._table(table, kind, ("resources",))
            self._known(row, ("cpus", "gpus"), ("resources", kind))
            cpus = self._number(row, "cpus", ("resources", kind), least=0)
            gpus = self._number(row, "gpus", ("resources", kind), least=0)
            found[kind] = Resources(1 if cpus is None else cpus, gpus or 0)
        return found

    def _cost(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        table = self._table(content, "cost", (), optional=True)
        numbers = (
            "flops",
            "utilisation",
            "gpus",
            "tokens-per-example",
            "questions",
            "tokens-per-question",
            "tokens-per-path",
        )
        self._known(table, ("gpu", *numbers), ("cost",))
        found: dict[str, Any] = {}
        gpu = self._text(table, "gpu", ("cost",))
        if gpu is not None:
            found["gpu"] = gpu
        for key in numbers:
            value = self._number(table, key, ("cost",), above=0)
            if value is not None:
                found[key.replace("-", "_")] = value
        if found.get("utilisation", 0) > 1:
            self._fault(("cost", "utilisation"), "is a part of the peak, from 0 to 1")
        return found

    def _expected(
        self, content: Mapping[str, Any], versions: Sequence[Version], tunings: Sequence[Tuning], doing: Doing
    ) -> tuple[Expected, ...]:
        tables = content.get("expected", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._fault(("expected",), "tables are a list; write [[expected]] with two brackets for each")
            return ()
        names = [version.name for version in versions]
        tuned = tuple(dict.fromkeys([*(t.name for t in tunings), *(name for v in versions for name in v.tuned)]))
        found: list[Expected] = []
        for place, table in enumerate(tables):
            path = ("expected", place)
            self._known(table, ("table", "task", "tasks", "target", "columns", "rows", "kind", "tuning", "note"), path)
            title = table.get("table")
            title = (
                str(title)
                if isinstance(title, int) and not isinstance(title, bool)
                else self._text(table, "table", path, required=True)
            )
            kind = self._among(table, "kind", path, RESULTS) or "transfer"
            tuning = self._among(table, "tuning", path, tuned) or (tuned[0] if tuned else "tuned")
            note = self._text(table, "note", path) or ""
            columns = self._columns(table, path, names)
            for label, values in self._labelled(table, path, len(columns)):
                source, of_kind, of_tuning = _row_of(label, kind, tuning, names, tuned)
                if of_kind is None:
                    self._fault(
                        (*path, "rows"),
                        f"a row begins with {label!r}: neither base, FT, before nor a version{_nearest(label, names)}",
                    )
                    continue
                for (task, target), value in zip(columns, values, strict=True):
                    if isinstance(value, str) and not value.strip():
                        continue
                    if not _is_number(value):
                        self._fault(
                            (*path, "rows"), f'{_said(value)} in row {label!r} is no number; leave a cell empty as ""'
                        )
                        continue
                    before = (
                        _before(doing.recycle, target)
                        if of_kind.startswith("recycle") and label == "before"
                        else source
                    )
                    found.append(Expected(str(title), task, of_kind, before, target, of_tuning, float(value), note))
        return tuple(found)

    def _columns(
        self, table: Mapping[str, Any], path: tuple[str | int, ...], names: Sequence[str]
    ) -> list[tuple[str, str]]:
        """The task and the target of each column: one task and several versions, or one version and several tasks."""
        if "tasks" in table or "target" in table:
            target = self._among(table, "target", path, names, required=True)
            tasks = self._texts(table, "tasks", path, required=True)
            return [(task, target) for task in tasks] if target is not None else []
        task = self._text(table, "task", path, required=True)
        columns = self._texts(table, "columns", path, required=True)
        for name in columns:
            if name not in names:
                self._fault((*path, "columns"), f"there is no version {name!r}{_nearest(name, names)}")
        return [(task, name) for name in columns] if task is not None else []

    def _labelled(
        self, table: Mapping[str, Any], path: tuple[str | int, ...], width: int
    ) -> list[tuple[str, list[Any]]]:
        rows = table.get("rows")
        if not isinstance(rows, list):
            self._fault(
                (*path, "rows") if rows is not None else path, 'rows are missing; write rows = [["base", 13.2, …], …]'
            )
            return []
        found = []
        for row in rows:
            if not isinstance(row, list) or not row or not isinstance(row[0], str):
                self._fault((*path, "rows"), f"{_said(row)} is no row; begin it with base, FT or a version's name")
            elif width and len(row) != width + 1:
                self._fault(
                    (*path, "rows"),
                    f'row {row[0]!r} has {len(row) - 1} numbers for {width} columns; leave a cell empty as ""',
                )
            elif width:
                found.append((row[0], row[1:]))
        return found

    # What tables say together

    def _curves(self, study: Study) -> None:
        for tuning in study.tunings:
            if tuning.eval_every is None:
                continue
            path = (
                ("tune", tuning.name, "eval-every") if ("tune", tuning.name) in self._lines else ("tune", "eval-every")
            )
            evaluation = study.evaluation(tuning.name)
            if evaluation is None or not evaluation.validation:
                self._fault(
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
                    self._fault(("tune", tuning.name, "from"), f"{version.name} has no fine-tuning {tuning.after!r}")

    def _warn_of_revisions(self, study: Study) -> None:
        repositories: dict[str, list[Version]] = {}
        for version in study.versions:
            found = HUB_ID.fullmatch(version.model)
            if found and not version.model.startswith(LAB) and not os.path.isdir(self._beside(version.model)):
                repositories.setdefault(found["repo"], []).append(version)
        for repository, sharing in repositories.items():
            loose = [version.name for version in sharing if "@" not in version.model]
            if loose and len(sharing) > 1:
                line = self._line(("version",))
                self._warnings.append(
                    f"{self._path.name}:{line}: {', '.join(loose)} of {repository} name no revision, and other versions share "
                    "the id; write org/name@revision for each."
                )

    # What a value is

    def _model(
        self, table: Mapping[str, Any], key: str, path: tuple[str | int, ...], required: bool = False
    ) -> str | None:
        spec = self._text(table, key, path, required=required)
        if spec is None:
            return None
        place = (*path, key)
        if spec.startswith(LAB):
            self._try(place, lambda: find_lab(spec))
        elif not os.path.isdir(self._beside(spec)):
            if spec.startswith((".", "/", "~")) or HUB_ID.fullmatch(spec) is None:
                self._fault(
                    place, f"{spec!r}: no such folder beside the file, and no Hub id either (org/name@revision)"
                )
        return spec

    def _rows(self, spec: str, place: tuple[str | int, ...]) -> None:
        """Training data: the lab's, a file, or a data set."""
        if spec.startswith(LAB):
            self._try(place, lambda: find_lab(spec))
        elif not os.path.isfile(self._beside(spec)):
            if spec.endswith(_ROWS) or spec.startswith((".", "/", "~")) or _DATA_SET.fullmatch(spec) is None:
                self._fault(
                    place,
                    f"{spec!r}: no such file beside the study's, and no data set either (org/name[@REVISION][:SPLIT])",
                )

    def _task(self, spec: str, place: tuple[str | int, ...], named: bool) -> None:
        """Questions: the lab's, a file, or (where `named`) a task of the harness by name."""
        if spec.startswith(LAB):
            self._try(place, lambda: find_lab(spec))
        elif not os.path.isfile(self._beside(spec)) and (
            not named or spec.endswith(_ROWS) or "/" in spec or os.sep in spec
        ):
            self._fault(
                place,
                f"{spec!r}: no such file beside the study's; give a .jsonl file{' or the name of a task' if named else ''}",
            )

    def _template(self, spec: str, place: tuple[str | int, ...]) -> None:
        if spec.startswith(LAB):
            self._try(place, lambda: find_lab(spec))
        elif not os.path.isfile(self._beside(spec)) and spec not in settings.template_names():
            self._fault(
                place, f"{spec!r}: no such file beside the study's, and none of {', '.join(settings.template_names())}"
            )

    def _beside(self, spec: str) -> str:
        """Where a path of the file leads."""
        return os.path.join(self._path.parent, os.path.expanduser(spec))

    def _try(self, place: tuple[str | int, ...], check: Any) -> None:
        """Note what a check of the package's own says, without the dashes of the command line."""
        try:
            check()
        except (TuneportError, UsageError) as error:
            self._fault(place, settings.in_file_words(str(error)))

    def _fault(self, path: tuple[str | int, ...], what: str) -> None:
        where = _spelled(path)
        self.faults.append((self._line(path), f"{where}: {what}" if where else what))

    def _line(self, path: tuple[str | int, ...]) -> int:
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return 1

    def _known(self, table: Mapping[str, Any], known: Iterable[str], path: tuple[str | int, ...]) -> None:
        names = list(known)
        for key in table:
            if key not in names:
                what = "is no section" if not path else "is not known"
                self._fault((*path, key), f"{what}{_nearest(key, names)}; known are {', '.join(names)}")

    def _table(
        self, table: Mapping[str, Any], key: str, path: tuple[str | int, ...], optional: bool = False
    ) -> Mapping[str, Any]:
        value = table.get(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            self._fault((*path, key), f"is {_said(value)}; write it as a table")
        elif not optional:
            self._fault(path, f"[{key}] is missing; begin the file with it")
        return {}

    def _text(
        self, table: Mapping[str, Any], key: str, path: tuple[str | int, ...], required: bool = False
    ) -> str | None:
        value = table.get(key)
        if value is None:
            if required and key not in table:
                self._fault(path, f"`{key}` is missing")
            return None
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            self._fault((*path, key), f"is {_said(value)}; write a text in quotes, on one line")
            return None
        return value

    def _texts(
        self, table: Mapping[str, Any], key: str, path: tuple[str | int, ...], required: bool = False
    ) -> tuple[str, ...]:
        value = table.get(key)
        if value is None:
            if required:
                self._fault(path, f"`{key}` is missing")
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() and v.isprintable() for v in value):
            self._fault((*path, key), f"is {_said(value)}; write a list of texts, each in quotes on one line")
            return ()
        if required and not value:
            self._fault((*path, key), "is empty; name at least one")
        twice = sorted({text for text in value if value.count(text) > 1}) if key != "notes" else []
        if twice:
            self._fault((*path, key), f"{', '.join(map(repr, twice))} stands there twice; leave one out")
        return tuple(value)

    def _flag(self, table: Mapping[str, Any], key: str, path: tuple[str | int, ...]) -> bool | None:
        value = table.get(key)
        if value is not None and not isinstance(value, bool):
            self._fault((*path, key), f"is {_said(value)}; write true or false")
            return None
        return value

    def _among(
        self,
        table: Mapping[str, Any],
        key: str,
        path: tuple[str | int, ...],
        allowed: Sequence[str],
        required: bool = False,
    ) -> str | None:
        value = self._text(table, key, path, required=required)
        if value is not None and value not in allowed:
            self._fault((*path, key), f"{value!r}: choose {', '.join(allowed) or 'nothing, there is none'}")
            return None
        return value

    def _number(
        self,
        table: Mapping[str, Any],
        key: str,
        path: tuple[str | int, ...],
        *,
        least: float | None = None,
        above: float | None = None,
    ) -> float | None:
        value = table.get(key)
        if value is None:
            return None
        fine = _is_number(value) and (least is None or value >= least) and (above is None or value > above)
        if not fine:
            bound = f" from {least} on" if least is not None else f" above {above}" if above is not None else ""
            self._fault((*path, key), f"is {_said(value)}; give a number{bound}")
            return None
        return float(value)

    def _whole(self, table: Mapping[str, Any], key: str, path: tuple[str | int, ...], *, least: int) -> int | None:
        value = table.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self._fault((*path, key), f"is {_said(value)}; give a whole number from {least} on")
            return None
        return value

    def _numbers(self, table: Mapping[str, Any], key: str, path: tuple[str | int, ...]) -> tuple[float, ...]:
        value = table.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not value or not all(map(_is_number, value)) or len(set(value)) < len(value):
            self._fault((*path, key), f"is {_said(value)}; give a list of different numbers")
            return ()
        return tuple(map(float, value))

    def _seeds(self, table: Mapping[str, Any], key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = table.get(key)
        if value is None:
            return default
        fine = (
            isinstance(value, list)
            and value
            and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= _MOST_SEED for v in value)
        )
        if not fine or len(set(value)) < len(value):
            self._fault(
                ("study", key), f"is {_said(value)}; give a list of different whole numbers from 0 on, below 2^32"
            )
            return default
        return tuple(value)


def _with_warnings(study: Study, warnings: Sequence[str]) -> Study:
    from dataclasses import replace

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


def _row_of(
    label: str, kind: str, tuning: str, names: Sequence[str], tunings: Sequence[str]
) -> tuple[str | None, str | None, str]:
    """What a row of a table holds: the source, the kind (None: the label says nothing), the tuning."""
    for text, of_tuning in ((label, tuning), (label.rpartition(" ")[0], label.rpartition(" ")[2])):
        if text is not label and of_tuning not in tunings:
            continue
        if text == "base" and text is label:
            return None, "base", of_tuning
        if text == "FT":
            return None, "tuned", of_tuning
        if text in names:
            return text, kind, of_tuning
        if text == "before" and kind.startswith("recycle"):
            return None, kind, of_tuning
    return None, None, tuning


def _before(chain: Sequence[Pair], target: str) -> str | None:
    return next((source for source, reached in chain if reached == target), None)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _spelled(path: tuple[str | int, ...]) -> str:
    """A path as the file spells it: [tune] steps, [[version]] model."""
    if not path:
        return ""
    head, rest = path[0], list(path[1:])
    if head in ("version", "expected"):
        rest = [part for part in rest if not isinstance(part, int)]
        return " ".join([f"[[{head}]]", ".".join(map(str, rest))]).strip()
    if len(rest) > 1 or not rest:
        return " ".join([f"[{'.'.join(map(str, [head, *rest[:-1]]))}]", *map(str, rest[-1:])])
    return f"[{head}] {rest[0]}"


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 1e300


def _said(value: object) -> str:
    """A value as a person would name it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date | datetime.time):
        return "a date or time"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, str) and not value.strip():
        return "empty"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
