"""Where results are kept: `FILE.partial/` has the finished scores, `FILE` and its examples are created when complete.

A killed run resumes with the models and tasks that are kept. A `FILE` of the same plan is "already done"; one of
another plan is refused, with the differences, unless it may be overwritten.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tuneport.errors import OutputError, TakenError, listing, named
from tuneport.files.holding import held
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, read_bytes
from tuneport.files.printable import listed_names
from tuneport.files.writing import create, write_whole
from tuneport.output.journal import differing_fields
from tuneport.output.replacing import is_record
from tuneport.output.workdir import PLAN
from tuneport.results.example_outcomes import TaskResult, as_json, from_json
from tuneport.results.schema import EVALUATION_FORMAT, PATH_FORMAT

EXAMPLES = ".examples.jsonl"
# How the records begin that are kept like this: of evaluations, and of paths between two models.
_FORMATS = (EVALUATION_FORMAT, PATH_FORMAT)
_RECORD, _LINES = "record.json", "examples.jsonl"
_OF_OLMES = re.compile(r"olmes-\d{3}")
_OF_A_RUN = re.compile(r"(plan\.json|record\.json|\d{3}-\d{3}\.json)(\.new)?|examples\.jsonl")


def examples_file(out: Path) -> Path:
    """Where the per-example outcomes of ``out`` lie; only `.json` is an ending, so that line-0.3 and line-0.4 have their own.

    >>> examples_file(Path("path.json")).name, examples_file(Path("line-0.4")).name
    ('path.examples.jsonl', 'line-0.4.examples.jsonl')
    """
    return out.with_name(out.name.removesuffix(".json") + EXAMPLES)


def already_done(out: Path, plan: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The record in ``out`` if it is of this very plan; None if there is none, or it is to be replaced.

    Raises `OutputError` if other contents are there; with ``overwrite`` only a record of tuneport is replaced.
    """
    if out.is_dir():
        raise OutputError(f"{out} is a folder; {named('out')} names a file.")
    examples = examples_file(out)
    if not os.path.lexists(out):
        # A kill between the two renames of `Kept.finish` leaves the examples there, and the record where it was written.
        if os.path.lexists(examples) and not (_partial(out) / _RECORD).is_file():
            raise TakenError(
                f"{examples} exists and would be overwritten. Move it away, or choose another {named('out')}."
            )
        return None
    if not any(is_record(out, start) for start in _FORMATS):
        raise TakenError(f"{out} exists and is not a record of an evaluation. Choose another {named('out')}.")
    if os.path.lexists(examples) and (examples.is_symlink() or not examples.is_file()):
        raise TakenError(
            f"{examples} is not a plain file and would be replaced. Move it away, or choose another {named('out')}."
        )
    if overwrite:
        return None
    try:
        found = read_json(read_bytes(out, most=MOST_RECORD_BYTES))
        begun = found["plan"]
    except (ValueError, KeyError, TypeError):
        raise TakenError(f"{out} is damaged. Move it away, or choose another {named('out')}.") from None
    different = differing_fields(begun, json.loads(json.dumps(plan)))
    if different:
        raise TakenError(
            f"{out} contains another evaluation; differences:{listing(different, 10)}\n"
            f"Choose another {named('out')}, or pass {named('overwrite')}."
        )
    _finish_removing(_partial(out), begun)
    return dict(found)


def _finish_removing(folder: Path, plan: Any) -> None:
    """What a run that was killed at its very end has left of a plan that is done; nothing that is not of it."""
    if folder.is_symlink() or not folder.is_dir() or _others(folder):
        return
    begun = folder / PLAN
    if not os.path.lexists(begun) or _differing(begun, plan) == ([], True):
        with (
            suppress(OutputError),
            held(folder, f"Wait for it, or choose another {named('out')}."),
        ):  # whoever holds it is at work there
            shutil.rmtree(folder)


