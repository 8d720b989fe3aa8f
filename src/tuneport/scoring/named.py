"""Tasks of the harness, loaded by name before any model, and run on one model after another.

A name gives one `NamedTask` for a task, or for a group with a score of its own; otherwise one for each member. Gated or
missing data, missing packages and misspelt names raise an error with a message.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tuneport.errors import Fault, ScoringError, UsageError
from tuneport.libraries import how_to_install, install_line
from tuneport.results.example_outcomes import Outcome, TaskResult, end_of
from tuneport.scoring import score_spoilers
from tuneport.scoring.harness import evaluate
from tuneport.scoring.sandbox.sandbox import Sandbox
from tuneport.scoring.suites import Suite, Variant
from tuneport.scoring.tasks import CONFIGS


@dataclass(frozen=True)
class NamedTask:
    """A task or a group of the harness, loaded; ``metric`` is ``NAME,FILTER`` where not the task's first counts."""

    name: str
    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]
    metric: str | None = None
    chat: bool = False
    variant: str | None = None


def load_suite(suite: Suite, variant: Variant, sandbox: Sandbox | None = None) -> list[NamedTask]:
    """A suite's tasks in one variant, under the titles that the paper's tables have."""
    from lm_eval.api.task import ConfigurableTask

    found = []
    for row in suite.tasks:
        recipe = row.recipe(variant)
        tasks: dict[str, Any] = {}
        groups: dict[str, Any] = {}
        for name in recipe.tasks:
            _need_nltk(name)
            if recipe.own is not None:
                with _in_words(name):
                    tasks[name] = ConfigurableTask(config=CONFIGS[recipe.own](sandbox))
            else:
                try:
                    parts = _find_and_load(name)
                except UsageError:
                    raise UsageError(Fault("suite", suite.name, f"the harness has no task {name}")) from None
                tasks |= parts[0]
                groups |= parts[1]
        for task in tasks.values():
            task.set_config(key="num_fewshot", value=recipe.shots)
            if recipe.max_new_tokens is not None:
                task.set_config(key="generation_kwargs", value={"max_gen_toks": recipe.max_new_tokens}, update=True)
        found.append(NamedTask(row.title, tasks, groups, recipe.metric, recipe.chat, variant))
    return found


def load_named(names: Sequence[str], *, chat: bool = False) -> list[NamedTask]:
    """The harness's tasks of these names. Raises `UsageError` for unknown ones, `ScoringError` for missing data."""
    found = []
    for name in names:
        _need_nltk(name)
        tasks, groups = _find_and_load(name)
        group = groups.get(name)
        if group is not None and group.has_aggregation:
            found.append(NamedTask(name, tasks, groups, None, chat))
        else:
            found += [NamedTask(leaf, {leaf: task}, {}, None, chat) for leaf, task in tasks.items()]
    return found


