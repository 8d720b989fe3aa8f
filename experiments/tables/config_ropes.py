"""How a config class fills its rope, found by asking it: from which keys, with which values, for which layer types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

THETA_KEYS = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "global_rope_theta", "local_rope_theta")
PARTIAL_KEYS = ("partial_rotary_factor", "rotary_pct")


def rope_entry(config_class: type[PreTrainedConfig], by_rule: bool) -> dict[str, Any]:
    """How a class fills its rope, found by asking it. ``by_rule``: a rule says what it is where the file is silent."""
    bare = _rope(config_class)
    plain = {"rope_type": "default"}
    if not _rope(config_class, rope_parameters=plain):  # a class that wants more of a rope
        plain = {name: value for name, value in bare.items() if name not in ("rope_theta", "partial_rotary_factor")}
    found: dict[str, Any] = {}
    if by_rule or not _is_layered(bare):
        given = _rope(config_class, rope_parameters=plain)
        given = {"rope_theta": bare.get("rope_theta"), **given}
        filled = {name: given[name] for name in ("rope_theta", "partial_rotary_factor") if given.get(name) is not None}
        found["filled"] = {"": filled} if filled else {}
        keys = {
            name: [
                key
                for key in some
                if value
                in (
                    _rope(config_class, rope_parameters=plain, **{key: value}).get(name),
                    _rope(config_class, **{key: value}).get(name),
                )
            ]
            for name, some, value in (
                ("rope_theta", THETA_KEYS, 12345.0),
                ("partial_rotary_factor", PARTIAL_KEYS, 0.75),
            )
        }
        keys = {name: some for name, some in keys.items() if some}
        if keys != {"rope_theta": ["rope_theta"], "partial_rotary_factor": ["partial_rotary_factor"]}:
            found["keys"] = {"": keys} if keys else {}
    else:
        scaled = _rope(config_class, rope_scaling={"rope_type": "linear", "factor": 8.0})
        found["bare"] = {
            label: {name: value for name, value in rope.items() if name != "rope_theta"} for label, rope in bare.items()
        }
        found["filled"] = {label: {"rope_theta": rope["rope_theta"]} for label, rope in bare.items()}
        found["keys"] = {
            label: {
                "rope_theta": [
                    key
                    for key in THETA_KEYS
                    if _rope(config_class, **{key: 12345.0}).get(label, {}).get("rope_theta") == 12345.0
                ]
            }
            for label in bare
        }
        found["scaled"] = [label for label in sorted(bare) if scaled.get(label, {}).get("factor") == 8.0]
    types = {
        name: _rope(config_class, rope_parameters={"rope_type": name, "mrope_section": [1]}).get("rope_type")
        for name in ("default", "su", "mrope")
    }
    if config_class.convert_rope_params_to_dict.__qualname__.startswith("Phi"):
        types["yarn"] = types["su"]  # both are what it calls longrope
    found["types"] = {name: rope_type for name, rope_type in types.items() if rope_type not in (name, None)}
    return {name: value for name, value in found.items() if value or name == "keys"}


def _rope(config_class: type[PreTrainedConfig], **fields: Any) -> dict[str, Any]:
    made = made_of(config_class, **fields)
    return plain_json(getattr(made, "rope_parameters", None)) or {}


def _is_layered(rope: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) for value in rope.values())


def made_of(config_class: type[PreTrainedConfig], **fields: Any) -> PreTrainedConfig | None:
    try:
        return config_class(**json.loads(json.dumps(fields)))
    except Exception:  # a class refuses what it cannot be, each in its own way
        return None


def plain_json(value: Any) -> Any:
    return json.loads(json.dumps(PreTrainedConfig._encode_special_floats(value), default=str))
