"""The settings that a study's file hands on to the verbs: which there are, and what is wrong with one.

A file spells them as the command line does, without dashes in front; the verbs' own checks decide, so that the two cannot
disagree. Nothing heavy is imported.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any

from tuneport.engine.choices import Choices, parse_sides
from tuneport.errors import KEYS, UsageError
from tuneport.studies.graph.inputs import LAB
from tuneport.tuning.recipes import RECIPES, Running, parse_lora, recipe_of

_RUNNING = {"save-every": "save_every", "max-new-tokens": "max_new_tokens", "eval-batch-size": "eval_batch_size"}
_APART = ("recipe", "from", "data", "mix", "chat-template", "end-token", "lora", "eval-every")
# `seed` is the study's; what names models, data or places is too; the rest of a run's choices stays with the verb.
_NOT_OF_EVALUATE = (
    "models", "tasks", "out", "suite", "loss", "recovered_gain", "trained_on", "strict", "overwrite", "seed",
)  # fmt: skip
TRANSFER_TEXTS = ("drop", "vocabulary", "new-tokens")
TRANSFER_LISTS = ("rule", "config", "sidecar")
_OPTIONS = {"rule": "rules"}  # one key for several values, as a flag is


def recipe_names() -> tuple[str, ...]:
    """The recipes of `tune`."""
    return tuple(RECIPES)


def tuning_keys(recipe: str) -> tuple[str, ...]:
    """What [tune] may hold for a recipe."""
    own = (choice.name for choice in fields(RECIPES[recipe]) if choice.name != "seed")
    return (*_APART, *_RUNNING, *(_spelled(name) for name in own))


def of_tuning(recipe: str, table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe's settings and the run's, as their fields are called."""
    own = {_spelled(choice.name): choice.name for choice in fields(RECIPES[recipe]) if choice.name != "seed"}
    chosen = {own[key]: value for key, value in table.items() if key in own}
    if "rewards" in chosen:
        given = chosen["rewards"]
        chosen["rewards"] = tuple(given) if isinstance(given, list) else (given,)
    return chosen, {_RUNNING[key]: value for key, value in table.items() if key in _RUNNING}


