"""`tuneport tune` on the command line: flags become choices, choices go to `tune`, words come back."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from tuneport.commands.printing import Told, told
from tuneport.commands.pushing import pushing
from tuneport.engine.run_options import PushOptions
from tuneport.tuning.recipes import RECIPES, flag, parse_lora, recipe_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb; those of the recipes are made from their choices."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of the model to fine-tune")
    parser.add_argument(
        "--data",
        metavar="DATA",
        action="append",
        required=True,
        help="JSONL or Parquet file, or Hub data set org/name[@REVISION][:SPLIT][?COLUMN=VALUE&FIELD:COLUMN] (only rows with "
        "these values, with fields from these columns), with messages, prompt and completion, or text (sft); prompt, chosen and rejected (dpo); prompt and what rewards need (grpo) (repeatable)",
    )
    parser.add_argument(
        "--mix",
        metavar="NAME=FRACTION|COUNT",
        action="append",
        default=[],
        help="use a part of one --data (repeatable)",
    )
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="sft", help="default: %(default)s")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write; it appears when it is whole")
    parser.add_argument(
        "--chat-template", metavar="NAME|FILE", help="chatml, llama3, tulu or a Jinja file (default: the model's own)"
    )
    parser.add_argument(
        "--end-token", metavar="TOKEN", help="what ends an answer (default: the template's, or the model's)"
    )
    parser.add_argument(
        "--lora",
        metavar="rank=N,…",
        help="train an adapter: rank, alpha, targets=all-linear or names joined by +, rslora=true, save=modules, "
        "tokens=chat, new or names joined by + (whose rows are trained too; default: new ones, and those of a chat template "
        "or end token that sft gives the model)",
    )
    parser.add_argument(
        "--dtype", help="store the weights as bfloat16, float16 or float32 (default: as the model stores them)"
    )
    group = parser.add_argument_group("recipe")
    for name, (kind, help_text) in _recipe_flags().items():
        if kind is bool:
            group.add_argument(flag(name), dest=name, action="store_true", default=None, help=help_text)
        else:
            action = "append" if name == "rewards" else "store"
            group.add_argument(
                flag(name), dest=name, type=kind, action=action, metavar=_METAVARS.get(kind, "X"), help=help_text
            )
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--save-every", metavar="N", type=int, default=500, help="steps between checkpoints to go on from"
    )
    group.add_argument("--eval-every", metavar="N", type=int, help="score the model every N steps, into curve.jsonl")
    group.add_argument("--tasks", metavar="NAME[,NAME…]", help="what to score with --eval-every, as for `evaluate`")
    group.add_argument(
        "--match", metavar="REGEX", help="what counts there is this expression's group, as for `evaluate`"
    )
    group.add_argument(
        "--max-new-tokens", metavar="N", type=int, default=256, help="most tokens of an answer that is scored"
    )
    group.add_argument("--eval-batch-size", metavar="N", type=int, default=16, help="examples that are scored at once")
    group.add_argument("--report-to", choices=["tensorboard", "trackio"], help="show the log there too")
    group.add_argument(
        "--shard-size", metavar="SIZE", default="5GB", help="most bytes in a file (default: %(default)s)"
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an output of tuneport that is there already; anything else stays",
    )
    group.add_argument("--dry-run", action="store_true", help="show the plan and what it needs, and train nothing")


_METAVARS = {int: "N", float: "X", str: "WORD"}


def _recipe_flags() -> dict[str, tuple[type, str]]:
    """Each choice of any recipe: what kind of value it takes, and its help with the defaults."""
    found: dict[str, tuple[type, str]] = {}
    for recipe in RECIPES.values():
        for choice in fields(recipe):
            if choice.name in found:
                continue
            having = {name: kind for name, kind in RECIPES.items() if choice.name in {f.name for f in fields(kind)}}
            defaults = {
                name: next(f.default for f in fields(kind) if f.name == choice.name) for name, kind in having.items()
            }
            found[choice.name] = (_kind(str(choice.type)), f"{choice.metadata['help']}{_defaults(defaults)}")
    return found


def _kind(annotation: str) -> type:
    """The type that a flag's text becomes, from a field's annotation (a text, as annotations are postponed)."""
    for name, kind in (("bool", bool), ("float", float), ("int", int)):
        if annotation.startswith(name):
            return kind
    return str


def _defaults(by_recipe: dict[str, Any]) -> str:
    shown = {name: _shown(value) for name, value in by_recipe.items() if value is not None and value is not False}
    if not shown:
        return "" if len(by_recipe) == len(RECIPES) else f" ({', '.join(by_recipe)})"
    if len(shown) == len(RECIPES) and len(set(shown.values())) == 1:
        return f" (default: {next(iter(shown.values()))})"
    return f" (default: {', '.join(f'{name} {value}' for name, value in shown.items())})"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _call(options: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line says; what is to be shown, as the other verbs give it."""
    from tuneport.examples.training_data import parse_share
    from tuneport.tuning.recipes import Running

    names = {choice.name for kind in RECIPES.values() for choice in fields(kind)}
    given = {name: getattr(options, name) for name in sorted(names) if getattr(options, name) is not None}
    if "rewards" in given:
        given["rewards"] = tuple(given["rewards"])
    recipe = recipe_of(options.recipe, **given)
    choices: dict[str, Any] = {
        "mix": [parse_share(text) for text in options.mix],
        "chat_template": options.chat_template,
        "end_token": options.end_token,
        "lora": None if options.lora is None else parse_lora(options.lora),
        "dtype": options.dtype,
        "running": Running(
            save_every=options.save_every,
            eval_every=options.eval_every,
            tasks=tuple(name for name in (options.tasks or "").split(",") if name),
            match=options.match,
            max_new_tokens=options.max_new_tokens,
            eval_batch_size=options.eval_batch_size,
            report_to=options.report_to,
            overwrite=options.overwrite,
            shard_size=options.shard_size,
        ),
    }
    if options.dry_run:
        from tuneport.tuning.run import rehearse

        return rehearse(options.model, options.data, recipe, **choices)
    from tuneport.tuning.run import tune

    done = tune(options.model, options.data, recipe, out=options.out, **choices)
    outcome = done.record["outcome"]
    words = f"{done.out}: already done" if done.already_done else f"{done.out}: done"
    words += f", {outcome['steps']} steps, loss {outcome['final_loss']:.4f}, {outcome['seconds']:.0f} s"
    lost = done.record.get("rounding") or {}  # records of before have none
    if lost.get("error"):
        words += f", rounding took {lost['error']:.2g} of ‖Δ‖"
    return {
        "out": str(done.out),
        "already_done": done.already_done,
        "outcome": outcome,
        "rounding": {name: lost[name] for name in ("error", "unchanged", "nonzero")} if lost else None,
        "warnings": list(done.warnings),
        "words": words,
    }


RECORDS: tuple[type, ...] = (PushOptions,)


@pushing
def call(options: argparse.Namespace) -> Told:
    """Run the command."""
    return told(_call(options))
