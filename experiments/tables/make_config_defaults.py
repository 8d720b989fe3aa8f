"""Make ``src/tuneport/sidecars/config_defaults.json``: what transformers' config classes know that a config.json does not say.

    python -m experiments.tables.make_config_defaults            write the table
    python -m experiments.tables.make_config_defaults --check    status 1 if the table is not what the installed classes say

One entry for each kind of model, made from its class: defaults, other names of a field, sub-configs, rope, what is computed
from other fields, which fields nothing reads. The entries are tried on the way: a config with one field changed, as it
stands and as the class writes it out, must resolve to the same fields. What does not is noted as ``open``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig
from transformers.configuration_utils import _LEGACY_LAYER_TYPE_REMAP
from transformers.models.auto import modeling_auto

from experiments.tables import config_reads, config_ties
from experiments.tables.config_classes import constants_of, rules_of
from experiments.tables.config_ropes import PARTIAL_KEYS, THETA_KEYS, made_of, plain_json, rope_entry
from tuneport.sidecars import config_kinds
from tuneport.sidecars.config import resolve
from tuneport.sidecars.config_kinds import entry_of
from tuneport.sidecars.three_way import same

TABLE = Path(__file__).resolve().parents[2] / "src" / "tuneport" / "sidecars" / "config_defaults.json"

# Every `transformers.PretrainedConfig` of version 4 had these, and wrote them only where they differed.
OF_VERSION_4 = {
    "add_cross_attention": False,
    "is_decoder": False,
    "output_attentions": False,
    "tie_encoder_decoder": False,
    "torchscript": False,
    "use_bfloat16": False,
}

# Kinds under a name of before, which no class of transformers bears any more.
RENAMED = {
    "RefinedWeb": {
        "now": "falcon",
        "names": {"n_head": "num_attention_heads", "n_head_kv": "num_kv_heads", "n_layer": "num_hidden_layers"},
        "implied": {"new_decoder_architecture": True},
    },
    "RefinedWebModel": {
        "now": "falcon",
        "names": {"n_head": "num_attention_heads", "n_head_kv": "num_kv_heads", "n_layer": "num_hidden_layers"},
        "implied": {},
    },
}

GENERATING = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "MASKED_LM",
)
OF_TEXT = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "MASKED_LM",
    "TEXT_ENCODING",
    "SPEECH_SEQ_2_SEQ",
    "SEQUENCE_CLASSIFICATION",
)  # fmt: skip  (one list)

_COMMON = {field.name for field in dataclasses.fields(PreTrainedConfig)}


def table() -> dict[str, Any]:
    """The table as the installed transformers has it."""
    common = {
        **OF_VERSION_4,
        **{field.name: plain_json(field.default) for field in dataclasses.fields(PreTrainedConfig)},
    }
    generation = GenerationConfig._get_default_generation_params()
    return {
        "common": dict(sorted(common.items())),
        "generation": {name: value for name, value in sorted(generation.items()) if value is not None},
        "layers": dict(_LEGACY_LAYER_TYPE_REMAP),
        "read": {"names": sorted(config_reads.shared())},
        "kinds": dict(sorted({**{kind: entry(kind, one) for kind, one in classes().items()}, **RENAMED}.items())),
    }


def leave_open(made: dict[str, Any]) -> None:
    """Try the entries: note as open what a config says otherwise once its class has written it out."""
    config_kinds._text = lambda: render(made)  # type: ignore[assignment]  # the table in the making, not the one on disk
    for kind, config_class in classes().items():
        for given in ({}, {"num_hidden_layers": 7}):
            bare = made_of(config_class, **given)
            if bare is None:
                continue
            one, other = (
                resolve({"model_type": kind, **given}).values,
                resolve({**plain_json(bare.to_dict()), "model_type": kind}).values,
            )
            own = {name for name in {*one, *other} if not same(one.get(name), other.get(name)) and "." not in name}
            if own - {"transformers_version"}:
                entry = made["kinds"][kind]
                entry["open"] = sorted({*entry.get("open", ()), *own} - {"transformers_version"})


def language_models() -> list[str]:
    """The kinds that write text, one after another or out of an input of their own, or that fill in what is masked."""
    return sorted(
        {kind for family in GENERATING for kind in getattr(modeling_auto, f"MODEL_FOR_{family}_MAPPING_NAMES")}
        & classes().keys()
    )


def committed(kind: str) -> Mapping[str, Any]:
    """The entry of a kind in the table as it lies in the repository."""
    return entry_of(kind)


@functools.cache
def classes() -> Mapping[str, type[PreTrainedConfig]]:
    """The config classes of all models that read or write text, and of what they see and hear with, by their kinds."""
    found: dict[str, type[PreTrainedConfig]] = {}

    def add(kind: str, config_class: type[PreTrainedConfig]) -> None:
        if kind not in found:
            found[kind] = config_class
            for name, inner in parts_of(config_class).items():
                add(name_of(kind, name, inner), inner)

    models = {kind for names in OF_TEXT for kind in getattr(modeling_auto, f"MODEL_FOR_{names}_MAPPING_NAMES")}
    for kind in CONFIG_MAPPING:
        if kind in models or CONFIG_MAPPING[kind].base_config_key:
            add(kind, CONFIG_MAPPING[kind])
    return found


def parts_of(config_class: type[PreTrainedConfig]) -> dict[str, type[PreTrainedConfig]]:
    """The sub-configs of a class, each with the class it has by default."""
    named = {
        name: spec.config_class if issubclass(spec.config_class, PreTrainedConfig) else _mapped(spec.model_type)
        for name, spec in config_class.sub_configs_defaults.items()
    }
    bare = made_of(config_class) or PreTrainedConfig()
    inner = {name: type(value) for name, value in vars(bare).items() if isinstance(value, PreTrainedConfig)}
    return {name: one for name, one in {**named, **inner}.items() if one is not None}


def name_of(kind: str, name: str, inner: type[PreTrainedConfig]) -> str:
    return inner.model_type if _mapped(inner.model_type) in (inner, None) and inner.model_type else f"{kind}.{name}"


def _mapped(kind: str) -> type[PreTrainedConfig] | None:
    return CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401 (its get() loads all classes)


def entry(kind: str, config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    parts = parts_of(config_class)
    rules = rules_of(config_class, parts)
    declared = {
        field.name: plain_json(_default(field))
        for field in dataclasses.fields(config_class)
        if field.name not in _COMMON and field.name not in parts
    }
    declared |= {
        field.name: plain_json(_default(field))
        for field in dataclasses.fields(config_class)
        if field.name in _COMMON and _default(field) != getattr(PreTrainedConfig, field.name)
    }
    aliases = dict(config_class.attribute_map)
    for name in declared.keys() & aliases.keys():  # what is declared under another name of a field is that field
        del declared[name]
        declared[aliases[name]] = plain_json(vars(made_of(config_class) or PreTrainedConfig()).get(aliases[name]))
    if "rope_parameters" in vars(made_of(config_class) or PreTrainedConfig()):
        declared.setdefault("rope_parameters", None)
    by_rule = any(step[0] == "rope_parameters" for step in rules.steps)
    rope = rope_entry(config_class, by_rule) if "rope_parameters" in declared else None
    # A value that a property takes goes where the property puts it, or nowhere.
    set_by = {
        name
        for name, one in inspect.getmembers(config_class, lambda one: isinstance(one, property))
        if one.fset and not hasattr(PreTrainedConfig, name)
    }
    taken = (rules.taken | rules.overwritten | set_by) - {
        "dtype",
        "torch_dtype",
        "per_layer_config",
        "rope_scaling",
        *THETA_KEYS,
        *PARTIAL_KEYS,
        *declared,
    }
    found: dict[str, Any] = {
        "defaults": declared,
        "aliases": aliases,
        "parts": {name: part_entry(kind, config_class, name, inner) for name, inner in parts.items()},
        "flat": spread_part(config_class),
        "rope": rope,
        "steps": rules.steps,
        "taken": sorted(taken),
        **reads(config_class, declared, aliases, parts.values(), rules.taken),
        "open": sorted(rules.open & declared.keys()),
    }
    decides = config_ties.deciding(config_class, GENERATING, parts)
    if decides != config_ties.FIELD:
        found["tied"] = decides or False
    return {
        name: value
        for name, value in found.items()
        if value not in ({}, [], None) or name == "defaults" or (name == "rope" and value is not None)
    }


def reads(
    config_class: type, declared: Mapping[str, Any], aliases: Mapping[str, str], parts: Iterable[type], taken: set[str]
) -> dict[str, list[str]]:
    """Undeclared names that the model's code reads, and declared ones that it does not."""
    asked, mentioned = config_reads.asked(config_class), config_reads.mentioned(config_class) | config_reads.shared()
    if not config_reads.asked(config_class):
        return {"reads": ["*"]}  # a config without a model beside it: who reads it is not known
    through = {aliases.get(name, name) for name in mentioned}
    # The code beside a class reads its sub-configs as well; what these declare is theirs.
    own = {*declared, *aliases, *_COMMON, *(field.name for part in parts for field in dataclasses.fields(part))}
    return {
        "reads": sorted(
            name for name in asked if name not in own and name not in taken and _is_field(name, config_class)
        ),
        "unread": sorted(name for name in declared if name not in through and name != "rope_parameters"),
    }


