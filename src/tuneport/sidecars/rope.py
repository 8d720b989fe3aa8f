"""Rotary positions: one value with two spellings.

A config's rope is read as in transformers 5 (``rope_parameters``), from ``rope_theta``, ``rope_scaling``,
``rope_parameters`` or their older forms, and written back in the target's spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneport.errors import CheckpointError
from tuneport.files.printable import quoted

ROPE = "rope_parameters"
# Later ones win as the name under which the field is shown: rope_scaling says more than rope_theta.
ROPE_KEYS = (
    "partial_rotary_factor",
    "rotary_pct",
    "rotary_emb_base",
    "rope_local_base_freq",
    "local_rope_theta",
    "global_rope_theta",
    "rope_theta",
    "rope_scaling",
    ROPE,
)
# What fills a rope that leaves something out, where the table does not say otherwise.
_FILLED_BY = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}
# Kinds whose range counts from the length of pretraining, which defaults to the model's length.
_STRETCHED = ("llama3", "yarn", "longrope")
# Kinds that compute from the length of the model itself, if they have no factor.
_OF_THE_LENGTH = ("dynamic", "yarn", "longrope")
_FULL = "full_attention"


def rope_of(config: Mapping[str, Any], kind: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A config's rope as transformers 5 spells it, by layer type where layers differ; None for no rope.

    ``kind`` is what the table says of the model type's rope, None where it says nothing. ``bare`` is the rope of a config
    that is silent; ``keys`` and ``filled`` say, by layer type (``""`` for all), which keys of the config and which values
    stand for what a rope leaves out; ``scaled`` are the layer types that ``rope_scaling`` is for; ``types`` has older names
    of kinds of rope.
    """
    if kind is None and not any(config.get(key) is not None for key in ROPE_KEYS):
        return None
    kind = kind or {}
    bare: Mapping[str, Any] = kind.get("bare") or {}
    scaling = config.get("rope_scaling")
    written = scaling or config.get(ROPE)
    if written is not None and not isinstance(written, dict):
        raise _no_object("rope_scaling" if scaling else ROPE, written)
    if not _is_nested(bare) and not _is_nested(written or {}):
        return _settled(written or bare, "", config, kind)
    rope: dict[str, Any] = {}
    layered = _is_nested(written or {})
    for label in {**bare, **(written if layered and written else {})}:
        own = (written or {}).get(label) if layered else {}
        if own is None and not bare.get(label):
            continue  # layers without positions
        if own is not None and not isinstance(own, dict):
            if label in ("rope_theta", "rope_type", "partial_rotary_factor"):
                continue  # left beside the layers by an earlier version, and read by none
            raise _no_object(f"{ROPE}.{label}", own)
        if not layered:
            own = {**bare[label], **((written or {}) if label in kind.get("scaled", ()) else {})}
        rope[label] = _settled(own or bare.get(label) or {}, label, config, kind)
    return rope


def computes_from_length(rope: Any) -> bool:
    """Whether a rope, as `rope_of` gives it, depends on ``max_position_embeddings``."""
    if not isinstance(rope, dict):
        return False
    layered = [value for value in rope.values() if isinstance(value, dict)]
    return any(
        one.get("rope_type") in _OF_THE_LENGTH and (one["rope_type"] == "dynamic" or one.get("factor") is None)
        for one in layered or [rope]
    )


def spell_rope(parameters: Mapping[str, Any] | None, target: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that say ``parameters`` in the spelling of ``target``, a config.json; null takes a key away."""
    old_keys = [key for key in ROPE_KEYS if key in target and key != ROPE]
    if parameters is None:
        return dict.fromkeys(old_keys + [ROPE] * (ROPE in target))
    if ROPE in target or not old_keys:
        return {ROPE: dict(parameters)} | dict.fromkeys(old_keys)
    theta_key = next((key for key in ("rotary_emb_base", "global_rope_theta") if key in target), "rope_theta")
    partial_key = "rotary_pct" if "rotary_pct" in target else "partial_rotary_factor"
    scaling: dict[str, Any]
    if _is_nested(parameters):
        full, sliding = dict(parameters.get(_FULL) or {}), dict(parameters.get("sliding_attention") or {})
        spelling = {theta_key: full.pop("rope_theta", None)}
        for key in ("rope_local_base_freq", "local_rope_theta"):
            if key in target:
                spelling[key] = sliding.get("rope_theta")
        scaling = full
    else:
        scaling = dict(parameters)
        spelling = {theta_key: scaling.pop("rope_theta", None)}
    partial = scaling.pop("partial_rotary_factor", None)
    if partial is not None or partial_key in target:
        spelling[partial_key] = 1.0 if partial is None else partial
    plain = scaling.get("rope_type", "default") == "default" and len(scaling) <= 1
    return spelling | {"rope_scaling": None if plain else scaling}


def _settled(own: Mapping[str, Any], label: str, config: Mapping[str, Any], kind: Mapping[str, Any]) -> dict[str, Any]:
    filled: Mapping[str, Any] = kind.get("filled", {})
    parameters = dict(filled.get(label, filled.get("", {})))
    for name, keys in (kind["keys"].get(label, {}) if "keys" in kind else _FILLED_BY).items():
        for key in keys:
            if config.get(key) is not None:
                parameters[name] = config[key]
    parameters |= {key: value for key, value in own.items() if value is not None}
    rope_type = parameters.get("rope_type") or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    parameters["rope_type"] = (
        kind.get("types", {}).get(rope_type, rope_type) if isinstance(rope_type, str) else rope_type
    )
    if parameters.get("partial_rotary_factor") == 1:
        del parameters["partial_rotary_factor"]
    if parameters["rope_type"] in _STRETCHED:
        length = config.get("original_max_position_embeddings") or parameters.get("original_max_position_embeddings")
        parameters["original_max_position_embeddings"] = length or config.get("max_position_embeddings")
    return parameters


def _is_nested(parameters: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) or key.endswith("_attention") for key, value in parameters.items())


def _no_object(key: str, found: Any) -> CheckpointError:
    return CheckpointError(f"config.json: {quoted(key)} is {found!r}; it must be an object or null.")
