"""Check the settings that a study file passes to the commands.

A file spells them as the command line does, without leading dashes; the commands' records decide. Nothing heavy is
imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tuneport.engine.choices import Choices, parse_sides
from tuneport.errors import KEYS, UsageError
from tuneport.options import build, options_of
from tuneport.scoring.evaluate_options import EvaluateOptions
from tuneport.studies.graph.study_inputs import LAB
from tuneport.tuning.recipes import RECIPES, DistilRecipe, TuningRun, recipe_of

_RUNNING = ("save_every", "max_new_tokens", "eval_batch_size")
_APART = ("recipe", "from", "data", "mix", "chat-template", "end-token", "lora", "eval-every")
# `seed` is the study's; what names models, data or places is too; the rest of a run's choices stays with the command.
_NOT_OF_EVALUATE = (
    "models", "tasks", "columns", "out", "suite", "loss", "against", "recovered_gain", "trained_on", "strict", "overwrite", "seed",
)  # fmt: skip
# A study's fine-tunings have data; what learns from another model (distil) names one that the study would have to make.
RECIPES_OF_A_STUDY = tuple(name for name, kind in RECIPES.items() if not issubclass(kind, DistilRecipe))
TRANSFER_TEXTS = ("preset", "drop", "vocabulary", "new-tokens")
TRANSFER_LISTS = ("rule", "row-rule", "config", "sidecar")
_TRANSFER = {
    KEYS.name(name): name
    for name in ("preset", "drop", "vocabulary", "new_tokens", "rules", "row_rules", "config", "sidecar")
}


def _own(recipe: str) -> dict[str, str]:
    """A recipe's options by their keys."""
    return {KEYS.name(one.name): one.name for one in options_of(RECIPES[recipe]) if one.name != "seed"}


def tuning_keys(recipe: str) -> tuple[str, ...]:
    """What [tune] may hold for a recipe."""
    return (*_APART, *map(KEYS.name, _RUNNING), *_own(recipe))


def of_tuning(recipe: str, table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe's settings and the run's, as their fields are called."""
    own, running = _own(recipe), {KEYS.name(name): name for name in _RUNNING}
    chosen = {own[key]: value for key, value in table.items() if key in own}
    if "rewards" in chosen:
        given = chosen["rewards"]
        chosen["rewards"] = tuple(given) if isinstance(given, list) else (given,)
    return chosen, {running[key]: value for key, value in table.items() if key in running}


def faults_of_tuning(recipe: str, chosen: Mapping[str, Any], running: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with them: the key as the file spells it, and words."""
    return [*_faults(lambda: recipe_of(recipe, **chosen)), *_faults(lambda: TuningRun(**running))]


def _faults(check: Callable[[], object]) -> list[tuple[str, str]]:
    """What a record says against its options: the key of each, and words."""
    try:
        check()
    except UsageError as error:
        assert error.faults, error
        return [(KEYS.name(fault.option), fault.beside(KEYS)) for fault in error.faults]
    return []


def counts_steps(recipe: str, chosen: Mapping[str, Any]) -> bool:
    """Whether a fine-tuning with these settings has a number of steps that is known beforehand."""
    return recipe_of(recipe, **chosen).steps is not None


def evaluation_keys() -> tuple[str, ...]:
    """What [evaluate] may hold beside tasks, suite, loss and validation."""
    return tuple(KEYS.name(one.name) for one in options_of(EvaluateOptions) if one.name not in _NOT_OF_EVALUATE)


def faults_of_evaluation(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the values of [evaluate], or with those that [paths] shares with it: the key, and words."""
    given = {key.replace("-", "_"): table[key] for key in evaluation_keys() if key in table}
    return _faults(lambda: build(EvaluateOptions, {"models": ("a model",), **given}, "evaluate"))


def fault_of_points(points: int | None, refine: int | None, beyond: float | None) -> str | None:
    """Whether these are more points than `path` takes on one line, in words."""
    from tuneport.diagnosis.points import MOST, how_many

    if how_many(points, refine, beyond) <= MOST:
        return None
    along = "" if beyond is None else f", because a line along Δ continues to α = {beyond:g}"
    return f"more than {MOST:,} points on one line, including refine{along}; give fewer"


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

    checks: list[Callable[[], object]] = [
        partial(need_names_apart, names),
        *(partial(take, text) for text in mix),
        lambda: shares_of(names, shares),
    ]
    return [fault for check in checks for fault in _faults(check)]


def of_transfer(table: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The choices of every transfer that [transfer] makes, as JSON, and what is wrong with them: the key, and words."""
    chosen = {_TRANSFER[key]: value for key, value in table.items()}
    if faults := _faults(lambda: Choices(**chosen)):
        return {}, faults
    sides: dict[str, Any] = {name: parse_sides(chosen[name]) for name in ("config", "sidecar") if name in chosen}
    return {**chosen, **sides}, []


def template_names() -> list[str]:
    """The chat templates that come along."""
    from tuneport.examples.conversation_template import template_names as names

    return names()