def _is_field(name: str, config_class: type) -> bool:
    return not name.startswith("_") and not callable(getattr(config_class, name, None)) and not name.endswith("_config")


def part_entry(
    kind: str, config_class: type[PreTrainedConfig], name: str, inner: type[PreTrainedConfig]
) -> dict[str, Any]:
    spec = config_class.sub_configs_defaults.get(name)
    fixed = spec is None or issubclass(spec.config_class, PreTrainedConfig)
    constants = sorted(constants_of(config_class))
    start = dict(spec.init_kwargs) if spec is not None else {}
    found: dict[str, Any] = {
        "kind": name_of(kind, name, inner),
        "fixed": fixed,
        "optional": bool(spec and spec.optional),
        "start": plain_json(start),
    }
    field = _own_number(inner, config_class)
    if not fixed and "model_type" in constants:
        kinds = {}
        for text in constants:
            made = made_of(config_class, **{name: {"model_type": text}})
            if (
                made is not None
                and getattr(made, name).model_type != text
                and text not in (inner.model_type,)
                and _is_kind_like(text)
            ):
                kinds[text] = getattr(made, name).model_type
        found["kinds"] = kinds
    if field:
        found["older"] = [
            text
            for text in constants
            if text.endswith("_config")
            and text not in parts_of(config_class)
            and getattr(getattr(made_of(config_class, **{text: {field: 77}}), name, None), field, None) == 77
        ]
    if start:
        given = getattr(made_of(config_class, **{name: {"model_type": inner.model_type}}), name, None)
        key = next((key for key, value in start.items() if getattr(inner(), key, None) != value), None)
        found["laid_over"] = key is not None and getattr(given, key, None) == start[key]
    return {key: value for key, value in found.items() if value not in (False, {}, [], None)}


