"""The settings that a study's file hands on to the verbs: which there are, and what is wrong with one.

A file spells them as the command line does, without dashes in front; the verbs' own checks decide, so that the two cannot
disagree. Nothing heavy is imported.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from tuneport.errors import UsageError
from tuneport.tune.recipes import RECIPES, Running, parse_lora, recipe_of

_RUNNING = {"save-every": "save_every", "max-new-tokens": "max_new_tokens", "eval-batch-size": "eval_batch_size"}
_APART = ("recipe", "data", "mix", "chat-template", "end-token", "lora", "eval-every")
# `seed` is the study's; what names models, data or places is too; the rest of a run's choices stays with the verb.
_NOT_OF_EVALUATE = (
    "models", "tasks", "out", "suite", "loss", "recovered_gain", "trained_on", "strict", "overwrite", "seed",
)  # fmt: skip
TRANSFER_KEYS = ("drop", "vocabulary", "new-tokens", "rule", "config", "sidecar")


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


@cache
def _evaluation_kinds() -> Mapping[str, str]:
    from tuneport.evaluate.run import evaluate

    return {
        name: str(parameter.annotation)
        for name, parameter in inspect.signature(evaluate).parameters.items()
        if name not in _NOT_OF_EVALUATE
    }


def evaluation_keys() -> tuple[str, ...]:
    """What [evaluate] may hold beside tasks, suite, loss and validation."""
    return tuple(name.replace("_", "-") for name in _evaluation_kinds())


def fault_of_evaluation(key: str, value: object) -> str | None:
    """What is wrong with a value, in words."""
    kind = _evaluation_kinds()[key.replace("-", "_")]
    if kind.startswith("bool"):
        return None if isinstance(value, bool) else f"is {value!r}; write true or false"
    if "int" in kind:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return None
        if "str" in kind and isinstance(value, str) and value.startswith("auto"):
            return None
        return f"is {value!r}; give a whole number from 1 on" + (", or auto" if "str" in kind else "")
    if not isinstance(value, str) or not value:
        return f"is {value!r}; write a text in quotes"
    if key == "match":
        try:
            re.compile(value)
        except re.error as error:
            return f"{value!r} is no regular expression: {error}"
    if key == "variant" and value not in ("auto", "base", "tuned"):
        return f"{value!r}: choose auto, base or tuned"
    if key == "backend" and value not in ("hf", "vllm", "olmes"):
        return f"{value!r}: choose hf, vllm or olmes"
    return None


def check_mix(text: str) -> None:
    """Raise `UsageError` unless `tune` takes it as --mix."""
    from tuneport.tune.data import parse_share

    parse_share(text)


def check_lora(text: str) -> None:
    """Raise `UsageError` unless `tune` takes it as --lora."""
    parse_lora(text)


def check_suite(name: str) -> None:
    """Raise `UsageError` unless there is such a suite."""
    from tuneport.evaluate.suites import find_suite

    find_suite(name)


def of_transfer(table: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of every transfer that [transfer] makes, as JSON. Raises `UsageError` for what `transfer` would refuse."""
    from tuneport.transfer.choices import Choices, parse_rule, parse_side

    chosen = {key.replace("-", "_"): table[key] for key in ("drop", "vocabulary", "new-tokens") if key in table}
    for name, value in chosen.items():
        if not isinstance(value, str):
            raise UsageError(f"{name.replace('_', '-')}: {value!r} is no text.")
    for name in ("rule", "config", "sidecar"):
        given = table.get(name, [])
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise UsageError(f"{name}: {given!r} is no list of texts.")
    if "rule" in table:
        chosen["rules"] = list(table["rule"])
    for name in ("config", "sidecar"):
        if name in table:
            chosen[name] = dict(parse_side(text, f"--{name}") for text in table[name])
    Choices(**{**chosen, "rules": tuple(parse_rule(text) for text in chosen.get("rules", []))})
    return chosen


def check_apart(tests: Sequence[Path], validation: Sequence[Path]) -> None:
    """Raise `UsageError` where an example of the validation data stands in the test."""
    from tuneport.evaluate.examples import read_tasks
    from tuneport.evaluate.leakage import leaked

    rows = leaked(read_tasks(tests), validation)
    if rows:
        told = ", ".join(
            f"{row['count']} of {row['of']} examples of {row['task']} ({row['ids'][0]}, …)" for row in rows
        )
        raise UsageError(
            f"{told} stand in the validation data: selection on the test set is refused; give other examples."
        )


def template_names() -> list[str]:
    """The chat templates that come along."""
    from tuneport.tune.chat import template_names as names

    return names()


def in_file_words(text: str) -> str:
    """A message of the command line's, as it reads in a file: flags without dashes, no full stop."""
    return re.sub(r"(?<![\w-])--([a-z])", r"\1", text).removesuffix(".")


def _spelled(name: str) -> str:
    return "reward" if name == "rewards" else name.replace("_", "-")