def faults_of_tuning(
    recipe: str, table: Mapping[str, Any], chosen: Mapping[str, Any], running: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """What is wrong with them: the key as the file spells it, and words."""
    found: list[tuple[str, str]] = []
    if not isinstance(chosen.get("gradient_checkpointing", False), bool):
        found.append(("gradient-checkpointing", "write true or false"))
    if not all(isinstance(text, str) and text for text in chosen.get("rewards", ())):
        found.append(("reward", "write a list of texts"))
    for check in (lambda: recipe_of(recipe, **chosen), lambda: Running(**running)):
        try:
            check()
        except UsageError as error:
            for fault in re.split(r"; (?=--|give )", str(error).removesuffix(".")):
                said = re.match(r"--([a-z0-9-]+) ", fault)
                words = fault if said is None else fault[said.end() :]
                found.append((said[1] if said else "recipe", in_file_words(words)))
        except TypeError:  # a value that cannot even be compared
            found += [(key, "is of the wrong type") for key in table if isinstance(table[key], list | dict)][:1]
    return found


def counts_steps(recipe: str, chosen: Mapping[str, Any]) -> bool:
    """Whether a fine-tuning with these settings has a number of steps that is known beforehand."""
    return recipe_of(recipe, **chosen).steps is not None


@cache
def _evaluation_kinds() -> Mapping[str, str]:
    from tuneport.scoring.run import evaluate

    return {
        name: str(parameter.annotation)
        for name, parameter in inspect.signature(evaluate).parameters.items()
        if name not in _NOT_OF_EVALUATE
    }


def evaluation_keys() -> tuple[str, ...]:
    """What [evaluate] may hold beside tasks, suite, loss and validation."""
    return tuple(name.replace("_", "-") for name in _evaluation_kinds())


def faults_of_evaluation(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the values of [evaluate], or with those that [paths] shares with it: the key, and words."""
    found = [
        (key, _fault_of_value(key, table[key], table.get("backend", "hf"))) for key in evaluation_keys() if key in table
    ]
    return [(key, fault) for key, fault in found if fault is not None]


def _fault_of_value(key: str, value: object, backend: str) -> str | None:
    kind = _evaluation_kinds()[key.replace("-", "_")]
    if kind.startswith("bool"):
        return None if isinstance(value, bool) else f"is {value!r}; write true or false"
    if "int" in kind:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return None
        if "str" in kind and isinstance(value, str):
            return _refused(key, value, backend)
        return f"is {value!r}; give a whole number from 1 on" + (", or auto" if "str" in kind else "")
    if not isinstance(value, str) or not value:
        return f"is {value!r}; write a text in quotes"
    if key == "variant" and value not in ("auto", "base", "tuned"):
        return f"{value!r}: choose auto, base or tuned"
    if key == "backend" and value not in ("hf", "vllm", "olmes"):
        return f"{value!r}: choose hf, vllm or olmes"
    return _refused(key, value, backend)


def _refused(key: str, value: str, backend: str) -> str | None:
    """What the verbs say of a text where they check it, as they would only when they run."""
    from tuneport.scoring.asking import Asking
    from tuneport.scoring.models import Loading, need_names
    from tuneport.scoring.run import checked_batch_size

    checks: Mapping[str, Callable[[], object]] = {
        "match": lambda: Asking(match=value),
        "batch-size": lambda: checked_batch_size(value),
        "dtype": lambda: need_names(Loading(dtype=value)),
        "device": lambda: need_names(Loading(backend, device=value)),
    }
    return _said(key, checks[key]) if key in checks else None


def fault_of_points(points: int | None, refine: int | None, beyond: float | None) -> str | None:
    """Whether these are more points than `path` takes on one line, in words."""
    from tuneport.diagnosis.points import MOST, how_many

    if how_many(points, refine, beyond) <= MOST:
        return None
    along = "" if beyond is None else f", where a line along Δ goes on to α = {beyond:g}"
    return f"more than {MOST:,} points on one line, refine counted{along}; give fewer"


def faults_of_sources(places: Mapping[str, str], mix: Sequence[str]) -> list[tuple[str, str]]:
    """What is wrong with the names of training data, and with each share of them: the key, and words.

    ``places`` says where each of the data lies, or what `tune` is given of it, by the file's spelling.
    """
    from tuneport.examples.training_data import Share, need_names_apart, parse_share, shares_of

    names, shares = list(places.values()), list[Share]()

    def take(text: str) -> None:
        share = parse_share(text)
        if not share.name.startswith("~"):  # a record tells no place on this machine, and so the step does not know it
            share = replace(share, name=places.get(share.name, share.name.removeprefix(LAB)))
        shares_of(names, [share])
        shares.append(share)

    found = [("data", _said("data", lambda: need_names_apart(names)))]
    found += [("mix", _said("mix", partial(take, text))) for text in mix]
    found.append(("mix", _said("mix", lambda: shares_of(names, shares))))  # one that is named twice
    return [(key, fault) for key, fault in found if fault is not None]


def check_lora(text: str) -> None:
    """Raise `UsageError` unless `tune` takes it as --lora."""
    parse_lora(text)


def check_suite(name: str) -> None:
    """Raise `UsageError` unless there is such a suite."""
    from tuneport.scoring.suites import find_suite

    find_suite(name)


def of_transfer(table: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The choices of every transfer that [transfer] makes, as JSON, and what is wrong with them: the key, and words."""
    chosen = {_OPTIONS.get(key, key.replace("-", "_")): value for key, value in table.items()}
    try:
        Choices(**chosen)
    except UsageError as error:
        return {}, _of_faults(error)
    sides: dict[str, Any] = {name: parse_sides(chosen[name]) for name in ("config", "sidecar") if name in chosen}
    return {**chosen, **sides}, []


def template_names() -> list[str]:
    """The chat templates that come along."""
    from tuneport.examples.chat import template_names as names

    return names()


def _of_faults(error: UsageError) -> list[tuple[str, str]]:
    """The faults of options, each with its key."""
    return [(KEYS.name(fault.option), fault.beside(KEYS)) for fault in error.faults]


def in_file_words(text: str) -> str:
    """A message of the command line's, as it reads in a file: flags without dashes, no full stop."""
    return re.sub(r"(?<![\w-])--([a-z])", r"\1", text).removesuffix(".")


def _said(key: str, check: Callable[[], object]) -> str | None:
    """What a verb's own check says against the value of a key, as it reads in a file; None where it takes it."""
    try:
        check()
    except UsageError as error:
        return in_file_words(str(error)).removeprefix(f"{key} ").removeprefix(f"{key}: ")
    return None


def _spelled(name: str) -> str:
    return "reward" if name == "rewards" else name.replace("_", "-")
