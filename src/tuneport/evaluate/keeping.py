"""Where results lie: `FILE.partial/` holds what is scored so far, `FILE` and its examples appear when all of it is.

A run that was killed goes on from the models and tasks that are kept; `FILE` of the same plan is "already done"; one of
another plan is refused, with what differs, unless it is to be replaced.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneport.checkpoint.journal import differing_fields
from tuneport.errors import OutputError, TakenError, listing
from tuneport.evaluate.outcomes import TaskResult, as_json, from_json
from tuneport.place import PLAN, held, write_whole

EXAMPLES = ".examples.jsonl"


def examples_file(out: Path) -> Path:
    """Where the per-example outcomes of ``out`` lie; only `.json` is an ending, so that line-0.3 and line-0.4 have their own.

    >>> examples_file(Path("path.json")).name, examples_file(Path("line-0.4")).name
    ('path.examples.jsonl', 'line-0.4.examples.jsonl')
    """
    return out.with_name(out.name.removesuffix(".json") + EXAMPLES)


def already_done(out: Path, plan: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The record in ``out`` if it is of this very plan; None if there is none, or it is to be replaced.

    Raises `OutputError` where something else stands there.
    """
    if out.is_dir():
        raise OutputError(f"{out} is a folder; --out names a file.")
    if not out.exists() or overwrite:
        return None
    try:
        found = json.loads(out.read_text(encoding="utf-8"))
        begun = found["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        raise TakenError(f"{out} exists and is no record of an evaluation. Choose another --out.") from None
    different = differing_fields(begun, json.loads(json.dumps(plan)))
    if different:
        raise TakenError(
            f"{out} holds another evaluation; what differs:{listing(different, 10)}\n"
            "Choose another --out, or pass --overwrite."
        )
    return dict(found)


@contextmanager
def keeping(out: Path, plan: Mapping[str, Any], overwrite: bool) -> Iterator[Kept]:
    """The results kept so far, locked against a second run; what is kept of another plan is refused."""
    folder = out.with_name(f"{out.name}.partial")
    with held(folder, "choose another --out"):
        try:
            yield Kept(out, folder, plan, overwrite)
        finally:
            # Where nothing was scored nothing is to be gone on from, and no other plan is to be kept out.
            if [file.name for file in folder.glob("*")] == [PLAN]:
                shutil.rmtree(folder)


class Kept:
    """Results by model and task, one file each, whole or not there."""

    def __init__(self, out: Path, folder: Path, plan: Mapping[str, Any], overwrite: bool) -> None:
        """Begin, or go on from what ``folder`` holds of this plan."""
        self._out, self.folder = out, folder
        self.plan = json.loads(json.dumps(plan))
        begun = folder / PLAN
        if begun.exists():
            different = _differing(begun, self.plan)
            if different and not overwrite:
                raise TakenError(
                    f"{folder} was begun with another plan; what differs:{listing(different, 10)}\n"
                    "Give the same models, tasks and choices to go on, or pass --overwrite to start anew."
                )
            if different:
                for file in folder.iterdir():
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
        if not begun.exists():
            write_whole(begun, json.dumps(self.plan))

    def get(self, model: int, task: int) -> tuple[TaskResult, list[str]] | None:
        """A result of an earlier run, with its warnings."""
        file = self._file(model, task)
        if not file.exists():
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
        return from_json(found["result"]), list(found["warnings"])

    def put(self, model: int, task: int, result: TaskResult, warnings: list[str]) -> None:
        """Keep a result."""
        write_whole(self._file(model, task), json.dumps({"result": as_json(result), "warnings": warnings}))

    def finish(self, record: Mapping[str, Any], lines: Iterator[Mapping[str, Any]]) -> None:
        """Write the examples, then the record, each beside its place and renamed; what was kept goes."""
        examples = self.folder / "examples.jsonl"
        with examples.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        text = json.dumps({**record, "plan": self.plan}, indent=1, ensure_ascii=False) + "\n"
        write_whole(self.folder / "record.json", text)
        examples.replace(examples_file(self._out))
        (self.folder / "record.json").replace(self._out)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, model: int, task: int) -> Path:
        return self.folder / f"{model:03d}-{task:03d}.json"


def _differing(begun: Path, plan: Any) -> list[str]:
    try:
        return differing_fields(json.loads(begun.read_text(encoding="utf-8")), plan)
    except (OSError, ValueError):
        raise TakenError(f"{begun} is damaged. Remove {begun.parent.name} and run again; it starts anew.") from None
