"""Tasks that the harness has by name, loaded before any model is, and asked of one model after another.

In comes a name, out come `NamedTask`s: one for a task or a group that the harness gives a score of its own, one for
each member where it gives none. Gated or missing data, missing packages and misspelt names end in words.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneport.errors import ScoringError, UsageError
from tuneport.evaluate.harness import evaluate
from tuneport.evaluate.outcomes import Outcome, TaskResult


@dataclass(frozen=True)
class NamedTask:
    """A task or a group of the harness, loaded; ``metric`` is ``NAME,FILTER`` where not the task's first counts."""

    name: str
    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]
    metric: str | None = None
    chat: bool = False


def load_named(names: Sequence[str], *, chat: bool = False, folders: Sequence[str] = ()) -> list[NamedTask]:
    """The harness's tasks of these names. Raises `UsageError` for unknown ones, `ScoringError` for missing data."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=list(folders) or None)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        told = []
        for name in unknown:
            near = difflib.get_close_matches(name, manager.all_tasks, 3)
            told.append(f"{name!r}" + (f" (near: {', '.join(near)})" if near else ""))
        raise UsageError(f"--tasks: the harness has no task {'; '.join(told)}, and there is no such JSONL file.")
    found = []
    for name in names:
        loaded = load_with_words(manager, name)
        tasks, groups = loaded["tasks"], loaded.get("groups") or {}
        group = groups.get(name)
        if group is not None and group.has_aggregation:
            found.append(NamedTask(name, tasks, groups, None, chat))
        else:
            found += [NamedTask(leaf, {leaf: task}, {}, None, chat) for leaf, task in tasks.items()]
    return found


def load_with_words(manager: Any, spec: Any) -> Mapping[str, Any]:
    """`TaskManager.load`, whose failures end in words."""
    name = spec if isinstance(spec, str) else spec.get("task", "?")
    try:
        return dict(manager.load([spec]))
    except ModuleNotFoundError as error:
        raise ScoringError(
            f"The task {name} needs the package {error.name}, which is not installed. "
            f"Install it (pip install {error.name}), or lm-eval's extra for the task."
        ) from error
    except LookupError as error:  # NLTK's way to say that a file of its own was never downloaded
        if "nltk" not in str(error).lower():
            raise ScoringError(f"The task {name} cannot be loaded: {_brief(error)}") from error
        raise ScoringError(
            f"The task {name} needs a data file of NLTK that is not on this machine. "
            "Download it once: python -m nltk.downloader punkt_tab."
        ) from error
    except Exception as error:
        # What `datasets` and the Hub raise has no common parent; the cause is kept for --debug.
        text = str(error)
        if "gated" in text.lower() or "401" in text or "403" in text:
            hint = "Its data is gated: accept its licence on its Hub page, and log in (hf auth login)."
        elif "offline" in text.lower() or "connection" in text.lower() or "couldn't reach" in text.lower():
            hint = "Its data is not in the cache, and the Hub is out of reach."
        else:
            hint = "Its data cannot be loaded."
        raise ScoringError(f"The task {name}: {hint} ({_brief(error)})") from error


def ask_named(task: NamedTask, model: Any, *, limit: int | None = None, **choices: Any) -> TaskResult:
    """Ask `model` a task or group of the harness; the harness judges."""
    found = evaluate(
        task.tasks,
        task.groups,
        model,
        limit=limit,
        apply_chat_template=task.chat,
        fewshot_as_multiturn=task.chat,
        **choices,
    )
    return result_of(task, found)


def result_of(task: NamedTask, found: Mapping[str, Any]) -> TaskResult:
    """The harness's result as one score an example, where they make up the harness's own value."""
    leaf = next(iter(task.tasks.values()))
    counted = found["results"][task.name]
    keys = [key for key, value in counted.items() if "," in key and "_stderr" not in key and _is_number(value)]
    key = task.metric or _first_metric(leaf, keys)
    if key not in keys:
        raise ScoringError(f"The task {task.name} has no metric {key!r}; it has {', '.join(keys) or 'none'}.")
    metric, _, filtered = key.partition(",")
    value = float(counted[key])
    others = {other: float(counted[other]) for other in keys if other != key}
    better = leaf.higher_is_better().get(metric, True)
    shots = found["n-shot"].get(task.name)
    version = found["versions"].get(task.name)
    outcomes = _outcomes(task, found["samples"], metric, filtered, value)
    if outcomes is None:
        empty = tuple(Outcome(f"{place}", math.nan) for place in range(_count(found, task)))
        summary = {"value": value, "stderr": None}
        return TaskResult(task.name, key, better, empty, others, summary, shots, version)
    return TaskResult(task.name, key, better, tuple(outcomes), others, None, shots, version)


def _outcomes(
    task: NamedTask, samples: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, filtered: str, value: float
) -> list[Outcome] | None:
    """One outcome an example; None where no weighing of the examples gives the harness's value."""
    lots: list[list[Outcome]] = []
    for name in task.tasks:
        lot = []
        for sample in samples[name]:
            if sample["filter"] != filtered or metric not in sample:
                continue
            scored = _scored(sample[metric])
            if scored is None:
                return None
            identity = str(sample["doc_id"]) if len(task.tasks) == 1 else f"{name} {sample['doc_id']}"
            lot.append(Outcome(identity, *scored, _said(sample), _answer(sample)))
        lots.append(lot)
    if not all(lots):
        return None
    pooled = [outcome for lot in lots for outcome in lot]
    # Each member of a group may count the same, whatever its size.
    balanced = [
        Outcome(o.id, o.score, o.weight / sum(one.weight for one in lot), o.said, o.answer) for lot in lots for o in lot
    ]
    for tried in (pooled, balanced):
        total = sum(outcome.score * outcome.weight for outcome in tried) / sum(outcome.weight for outcome in tried)
        if math.isclose(total, value, rel_tol=1e-6, abs_tol=1e-9):
            return tried
    return None


def _scored(value: Any) -> tuple[float, float] | None:
    if _is_number(value):
        return float(value), 1.0
    if isinstance(value, list) and value and all(_is_number(item) for item in value):  # one score an instruction
        return sum(map(float, value)) / len(value), float(len(value))
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0)


def _first_metric(task: Any, keys: Sequence[str]) -> str:
    names = [metric if isinstance(metric, str) else "" for metric in task.aggregation()]
    for name in names:
        for key in keys:
            if key.partition(",")[0] == name:
                return key
    return keys[0] if keys else "none"


def _said(sample: Mapping[str, Any]) -> str | None:
    first = sample["filtered_resps"][0]
    while isinstance(first, list) and first:
        first = first[0]
    return first if isinstance(first, str) else None


def _answer(sample: Mapping[str, Any]) -> str | None:
    target = sample.get("target")
    return str(target) if isinstance(target, str | int | float) else None


def _count(found: Mapping[str, Any], task: NamedTask) -> int:
    return sum(int(found["n-samples"][name]["effective"]) for name in task.tasks)


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "…"
