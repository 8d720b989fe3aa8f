"""What a run always sets in a config: the dtype of its weights, the sizes of its vocabularies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuneport.sidecars.config import DTYPE, TEXT_CONFIGS, resolve
from tuneport.sidecars.rope import ROPE


def set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Have a config say that its weights are of ``dtype`` (as transformers writes it), where it says so."""
    for prefix, part in _parts_of(config):
        # `torch_dtype` is read by every version, `dtype` by none before 4.56.
        present = [key for key in (DTYPE, "torch_dtype") if key in part]
        for key in present or ([DTYPE if ROPE in part else "torch_dtype"] if not prefix else []):
            part[key] = dtype


def set_vocab_sizes(config: dict[str, Any], grown: Mapping[int, int]) -> dict[str, int]:
    """Have a config say the new number of rows wherever it said the old one; the fields, dotted, with their values.

    Where it says another number than the weights had (a padded matrix), the text's ``vocab_size`` follows the largest.
    """
    if not grown:
        return {}
    changed: dict[str, int] = {}
    for prefix, part in _parts_of(config):
        for name, value in part.items():
            if "vocab_size" in name and isinstance(value, int) and value in grown:
                part[name] = changed[prefix + name] = grown[value]
    if not changed:
        text = next((name for name in TEXT_CONFIGS if isinstance(config.get(name), dict)), None)
        (config if text is None else config[text])["vocab_size"] = max(grown.values())
        changed = {"vocab_size" if text is None else f"{text}.vocab_size": max(grown.values())}
    return changed


def _parts_of(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config and the sub-configs that are in it, under whatever names its kind has for them, with their dotted names."""
    for place in dict.fromkeys(resolve(config).homes.values()):
        part = config
        for key in place:
            part = part[key]
        yield "".join(f"{key}." for key in place), part
