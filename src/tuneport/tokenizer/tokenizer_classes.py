"""What the tokenizer classes of transformers 5 build themselves, from ``tokenizer_classes.json``.

Such a class reads the vocabulary and the post-processor of a tokenizer.json and creates the other sections itself.
Saved again, the file has the class's sections, which no fine-tuning put there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

_TEMPLATES_OF_VERSION_4 = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer")


def built_by_class(code: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sections, by their names in `Sections`, that a class makes of a tokenizer_config.json; {} for one that makes none."""
    entry = _table().get(code or "")
    if entry is None:
        return {}
    given = json.dumps([settings.get(name, default) for name, default in entry["reads"].items()], default=str)
    sections = {name: made["always"] for name, made in entry["builds"].items() if "always" in made}
    chosen = {name: made["by"][given] for name, made in entry["builds"].items() if given in made.get("by", {})}
    return sections | chosen


def default_settings(code: str | None) -> dict[str, Any]:
    """Settings of tokenizer_config.json that a class writes out with these values where a file did not say them."""
    return dict(_table().get(code or "", {}).get("defaults", {}))


def template_of_version_4(
    code: str | None, settings: Mapping[str, Any], bos: str | None, eos: str | None
) -> list[Any] | None:
    """The meaning of the post-processor that version 4 creates when it reads such a tokenizer; None where it makes
    none.

    Whatever tokenizer.json says, ``add_bos_token`` (true by default) and ``add_eos_token`` decide.
    """
    if code not in _TEMPLATES_OF_VERSION_4:
        return None
    first = bos if settings.get("add_bos_token", True) else None
    last = eos if settings.get("add_eos_token", False) else None
    if (first, last) == (None, None):
        return None

    def around(text: str, type_id: int) -> list[Any]:
        begin, end = ([] if token is None else [{"tokens": [token], "type_id": type_id}] for token in (first, last))
        return [*begin, {"Sequence": {"id": text, "type_id": type_id}}, *end]

    single = around("A", 0)
    return [{"type": "TemplateProcessing", "single": single, "pair": single + around("B", 1)}]


def named_by_class(code: str | None) -> dict[str, str]:
    """Special tokens by role that a class has where the files name none."""
    return dict(_table().get(code or "", {}).get("names", {}))


@functools.cache
def _table() -> dict[str, Any]:
    text = resources.files("tuneport.tokenizer").joinpath("tokenizer_classes.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
