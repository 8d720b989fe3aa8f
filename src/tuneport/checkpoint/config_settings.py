"""What a run sets in a config whatever was merged: the dtype of its weights, the sizes of its vocabularies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneport.checkpoint.config import DTYPE, TEXT_CONFIGS, is_sub_config
from tuneport.checkpoint.config_rope import ROPE


def set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Have a config say that its weights are of ``dtype`` (as transformers writes it), where it says so."""
    # `torch_dtype` is read by every version, `dtype` by none before 4.56.
    present = [key for key in (DTYPE, "torch_dtype") if key in config]
    for key in present or [DTYPE if ROPE in config else "torch_dtype"]:
        config[key] = dtype
    for name, sub in config.items():
        if is_sub_config(name) and isinstance(sub, dict):
            config[name] = sub | {key: dtype for key in (DTYPE, "torch_dtype") if key in sub}


def set_vocab_sizes(config: dict[str, Any], grown: Mapping[int, int]) -> dict[str, int]:
    """Have a config say the new number of rows wherever it said the old one; the fields, dotted, with their values.

    Where it says another number than the weights had (a padded matrix), the text's ``vocab_size`` follows the largest.
    """
    if not grown:
        return {}
    changed = _replace_sizes(config, grown, "")
    if not changed:
        text = next((name for name in TEXT_CONFIGS if isinstance(config.get(name), dict)), None)
        if text is not None:
            config[text] = config[text] | {"vocab_size": max(grown.values())}
        else:
            config["vocab_size"] = max(grown.values())
        changed = {"vocab_size" if text is None else f"{text}.vocab_size": max(grown.values())}
    return changed


def _replace_sizes(config: dict[str, Any], grown: Mapping[int, int], prefix: str) -> dict[str, int]:
    changed: dict[str, int] = {}
    for name, value in config.items():
        if is_sub_config(name) and isinstance(value, dict):
            config[name] = dict(value)
            changed |= _replace_sizes(config[name], grown, f"{prefix}{name}.")
        elif "vocab_size" in name and isinstance(value, int) and value in grown:
            config[name] = changed[prefix + name] = grown[value]
    return changed
