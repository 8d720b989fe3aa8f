"""Rotary positions, one value with two spellings.

In comes a config, out goes its rope as transformers 5 has it (``rope_parameters``), whichever of ``rope_theta``,
``rope_scaling``, ``rope_parameters`` and their older kin it is written with; and back into the target's spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneport.errors import CheckpointError

ROPE = "rope_parameters"
# Later ones win as the name under which the field is shown: rope_scaling says more than rope_theta.
ROPE_KEYS = (
    "partial_rotary_factor",
    "rotary_pct",
    "rotary_emb_base",
    "rope_local_base_freq",
    "rope_theta",
    "rope_scaling",
    ROPE,
)
_THETA_KEYS = ("rope_theta", "rotary_emb_base")
_PARTIAL_KEYS = ("partial_rotary_factor", "rotary_pct")
# Kinds whose range counts from the length of pretraining, which defaults to the model's length.
_STRETCHED = ("llama3", "yarn", "longrope")
_FULL, _SLIDING = "full_attention", "sliding_attention"


def rope_of(config: Mapping[str, Any], default: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A config's rope as transformers 5 spells it, by layer type where layers differ; None for no rope.

    ``default`` is the rope of a bare config of this model type, None where the type has none or is unknown.
    """
    written = config.get("rope_scaling") or config.get(ROPE)
    if written is not None and not isinstance(written, dict):
        key = "rope_scaling" if config.get("rope_scaling") else ROPE
        raise CheckpointError(f"config.json: `{key}` is {written!r}; an object or null is expected there.")
    if written is None and default is None and not any(config.get(key) is not None for key in ROPE_KEYS):
        return None
    if (written and _is_nested(written)) or (default and _is_nested(default)):
        return _nested(config, written or {}, default or {})
    parameters = dict(written or default or {})
    theta, partial = _first(config, _THETA_KEYS), _first(config, _PARTIAL_KEYS)
    if written is None:
        parameters |= {
            key: value
            for key, value in (("rope_theta", theta), ("partial_rotary_factor", partial))
            if value is not None
        }
    bare = default or {}
    parameters.setdefault("rope_theta", bare.get("rope_theta") if theta is None else theta)
    parameters.setdefault("partial_rotary_factor", bare.get("partial_rotary_factor") if partial is None else partial)
    return _settled(parameters, config)


def spell_rope(parameters: Mapping[str, Any] | None, target: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that say ``parameters`` in the spelling of ``target``, a config.json; null takes a key away."""
    old_keys = [key for key in ROPE_KEYS if key in target and key != ROPE]
    if parameters is None:
        return dict.fromkeys(old_keys + [ROPE] * (ROPE in target))
    if ROPE in target or not old_keys:
        return {ROPE: dict(parameters)} | dict.fromkeys(old_keys)
    theta_key = "rotary_emb_base" if "rotary_emb_base" in target else "rope_theta"
    partial_key = "rotary_pct" if "rotary_pct" in target else "partial_rotary_factor"
    scaling: dict[str, Any]
    if _is_nested(parameters):
        full, sliding = dict(parameters.get(_FULL) or {}), dict(parameters.get(_SLIDING) or {})
        spelling = {theta_key: full.pop("rope_theta", None)}
        if "rope_local_base_freq" in target:
            spelling["rope_local_base_freq"] = sliding.pop("rope_theta", None)
        scaling = full
    else:
        scaling = dict(parameters)
        spelling = {theta_key: scaling.pop("rope_theta", None)}
    partial = scaling.pop("partial_rotary_factor", None)
    if partial is not None or partial_key in target:
        spelling[partial_key] = 1.0 if partial is None else partial
    plain = scaling.get("rope_type", "default") == "default" and len(scaling) <= 1
    return spelling | {"rope_scaling": None if plain else scaling}


def _nested(config: Mapping[str, Any], written: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    layered = _is_nested(written)
    default = default if _is_nested(default) else {}
    theta = _first(config, _THETA_KEYS)
    rope: dict[str, Any] = {}
    for kind in {**default, **(written if layered else {})}:
        bare = default.get(kind) or {}
        own = written.get(kind) if layered else (written if kind == _FULL else None)
        if own is not None and not isinstance(own, dict):
            raise CheckpointError(f"config.json: `{ROPE}` has {own!r} for {kind}; an object or null is expected there.")
        parameters = dict(own or {})
        own_theta = theta
        if kind == _SLIDING and "rope_local_base_freq" in config:
            own_theta = config["rope_local_base_freq"]
        elif kind == _SLIDING and (default.get(_FULL) or {}).get("rope_theta") != bare.get("rope_theta"):
            own_theta = None  # Gemma 3: `rope_theta` is that of the full-attention layers
        parameters.setdefault("rope_theta", bare.get("rope_theta") if own_theta is None else own_theta)
        rope[kind] = _settled(parameters, config)
    return rope


def _settled(parameters: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if config.get("model_type") == "phi3" and kind in ("su", "yarn"):
        kind = "longrope"  # two earlier names of it
    settled = {key: value for key, value in parameters.items() if value is not None and key != "type"}
    settled["rope_type"] = kind
    if settled.get("partial_rotary_factor") == 1:
        del settled["partial_rotary_factor"]
    if kind in _STRETCHED:
        length = config.get("original_max_position_embeddings") or settled.get("original_max_position_embeddings")
        settled["original_max_position_embeddings"] = length or config.get("max_position_embeddings")
    return settled


def _is_nested(parameters: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) or key.endswith("_attention") for key, value in parameters.items())


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)