def _find_and_load(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The tasks and groups of a name. The harness's whole list takes ten seconds to read, so single folders come first."""
    from lm_eval.tasks._index import Kind

    for listed in (_near_tasks, _declaring_tasks):
        some = listed(name)
        entry = None if some is None else some.task_index.get(name)
        if entry is not None and entry.kind != Kind.TAG:  # a tag may have members in any folder
            with contextlib.suppress(KeyError), _in_words(name):  # so may a group: then it is looked for in all
                return _parts(some.load([name]))
    everything = _all_tasks() if name in _names().words else None
    if everything is None or name not in everything.task_index:
        close = difflib.get_close_matches(name, _names().folders, 3)
        told = f" (near: {', '.join(close)})" if close else ""
        if Path(name).expanduser().is_dir():
            here, remedy = "it is a folder here", "Name the files in it"
        else:
            here, remedy = "there is no such file", ""
        raise UsageError(Fault("tasks", name, f"the harness has no task of this name{told}, and {here}", remedy))
    try:
        with _in_words(name):
            return _parts(everything.load([name]))
    except KeyError as error:
        raise ScoringError(f"The task {name}: {error} is missing from its definition or its data.") from error


def _parts(loaded: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return loaded["tasks"], loaded.get("groups") or {}


@dataclass(frozen=True)
class _Names:
    """What the harness's task files say, without parsing them: where each name is declared, and all of their words."""

    folders: Mapping[str, Path]
    words: frozenset[str]


@cache
def _names() -> _Names:
    import lm_eval.tasks

    folders: dict[str, Path] = {}
    words: set[str] = set()
    for path in Path(lm_eval.tasks.__file__).parent.rglob("*"):
        if path.suffix in ("", ".yaml", ".yml") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            words.update(re.findall(r"[^\s'\"\[\]{},]+", text))
            for declared in re.findall(r"^(?:task|group):[ \t]*['\"]?([^\s'\"#]+)", text, re.MULTILINE):
                folders[declared] = path.parent
    return _Names(folders, frozenset(words))


def _declaring_tasks(name: str) -> Any:
    """The tasks in the folder where a file declares the name; None where none does."""
    folder = _names().folders.get(name)
    return None if folder is None else _tasks_in(folder)


@cache
def _tasks_in(*folders: Path) -> Any:
    """The tasks in some of the harness's folders, which many names of a suite share."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False, include_path=[*folders])


def _near_tasks(name: str) -> Any:
    """The tasks in the folders whose names the task's begins with."""
    import lm_eval.tasks

    home = Path(lm_eval.tasks.__file__).parent
    folders = [folder for folder in home.iterdir() if folder.is_dir() and name.startswith(folder.name)]
    if name.endswith("_llama"):
        folders.append(home / "llama3")
    language = name.removeprefix("global_mmlu_full_")
    if language != name:
        folders = [home / "global_mmlu" / "full" / language]
    return _tasks_in(*(folder for folder in folders if folder.is_dir()))


@cache
def _all_tasks() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _need_nltk(name: str) -> None:
    """IFEval's checks need a file of NLTK's, which they would miss only after everything is generated."""
    if "ifeval" not in name:
        return
    try:
        import nltk
    except ModuleNotFoundError:
        raise ScoringError(f"The task {name} needs NLTK. {how_to_install('models')}") from None
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        raise ScoringError(
            f"The task {name} needs NLTK's data file punkt_tab, which is not on this machine. "
            "Fetch it once: python -m nltk.downloader punkt_tab."
        ) from None


@contextlib.contextmanager
def _in_words(name: str) -> Iterator[None]:
    """Turn a failure to load a task into a message; the cause is kept for --debug."""
    try:
        yield
    except (KeyError, UsageError):
        raise
    except ModuleNotFoundError as error:
        raise ScoringError(
            f"The task {name} needs the package {error.name}, which is not installed. "
            f"Install it: pip install {error.name}. ({install_line('models')} covers most tasks.)"
        ) from error
    except Exception as error:
        # What `datasets`, fsspec and the Hub raise has no common parent.
        text = str(error).lower()
        if "gated" in text or "401" in text or "403" in text:
            hint = "Its data is gated: accept the licence on its page on the Hub, and log in (hf auth login)."
        elif any(word in text for word in ("offline", "connect", "couldn't reach", "couldn't find", "resolve")):
            hint = "Its data is not in the cache and cannot be downloaded. Run once with the network on."
        else:
            hint = "It cannot be loaded."
        raise ScoringError(f"The task {name}: {hint} ({_brief(error)})") from error


def ask_named(task: NamedTask, model: Any, *, limit: int | None = None, **choices: Any) -> TaskResult:
    """Ask `model` a task or group of the harness; the harness judges."""
    model.moved, model.shortens = 0, True
    try:
        found = evaluate(
            task.tasks,
            task.groups,
            model,
            limit=limit,
            apply_chat_template=task.chat,
            fewshot_as_multiturn=task.chat,
            **choices,
        )
    finally:
        model.shortens = False
    changed = sorted({metric for part in task.tasks.values() for metric in _of_whole_likelihoods(part)})
    if model.moved and changed:
        model.tell(score_spoilers.moved_warnings(task.name, model.moved, changed, model.name))
    return result_of(task, found)


def _of_whole_likelihoods(task: Any) -> set[str]:
    """The metrics that are other numbers where each answer has some tokens more, the same for all."""
    metrics = {metric for metric in task.aggregation() if isinstance(metric, str)}
    if task.get_config("output_type") == "multiple_choice":
        return metrics - {"acc", "f1", "mcc", "brier_score"}
    return metrics if task.get_config("output_type") == "loglikelihood" else set()


def result_of(task: NamedTask, found: Mapping[str, Any]) -> TaskResult:
    """The harness's result as one score an example, where they make up the harness's own value."""
    leaf = next(iter(task.tasks.values()))
    # Of tasks that are pooled by a suite the harness knows the parts only.
    of_harness = found["results"].get(task.name if task.name in found["results"] else _only(task))
    first = found["results"][next(iter(task.tasks))] if of_harness is None else of_harness
    keys = [key for key, value in first.items() if "," in key and "_stderr" not in key and _is_number(value)]
    metric = task.metric or _first_metric(leaf, keys)
    missing = [key for key in metric.split("+") if key not in keys]
    if missing:
        raise ScoringError(f"The task {task.name} has no metric {missing[0]!r}; it has {', '.join(keys) or 'none'}.")
    value = None if of_harness is None else _mean([float(of_harness[key]) for key in metric.split("+")])
    others = {} if of_harness is None else {key: float(of_harness[key]) for key in keys if key != metric}
    better = leaf.higher_is_better().get(metric.split("+")[0].partition(",")[0], True)
    shots = found["n-shot"].get(next(iter(task.tasks)))
    version = found["versions"].get(next(iter(task.tasks)))
    outcomes = _outcomes(task, found["samples"], metric, value)
    if outcomes is None:
        if value is None:
            raise ScoringError(f"The task {task.name}: {metric} has neither scores for examples nor a total.")
        empty = tuple(Outcome(f"{place}", 0.0) for place in range(_count(found, task)))
        summary = {"value": value, "stderr": None}
        return TaskResult(task.name, metric, better, empty, others, summary, shots, version, task.variant)
    return TaskResult(task.name, metric, better, tuple(outcomes), others, None, shots, version, task.variant)


def _outcomes(
    task: NamedTask, samples: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, value: float | None
) -> list[Outcome] | None:
    """One outcome an example; None where no weighing of the examples gives the harness's value."""
    lots = []
    for name in task.tasks:
        parts = [_of_metric(samples[name], key, name if len(task.tasks) > 1 else "") for key in metric.split("+")]
        merged = parts[0] if len(parts) == 1 else _averaged(parts)
        if not merged:
            return None
        lots.append(merged)
    pooled = [outcome for lot in lots for outcome in lot]
    # Each member of a group may count the same, whatever its size.
    balanced = [replace(o, weight=o.weight / sum(one.weight for one in lot)) for lot in lots for o in lot]
    for tried in (pooled, balanced):
        total = sum(outcome.score * outcome.weight for outcome in tried) / sum(outcome.weight for outcome in tried)
        if value is None or math.isclose(total, value, rel_tol=1e-6, abs_tol=1e-9):
            return tried
    return None


def _of_metric(samples: Sequence[Mapping[str, Any]], key: str, member: str) -> list[Outcome] | None:
    metric, _, filtered = key.partition(",")
    found = []
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        if sample["filter"] != filtered or metric not in sample:
            continue
        scored = _scored(sample[metric])
        if scored is None:
            return None
        identity = f"{member} {sample['doc_id']}".strip()
        found.append(Outcome(identity, *scored, _asked(sample), _said(sample), _answer(sample)))
    return found


def _averaged(parts: Sequence[list[Outcome] | None]) -> list[Outcome] | None:
    """The mean of several metrics, example by example, each metric's own weights kept in the whole."""
    if any(not part or len(part) != len(parts[0] or []) for part in parts):
        return None
    columns = []
    for part in parts:
        assert part is not None
        usual = sum(outcome.weight for outcome in part) / len(part)
        columns.append([outcome.score * outcome.weight / usual for outcome in part])
    first = parts[0]
    assert first is not None
    return [replace(o, score=_mean(scores), weight=1.0) for o, *scores in zip(first, *columns, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _only(task: NamedTask) -> str:
    """The harness's name of a task that is one of its own, as a whole."""
    if task.groups:
        return next(iter(task.groups))
    return next(iter(task.tasks)) if len(task.tasks) == 1 else ""


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


def _asked(sample: Mapping[str, Any]) -> str | None:
    """The end of the prompt as the model got it; of several choices all have the same."""
    prompt = next((arguments[0] for arguments in sample["arguments"] if arguments), None)
    return end_of(prompt) if isinstance(prompt, str) else None


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
