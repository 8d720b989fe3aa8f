"""Writes ``src/tuneport/pairing/class_tensors.json``: what the tensors of each kind of model are called.

In come the classes that `make_vocabulary_tensors` builds on the meta device, and tiny ones with each switch of their config turned;
out goes, for each kind, which modules have tensors without a row per token: numbers of layers as ``#``, and without the words in
front that say where in a larger model a part stands. Names in memory and those that are saved both count. So a tensor
that the class does not have is told from one that it has. Run it after an upgrade of transformers, after
`make_vocabulary_tensors`; ``--check`` compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.tables.make_vocabulary_tensors import SIZE, built, counts_tokens, in_memory, saved

TABLE = Path(__file__).parents[2] / "src" / "tuneport" / "pairing" / "class_tensors.json"


def table() -> tuple[list[str], dict[str, set[str]]]:
    """The words that may stand in front, and the modules with tensors of each kind, as the installed transformers has them."""
    from tuneport.pairing.class_tensors import module_of
    from tuneport.pairing.spelling_rules import data

    names: dict[str, set[str]] = {}
    places = {prefix.removesuffix(".") for prefix in data()["prefixes"]}
    for kind, model in _models():
        names.setdefault(kind, set()).update(_names(model))
        places.update(_places(model))
    wrappers = [*data()["wrappers"], *data()["wrappers_in_front"]]
    leads = {word for place in places for word in place.split(".") if not word.isdigit()}
    leads |= {word for wrapper in wrappers for word in wrapper.split(".") if word}
    modules = {kind: {module_of(name, frozenset(leads)) for name in own} for kind, own in names.items()}
    return sorted(leads), modules


def _models() -> Iterator[tuple[str, Any]]:
    """Each kind as its defaults have it, and small with each of its switches turned."""
    import torch

    from experiments.trials.tiny_kinds import NotMadeError, tiny_config

    met: set[tuple[str, str]] = set()
    for kind, model in built():
        yield kind, model
        if (kind, type(model).__name__) in met:
            continue
        met.add((kind, type(model).__name__))
        try:
            switches = [name for name, value in vars(tiny_config(kind, SIZE)).items() if isinstance(value, bool)]
        except NotMadeError:
            continue
        for name in switches:
            try:
                config = tiny_config(kind, SIZE)
                setattr(config, name, not getattr(config, name))
                with torch.device("meta"):
                    yield kind, type(model)(config)
            except Exception:  # a switch that does not go with the others: what it would give is no model
                continue


def _names(model: Any) -> set[str]:
    """What a model's tensors are called, in memory and in files; those of the vocabulary aside."""
    return {name for name, tensor in {**saved(model), **in_memory(model)}.items() if not counts_tokens(tensor)}


def _places(model: Any) -> set[str]:
    """Where in a model other models stand."""
    from transformers import PreTrainedModel

    found = {name for name, part in model.named_modules() if name and isinstance(part, PreTrainedModel)}
    return {name for name in found if not any(word.isdigit() for word in name.split("."))}


def render(leads: list[str], modules: dict[str, set[str]]) -> str:
    """The table as text, a kind a line; a kind with the modules of one before names that one."""
    first: dict[str, str] = {}
    lines = [f'"leads": {json.dumps(leads)}']
    for kind, own in sorted(modules.items()):
        text = _grouped(own)
        lines.append(f"{json.dumps(kind)}: {json.dumps(first.get(text, text))}")
        first.setdefault(text, kind)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _grouped(modules: set[str]) -> str:
    """Modules by the one that holds them: ``layers.#.mlp:down_proj,up_proj norm``."""
    groups: dict[str, list[str]] = {}
    for module in sorted(modules):
        parent, _, own = module.rpartition(".")
        groups.setdefault(parent, []).append(own)
    return " ".join(f"{parent}:{','.join(own)}" for parent, own in groups.items())


if __name__ == "__main__":
    content = render(*table())
    if "--check" in sys.argv:
        sys.exit(0 if TABLE.read_text(encoding="utf-8") == content else f"{TABLE.name} is not what transformers gives.")
    TABLE.write_text(content, encoding="utf-8")