@contextmanager
def keeping(out: Path, plan: Mapping[str, Any], overwrite: bool) -> Iterator[Kept]:
    """The results kept so far, locked against a second run; results of another plan are refused."""
    folder = _partial(out)
    with held(folder, f"Wait for it, or choose another {named('out')}."):
        try:
            yield Kept(out, folder, plan, overwrite)
        finally:
            # Where nothing was scored nothing is to be gone on from, and no other plan is to be kept out.
            if [file.name for file in folder.glob("*")] == [PLAN]:
                shutil.rmtree(folder)


class Kept:
    """Results by model and task, one file each, whole or not there."""

    def __init__(self, out: Path, folder: Path, plan: Mapping[str, Any], overwrite: bool) -> None:
        """Start, or resume from the results of this plan in ``folder``."""
        self._out, self.folder = out, folder
        self.plan = json.loads(json.dumps(plan))
        begun = folder / PLAN
        if os.path.lexists(begun):
            different, ours = _differing(begun, self.plan)
            if different and not (overwrite and ours):
                raise TakenError(
                    f"{folder} was started with a different plan; differences:{listing(different, 10)}\nUse the same "
                    f"models, tasks and options to resume, or pass {named('overwrite')} to start from the beginning."
                )
            if different:
                self._check_all_ours()
                for file in folder.iterdir():
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
        if not os.path.lexists(begun):
            self._check_all_ours()
            write_whole(begun, json.dumps(self.plan))

    def get(self, model: int, task: int) -> tuple[TaskResult, list[str]] | None:
        """A result of an earlier run, with its warnings; None where there is none that can be read: it is scored again."""
        file = self._file(model, task)
        if not file.exists():
            return None
        try:
            found = read_json(read_bytes(file, self.folder, MOST_RECORD_BYTES))
            return from_json(found["result"]), list(found["warnings"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, model: int, task: int, result: TaskResult, warnings: list[str]) -> None:
        """Keep a result."""
        write_whole(self._file(model, task), json.dumps({"result": as_json(result), "warnings": warnings}))

    def finish(self, record: Mapping[str, Any], lines: Iterator[Mapping[str, Any]]) -> None:
        """Write the examples, then the record, each beside its place and renamed; what was kept goes."""
        self._check_all_ours()
        examples = self.folder / _LINES
        with create(examples) as file:
            file.writelines((json.dumps(line, ensure_ascii=False) + "\n").encode() for line in lines)
        text = json.dumps({**record, "plan": self.plan}, indent=1, ensure_ascii=False) + "\n"
        write_whole(self.folder / _RECORD, text)
        examples.replace(examples_file(self._out))
        (self.folder / _RECORD).replace(self._out)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check_all_ours(self) -> None:
        """Raise `TakenError` for what no run writes there: in the end the folder goes, with all that is in it."""
        others = _others(self.folder)
        if others:
            raise TakenError(
                f"{self.folder} contains files that tuneport did not write:{listed_names(others, 8)}\nMove them away, "
                f"or choose another {named('out')}."
            )

    def _file(self, model: int, task: int) -> Path:
        return self.folder / f"{model:03d}-{task:03d}.json"


def _others(folder: Path) -> list[str]:
    """What is in the folder of a run, and no run writes there."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if not (_OF_OLMES if entry.is_dir() and not entry.is_symlink() else _OF_A_RUN).fullmatch(entry.name)
    )


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _differing(begun: Path, plan: Any) -> tuple[list[str], bool]:
    """In which fields a plan differs from the one that was begun with, and whether that is one of ours."""
    try:
        found = read_json(read_bytes(begun, begun.parent))
        ours = isinstance(found, dict) and str(found.get("format")).startswith(_FORMATS)
        return differing_fields(found, plan), ours
    except (OSError, ValueError):
        raise TakenError(
            f"{begun} is damaged. Remove {begun.parent.name} and run again to start from the beginning."
        ) from None
