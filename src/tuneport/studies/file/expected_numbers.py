"""The paper's numbers in a study file: tables of rows and columns become one record per number.

Each number of `[[expected]]` says which model it belongs to. They are shown beside ours; nothing is asserted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneport.studies.declared import Doing, Expected, Pair, Tuning, Version
from tuneport.studies.file.toml_lines import Path as Place
from tuneport.studies.file.toml_tables import Table, Tables, is_number, nearest, said

RESULTS = ("base", "tuned", "transfer", "transfer-then-tune", "recycle-iterative", "recycle-direct")


def read_expected(
    tables: Tables, content: Table, versions: Sequence[Version], tunings: Sequence[Tuning], doing: Doing
) -> tuple[Expected, ...]:
    """Every number of the tables `[[expected]]`."""
    blocks = content.get("expected", [])
    if not isinstance(blocks, list) or not all(isinstance(table, dict) for table in blocks):
        tables.fault(("expected",), "must be a list of tables; write [[expected]] with two brackets for each")
        return ()
    names = [version.name for version in versions]
    tuned = tuple(dict.fromkeys([*(t.name for t in tunings), *(name for v in versions for name in v.tuned)]))
    found: list[Expected] = []
    for place, table in enumerate(blocks):
        path = ("expected", place)
        tables.known(table, ("table", "task", "tasks", "target", "columns", "rows", "kind", "tuning", "note"), path)
        title = table.get("table")
        title = (
            str(title)
            if isinstance(title, int) and not isinstance(title, bool)
            else tables.text(table, "table", path, required=True)
        )
        kind = tables.among(table, "kind", path, RESULTS) or "transfer"
        tuning = tables.among(table, "tuning", path, tuned) or (tuned[0] if tuned else "tuned")
        note = tables.text(table, "note", path) or ""
        columns = _columns(tables, table, path, names)
        for label, values in _labelled(tables, table, path, len(columns)):
            source, of_kind, of_tuning = _row_of(label, kind, tuning, names, tuned)
            if of_kind is None:
                tables.fault(
                    (*path, "rows"),
                    f"a row begins with {label!r}, which is not base, FT, before or a version{nearest(label, names)}",
                )
                continue
            for (task, target), value in zip(columns, values, strict=True):
                if isinstance(value, str) and not value.strip():
                    continue
                if not is_number(value):
                    tables.fault(
                        (*path, "rows"), f'{said(value)} in row {label!r} is not a number; write "" for an empty cell'
                    )
                    continue
                before = (
                    _before(doing.recycle, target) if of_kind.startswith("recycle") and label == "before" else source
                )
                found.append(Expected(str(title), task, of_kind, before, target, of_tuning, float(value), note))
    return tuple(found)


def _columns(tables: Tables, table: Table, path: Place, names: Sequence[str]) -> list[tuple[str, str]]:
    """The task and the target of each column: one task and several versions, or one version and several tasks."""
    if "tasks" in table or "target" in table:
        target = tables.among(table, "target", path, names, required=True)
        tasks = tables.texts(table, "tasks", path, required=True)
        return [(task, target) for task in tasks] if target is not None else []
    task = tables.text(table, "task", path, required=True)
    columns = tables.texts(table, "columns", path, required=True)
    for name in columns:
        if name not in names:
            tables.fault((*path, "columns"), f"there is no version {name!r}{nearest(name, names)}")
    return [(task, name) for name in columns] if task is not None else []


def _labelled(tables: Tables, table: Table, path: Place, width: int) -> list[tuple[str, list[Any]]]:
    rows = table.get("rows")
    if not isinstance(rows, list):
        tables.fault(
            (*path, "rows") if rows is not None else path, 'rows are missing; write rows = [["base", 13.2, …], …]'
        )
        return []
    found = []
    for row in rows:
        if not isinstance(row, list) or not row or not isinstance(row[0], str):
            tables.fault((*path, "rows"), f"{said(row)} is not a row; begin it with base, FT or a version's name")
        elif width and len(row) != width + 1:
            tables.fault(
                (*path, "rows"),
                f'row {row[0]!r} has {len(row) - 1} numbers for {width} columns; write "" for an empty cell',
            )
        elif width:
            found.append((row[0], row[1:]))
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
