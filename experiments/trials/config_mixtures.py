"""Every kind of model that transformers has, its config written in four ways, as base, tuned and target in all mixtures.

    python -m experiments.trials.config_mixtures [--kinds NAME,…]      writes docs/results/configs.json

A config that was only written anew must not stop a transfer; a change of how the model computes must, whoever wrote it.
The ways are: defaults left out; all fields (``to_dict``); as transformers 5 saves it (``to_diff_dict``); in the spelling of
transformers 4, without what it did not know and, where its class still reads that, with the text's fields beside the whole's.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig

from experiments.tables import make_config_defaults as table
from experiments.tables.config_ropes import made_of, plain_json
from tuneport.sidecars.config_merge import ConfigChoices, merge_config
from tuneport.sidecars.three_way import MergeFindings, Three
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.token_changes import TokenChanges

RESULT = Path(__file__).resolve().parents[2] / "docs" / "results" / "configs.json"
Config = dict[str, Any]

# What a fine-tuning might have done to the model: each is tried where the class has the field and its code reads it.
CHANGES = (
    "rope_theta",
    "hidden_act",
    "num_attention_heads",
    "num_hidden_layers",
    "sliding_window",
    "rms_norm_eps",
    "layer_norm_eps",
    "norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "num_experts_per_tok",
    "query_pre_attn_scalar",
)  # fmt: skip  (one list)


def ways(kind: str, made: PreTrainedConfig, given: Config) -> dict[str, Config]:
    """One config, written in four ways; those of them that transformers itself reads as that config."""
    full, saved = plain_json(made.to_dict()), plain_json(made.to_diff_dict())
    found = {"left out": given, "all fields": full, "as saved": saved, "as before": as_before(kind, saved, given, True)}
    if not reads_as(made, found["as before"]):
        found["as before"] = as_before(kind, saved, given, False)
    return {name: {**config, "model_type": kind} for name, config in found.items() if reads_as(made, config)}


def reads_as(made: PreTrainedConfig, config: Config) -> bool:
    again = made_of(type(made), **config)
    return again is not None and plain_json({**again.to_dict(), "dtype": None}) == plain_json(
        {**made.to_dict(), "dtype": None}
    )


def as_before(kind: str, saved: Config, given: Config, silent: bool) -> Config:
    """A config as transformers 4 wrote it. ``silent``: without the fields of which the class makes up the value itself."""
    config_class = table.classes()[kind]
    made_up = {field.name for field in dataclasses.fields(config_class) if field.default is None and silent}
    before: Config = {}
    parts = table.parts_of(config_class)
    for name, value in saved.items():
        if name in parts and isinstance(value, dict):
            inner = table.name_of(kind, name, parts[name])
            known = value["model_type"] if value.get("model_type") in table.classes() else inner
            before[name] = as_before(known, value, given.get(name, {}), silent)
        elif name in ("dtype", "id2label", "label2id", "per_layer_config"):
            continue
        elif name == "rope_parameters":
            before |= rope_before(value, config_class)
        elif name not in made_up or name in given:
            before[name] = value
    flat = table.spread_part(config_class)
    if flat is not None and isinstance(before.get(flat), dict):
        text = before.pop(flat)
        before = {**{name: value for name, value in text.items() if name != "model_type"}, **before}
    return (
        {**before, "torch_dtype": "bfloat16", "transformers_version": "4.50.0"}
        if "transformers_version" in saved
        else before
    )


def rope_before(rope: Any, config_class: type) -> Config:
    if not rope:
        return {}
    theta = "rotary_emb_base" if "NeoX" in config_class.__name__ else "rope_theta"
    partial = "rotary_pct" if "NeoX" in config_class.__name__ else "partial_rotary_factor"
    if any(isinstance(value, dict) or value is None for value in rope.values()):
        default = getattr(config_class, "default_theta", None)
        if not isinstance(default, dict) or set(rope) != {"full_attention", "sliding_attention"}:
            return {"rope_parameters": rope}  # newer than transformers 4
        keys = (
            ("global_rope_theta", "local_rope_theta")
            if "ModernBert" in config_class.__name__
            else ("rope_theta", "rope_local_base_freq")
        )
        return {
            keys[0]: rope["full_attention"]["rope_theta"],
            keys[1]: rope["sliding_attention"]["rope_theta"],
            "rope_scaling": None,
        }
    rest = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
    before = {theta: rope.get("rope_theta"), "rope_scaling": rest if len(rest) > 1 else None}
    return before | ({partial: rope["partial_rotary_factor"]} if "partial_rotary_factor" in rope else {})


def altered(kind: str) -> Iterator[tuple[str | None, Config]]:
    """Configs of a kind: its defaults, and each with one field changed of which a change must stop."""
    config_class = table.classes()[kind]
    bare = made_of(config_class)
    if bare is None:
        return
    yield None, {}
    inner = next(
        (
            name
            for name in ("text_config", "thinker_config", "decoder")
            if isinstance(getattr(bare, name, None), PreTrainedConfig)
        ),
        None,
    )
    owner = bare if inner is None else getattr(bare, inner)
    entry = table.committed(owner.model_type)
    for field in CHANGES:
        changed = change(owner, field, entry)
        if changed is not None:
            yield field, changed if inner is None else {inner: {"model_type": owner.model_type, **changed}}


def change(owner: PreTrainedConfig, field: str, entry: Mapping[str, Any]) -> Config | None:
    name = entry.get("aliases", {}).get(field, field)
    if field == "rope_theta":
        return (
            {"rope_parameters": {**owner.rope_parameters, "rope_theta": 777.0}}
            if (getattr(owner, "rope_parameters", None) or {}).get("rope_theta")
            else None
        )
    value = vars(owner).get(name)
    if value is None or name in entry.get("unread", ()) or name not in entry.get("defaults", ()):
        return None
    if isinstance(value, bool):
        return {name: not value}
    if isinstance(value, str):
        return {name: "relu" if value != "relu" else "gelu"}
    return {name: value * 2} if isinstance(value, int | float) and value else None


def refusals(base: Config, tuned: Config, target: Config) -> list[str]:
    findings = MergeFindings()
    merge_config(Three(base, tuned, target), ConfigChoices({}, None, None), TokenNames(None, TokenChanges()), findings)
    return findings.refusals


def measure(kinds: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"kinds": 0, "mixtures": 0, "refused": {}, "changes": 0, "stopped": 0, "passed": {}}
    for kind in kinds:
        config_class = table.classes()[kind]
        spelled: dict[str | None, dict[str, Config]] = {}
        for field, given in altered(kind):
            made = made_of(config_class, **given)
            # A class that undoes a change (mT5 ties whatever its config says) was not changed.
            if made is not None and (field is None or not reads_as(made, {})):
                spelled[field] = ways(kind, made, given)
        if None not in spelled:
            continue
        found["kinds"] += 1
        plain = spelled.pop(None)
        for names in itertools.product(plain, repeat=3):
            found["mixtures"] += 1
            told = refusals(*(copy.deepcopy(plain[name]) for name in names))
            if told:
                found["refused"].setdefault(kind, []).append([*names, told])
        for field, changed in spelled.items():
            for name, tuned in changed.items():
                for way in plain:
                    found["changes"] += 1
                    if refusals(copy.deepcopy(plain[way]), copy.deepcopy(tuned), copy.deepcopy(plain["left out"])):
                        found["stopped"] += 1
                    else:
                        found["passed"].setdefault(kind, []).append([field, way, name])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", help="only these, separated by commas; prints what was refused and writes nothing")
    only = parser.parse_args().kinds
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    found = measure(only.split(",") if only else table.language_models())
    if only:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return 0
    short = {
        **found,
        "refused": {kind: len(all_of) for kind, all_of in found["refused"].items()},
        "passed": {kind: sorted({field for field, *_ in all_of}) for kind, all_of in found["passed"].items()},
    }
    RESULT.write_text(
        json.dumps({"transformers": transformers.__version__, **short}, indent=1) + "\n", encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