def _is_kind_like(text: str) -> bool:
    return text.isidentifier() and text not in ("model_type", "text_config", "vision_config", "audio_config")


def spread_part(config_class: type[PreTrainedConfig]) -> str | None:
    """The sub-config whose fields a class also takes from beside it."""
    return next((name for name, inner in parts_of(config_class).items() if _spreads(config_class, name, inner)), None)


def _spreads(config_class: type[PreTrainedConfig], name: str, inner: type[PreTrainedConfig]) -> bool:
    """Whether a class takes the fields of a sub-config from beside it, where the sub-config itself is missing."""
    field = _own_number(inner, config_class)
    made = made_of(config_class, **{field: 77}) if field else None
    return made is not None and getattr(getattr(made, name, None), field, None) == 77


def _own_number(inner: type[PreTrainedConfig], outer: type[PreTrainedConfig]) -> str | None:
    outers = {field.name for field in dataclasses.fields(outer)} | outer.attribute_map.keys()
    for field in dataclasses.fields(inner):
        if field.name not in outers and type(field.default) is int and made_of(inner, **{field.name: 77}) is not None:
            return field.name
    return None


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def render(entries: Mapping[str, Any]) -> str:
    """The table as text, one kind a line, so that a change of one kind is a change of one line."""
    head = "".join(f"{json.dumps(name)}: {_text(value)},\n" for name, value in entries.items() if name != "kinds")
    kinds = ",\n".join(f"{json.dumps(name)}: {_text(one)}" for name, one in entries["kinds"].items())
    return f'{{{head}"kinds": {{\n{kinds}\n}}}}\n'


def _text(value: Any) -> str:
    return json.dumps(
        PreTrainedConfig._encode_special_floats(value), separators=(",", ":"), sort_keys=True, ensure_ascii=False
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if the table is not up to date")
    check = parser.parse_args().check
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    made = table()
    leave_open(made)
    text = render(made)
    if check and text != TABLE.read_text(encoding="utf-8"):
        sys.stderr.write(
            f"{TABLE.name} is not what the installed transformers says; run python -m experiments.tables.{Path(__file__).stem}\n"
        )
        return 1
    if not check:
        TABLE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{TABLE.name}: {len(made['kinds'])} kinds\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
