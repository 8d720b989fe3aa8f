"""Writes ``src/tuneport/pairing/spellings.json``: the names that transformers reads as one model.

In come transformers' own conversions (``conversion_mapping.py``) and its classes of language models, made without weights;
out goes, for each class, which rules rename, join or split what a checkpoint stores, where they hold, and the same
backwards. Run it after an upgrade of transformers (``python -m experiments.tables.make_spellings``); a test compares the committed data
with the installed library.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "src" / "tuneport" / "pairing" / "spellings.json"

# What training tools leave in names: torch.compile, DataParallel and DeepSpeed, FSDP, activation checkpointing; and before all
# names only: peft (weights saved while its wrapper was still around them), TRL's models with a value head.
WRAPPERS = (
    *("_orig_mod.", "module.", "_fsdp_wrapped_module.", "_fpw_module.", "_checkpoint_wrapped_module."),
    "_forward_module.",
)
WRAPPERS_IN_FRONT = ("base_model.model.", "pretrained_model.")
# Text models that have the very tensors of a multimodal kind's own text part, and from which such parts are trained; read from
# the classes (modular_*.py).
TWINS = {
    "glm4v_text": "glm4",
    "granite_docling_text": "granite",
    "molmo2_text": "qwen3",
    "paddleocr_vl_text": "ernie4_5",
    "qwen2_5_omni_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_omni_moe_text": "qwen3_moe",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_vl_text": "qwen3",
}
# What a config needs besides its defaults so that its class can be made.
SETTINGS: dict[str, dict[str, Any]] = {
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model"}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense"] + ["sparse"] * 31, "n_routed_experts": 8}},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "emu3": {"vocabulary_map": {"<|extra_200|>": 3, "<image>": 4}},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl": {"text_config": {"head_dim": 128}},
    "lfm2_moe": {"layer_types": ["full_attention"] * 32},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 2,
        "indexer_head_dim": 128,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
}


def data() -> tuple[dict[str, Any], dict[str, str]]:
    """The data as the installed transformers has them, and the classes that could not be made, with the reason."""
    import torch
    import transformers

    classes: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    texts: dict[str, str] = {}
    failed: dict[str, str] = {}
    used: dict[str, None] = {}
    text_models = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    for kind, name in language_models():
        try:
            config = transformers.CONFIG_MAPPING[kind](**SETTINGS.get(kind, {}))
            text = config.get_text_config(decoder=True).model_type
            if text != kind == config.model_type and (text in text_models or text in TWINS):
                texts[kind] = text
            with torch.device("meta"):
                model = getattr(transformers, name)(config)
        except Exception as error:
            # Defaults that are no model fail in every way there is; the class is listed, and has no rules.
            failed[f"{kind} {name}"] = f"{type(error).__name__}: {str(error).strip()[:80]}"
            continue
        kinds.setdefault(kind, name)
        if name in classes:
            continue
        parts = [[scope, path, kind, key] for scope, path, kind, key in parts_of(model)]
        if not any(key for *_, key in parts) and not any(path for _, path, *_ in parts):
            parts = []
        classes[name] = {"prefix": model.base_model_prefix, "parts": parts}
        used |= {key: None for *_, key in parts if key}
    bare = {
        kind: key
        for kind, name in transformers.models.auto.modeling_auto.MODEL_MAPPING_NAMES.items()
        if (key := rules_key(name if isinstance(name, str) else name[0], kind)) is not None
    }
    bare = {kind: key for kind, key in sorted(bare.items()) if key in used or kind in kinds}
    rules = {key: rules_of(key) for key in sorted({*used, *bare.values(), "legacy"})}
    entries = {
        "transformers": transformers.__version__,
        "wrappers": list(WRAPPERS),
        "wrappers_in_front": list(WRAPPERS_IN_FRONT),
        "prefixes": sorted({entry["prefix"] + "." for entry in classes.values() if entry["prefix"]}),
        "twins": TWINS,
        "texts": dict(sorted(texts.items())),
        "kinds": {kind: name for kind, name in sorted(kinds.items()) if classes[name]["parts"]},
        "bare": bare,
        "classes": {name: entry for name, entry in sorted(classes.items()) if entry["parts"]},
        "rules": rules,
    }
    return entries, failed


def language_models() -> Iterator[tuple[str, str]]:
    """Model types and their classes: those that generate text, from text or from more than that."""
    from transformers.models.auto import modeling_auto as auto

    found: dict[tuple[str, str], None] = {}
    for mapping in (
        auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    ):
        for kind, names in mapping.items():
            for name in [names] if isinstance(names, str) else names:
                found[kind, name] = None
    return iter(found)


def parts_of(model: Any) -> Iterator[tuple[str | None, str | None, str, str | None]]:
    """Scope, place in the config, model type and rules of each model within a model, as transformers collects them.

    The scope is None for the whole. A part without rules counts if another kind could stand in its place
    (`conversion_mapping.get_model_conversion_mapping`).
    """
    from transformers import PreTrainedModel

    seen: dict[str, list[str]] = {}
    paths = dict(config_paths(model.config, ""))
    for name, part in model.named_modules():
        if not isinstance(part, PreTrainedModel):
            continue
        own, kind = type(part).__name__, part.config.model_type
        if covered(name, seen.get(own, ())):
            continue
        key = own if rules_list(own) is not None else None
        if key is None and (covered(name, seen.get(kind, ())) or rules_list(kind) is None):
            if name and id(part.config) in paths and not covered(name, seen.get("in " + kind, ())):
                seen.setdefault("in " + kind, []).append(name)
                yield scope_of(model, name), paths[id(part.config)], kind, None
            continue
        yield scope_of(model, name), paths.get(id(part.config)) if name else None, kind, key or kind
        seen.setdefault(own, []).append(name)
        if key is None:
            seen.setdefault(kind, []).append(name)


def covered(name: str, seen: Sequence[str]) -> bool:
    return any(above == "" or name.startswith(above + ".") for above in seen)


def scope_of(model: Any, name: str) -> str | None:
    return str(name.removeprefix(model.base_model_prefix).removeprefix(".")) if name else None


def config_paths(config: Any, path: str) -> Iterator[tuple[int, str]]:
    """Each config within a config, by identity: where it stands."""
    for name in config.sub_configs:
        inner = getattr(config, name, None)
        if inner is not None and hasattr(inner, "sub_configs"):
            yield id(inner), path + name
            yield from config_paths(inner, f"{path}{name}.")


def rules_list(key: str) -> list[Any] | None:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    found: list[Any] | None = get_checkpoint_conversion_mapping(key)
    return found


def rules_key(name: str, kind: str) -> str | None:
    """Under which name transformers has the rules of a class: its own, or its model type."""
    return name if rules_list(name) is not None else kind if rules_list(kind) is not None else None


def rules_of(key: str) -> dict[str, Any]:
    """A list of rules as transformers applies it when it loads, and the one that undoes it, in the order of saving."""
    rules = rules_list(key)
    assert rules is not None, key
    return {
        "load": [rule_entry(rule) for rule in rules],
        "save": [rule_entry(rule.reverse_transform()) for rule in reversed(rules)],
    }


def rule_entry(rule: Any) -> dict[str, Any]:
    """One rule: the compiled expression, what each of its branches is called, and what takes its place."""
    entry: dict[str, Any] = {"match": rule.compiled_sources.pattern, "to": rule.target_patterns}
    kind = type(rule).__name__
    if kind == "WeightConverter":
        entry |= {"from": rule.source_patterns, "ops": [operation(op) for op in rule.operations]}
    elif kind == "GroupWeightRename":
        entry["each"] = True
    elif kind == "Inkling2IndexOffsetWeightRename":
        entry["offset"] = rule.offset
    elif kind == "PrefixChange":
        entry["prefix"] = True
    else:
        assert kind == "WeightRenaming", kind
    return entry


def operation(op: Any) -> dict[str, Any]:
    return {
        "op": type(op).__name__,
        **{name: value for name, value in vars(op).items() if value is not None and value is not False},
    }


def render(entries: Mapping[str, Any]) -> str:
    """The data as text, one entry of a table a line, so that a change of one kind is a change of one line."""
    lines = []
    for name, value in entries.items():
        if isinstance(value, dict) and name in ("classes", "rules"):
            inner = ",\n".join(f"    {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
            lines.append(f"  {json.dumps(name)}: {{\n{inner}\n  }}")
        else:
            lines.append(f"  {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write the data, and say what could not be read."""
    entries, failed = data()
    DATA.write_text(render(entries), encoding="utf-8")
    sys.stdout.write(f"{DATA.name}: {len(entries['classes'])} classes, {len(entries['rules'])} lists of rules\n")
    for kind, reason in failed.items():
        sys.stdout.write(f"  {kind}: no model from its defaults ({reason})\n")


if __name__ == "__main__":
    main()
