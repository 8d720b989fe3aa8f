"""Writes ``src/tuneport/tokenizer/tokenizer_classes.json``: what the tokenizer classes of transformers 5 build by themselves.

Many classes read vocabulary, merges and post-processor from tokenizer.json and make the rest anew, whatever the file says.
What such a class saves was not changed by a fine-tuning. Run this after an upgrade of transformers
(``python -m experiments.tables.make_tokenizer_classes``); a test compares the committed table with the installed classes.
"""

from __future__ import annotations

import inspect
import itertools
import json
import sys
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[2] / "src" / "tuneport" / "tokenizer" / "tokenizer_classes.json"

# Settings of tokenizer_config.json that some class makes its sections of.
SETTINGS = ("add_prefix_space", "legacy", "do_lower_case", "strip_accents", "tokenize_chinese_chars", "keep_accents")
SECTIONS = ("normalizer", "pre_tokenizer", "decoder")
# These follow from the vocabulary at hand, or from a special token.
OF_THE_VOCABULARY = ("vocab", "merges", "unk_id")


def table() -> dict[str, Any]:
    """The table as the installed transformers has it, by class."""
    from transformers import TokenizersBackend
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    classes: dict[str, Any] = {}
    for name in sorted({name for name in TOKENIZER_MAPPING_NAMES.values() if name}):
        if not name.endswith("Fast") and name != TokenizersBackend.__name__:
            found = tokenizer_class_from_name(name)
            if isinstance(found, type) and issubclass(found, TokenizersBackend) and "__init__" in found.__dict__:
                entry = _entry(found)
                if entry is not None:
                    classes[name] = entry
    return classes


def _entry(tokenizer_class: Any) -> dict[str, Any] | None:
    """What one class makes by itself.

    ``reads``: settings that sections depend on, with their defaults; ``builds``: sections, or sections by these settings;
    ``names``: special tokens that it has where the files name none; ``defaults``: its other settings.
    """
    parameters = inspect.signature(tokenizer_class.__init__).parameters
    given = {name: parameters[name].default for name in SETTINGS if name in parameters}
    try:
        built = {values: _built(tokenizer_class, dict(zip(given, values, strict=True))) for values in _values(given)}
    except (TypeError, ValueError, ImportError):
        return None  # a class that wants a vocabulary of its own, or another package
    if "_spm_precompiled_charsmap" in parameters:
        built = {values: {k: v for k, v in made.items() if k != "normalizer"} for values, made in built.items()}
    reads = {name: given[name] for place, name in enumerate(given) if _matters(built, place)}
    places = [list(given).index(name) for name in reads]
    by_settings = {json.dumps([values[place] for place in places]): made for values, made in built.items()}
    sections: dict[str, Any] = {}
    for name in next(iter(built.values())):
        found = {key: made.get(name) for key, made in by_settings.items()}
        same = all(value == next(iter(found.values())) for value in found.values())
        sections[name] = {"always": next(iter(found.values()))} if same else {"by": found}
    plain = {name: one.default for name, one in parameters.items() if isinstance(one.default, bool | int | float | str)}
    names = {name: value for name, value in plain.items() if name.endswith("_token") and isinstance(value, str)}
    defaults = {name: value for name, value in plain.items() if name not in names}
    return {"reads": reads, "names": names, "defaults": defaults, "builds": sections}


def _values(given: dict[str, Any]) -> list[tuple[Any, ...]]:
    return list(
        itertools.product(*([True, False] if isinstance(d, bool) else [None, True, False] for d in given.values()))
    )


def _matters(built: dict[tuple[Any, ...], Any], place: int) -> bool:
    return any(
        made != built[other]
        for values, made in built.items()
        for other in built
        if values[:place] + values[place + 1 :] == other[:place] + other[place + 1 :]
    )


def _built(tokenizer_class: Any, given: dict[str, Any]) -> dict[str, Any]:
    document = json.loads(tokenizer_class(**given).backend_tokenizer.to_str())
    sections = {name: document[name] for name in SECTIONS}
    options = {name: value for name, value in document["model"].items() if name not in OF_THE_VOCABULARY}
    if options.get("unk_token") is not None:
        del options["unk_token"]
    return sections | {f"model.{name}": value for name, value in options.items()}


def render(entries: dict[str, Any]) -> str:
    """The table as text, one class a line."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    return f"{{\n{lines}\n}}\n"


if __name__ == "__main__":
    entries = table()
    TABLE.write_text(render(entries), encoding="utf-8")
    sys.stdout.write(f"{TABLE.name}: {len(entries)} classes\n")
