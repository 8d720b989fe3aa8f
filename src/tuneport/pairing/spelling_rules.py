"""transformers' own rules for the names of a model, applied to headers.

The `Rules` of a model kind say which names and layouts transformers reads as one model, from the committed
`spellings.json` (experiments/tables/make_spellings.py makes it). They translate a checkpoint's tensors into those of
the loaded model (``load``) or into those that are saved (``save``), as views of what is stored. `UnviewableError` is
raised for a translation that transformers would not make, or that views cannot describe.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tuneport.checkpoint.views import UnviewableError, renamed
from tuneport.checkpoint.weights import StoredTensor
from tuneport.pairing.spelling_operations import OPERATIONS, Collected, SpellingRule, Where

Tensors = Mapping[str, StoredTensor]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Rules:
    """The rules of one kind of model, called ``name``, in the order in which transformers applies them."""

    name: str
    load: tuple[SpellingRule, ...]
    save: tuple[SpellingRule, ...]
    config: Mapping[str, Any]

    def loaded(self, tensors: Tensors, shapes: Shapes) -> dict[str, StoredTensor]:
        """Tensors of a checkpoint under the names of the loaded model; ``shapes`` are those it is known to have."""
        return _converted(tensors, self.load, self.config, shapes, converters_first=False)

    def saved(self, tensors: Tensors, shapes: Shapes, prefixes: bool = True) -> dict[str, StoredTensor]:
        """Tensors of a loaded model under the names of a checkpoint; without ``prefixes`` none is put back."""
        rules = [rule for rule in self.save if prefixes or not rule.is_prefix]
        return _converted(tensors, rules, self.config, shapes, converters_first=True)

    def take(self, names: Iterable[str]) -> bool:
        """Whether loading by these rules would change any of the names."""
        return any(_match(rule, name) is not None for name in names for rule in self.load)

    def names(self, names: Collection[str]) -> Iterator[dict[str, str]]:
        """Other names for names alone (an adapter's modules, say), by the rules that only rename: loaded, saved."""
        for rules in (self.load, self.save, [rule for rule in self.save if not rule.is_prefix]):
            renames = [rule for rule in rules if not rule.operations]
            met: set[int] = set()
            yield {name: _renamed_by(renames, name, met) for name in _in_turn(names, renames)}


def rules_of(config: Mapping[str, Any]) -> Rules | None:
    """The rules of the kind of model that a config.json tells of; None for kinds that have none."""
    architectures, kind = config.get("architectures"), config.get("model_type")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    name = name.removeprefix("FSDP") if isinstance(name, str) else None
    if name not in data()["classes"]:
        name = data()["kinds"].get(kind) if isinstance(kind, str) else None
    if name is None:
        return None
    load: list[SpellingRule] = []
    save: list[SpellingRule] = []
    for scope, path, default, key in data()["classes"][name]["parts"]:
        inner = _kind_at(config, path)
        key = data()["bare"].get(inner) if path and inner not in (None, default) else key
        if key is None:
            continue
        prefix = data()["classes"][name]["prefix"]
        load += _rules(key, "load", scope, prefix)
        save[:0] = _rules(key, "save", scope, prefix)
    return Rules(name, tuple(load), tuple(save), config) if load else None


def legacy_rules() -> Rules:
    """Names of parameters that transformers reads in any model (``LayerNorm.gamma``, ``weight_g``)."""
    return Rules("legacy", tuple(_rules("legacy", "load", None, "")), tuple(_rules("legacy", "save", None, "")), {})


@functools.cache
def data() -> Mapping[str, Any]:
    """The committed data (experiments/tables/make_spellings.py says what each table holds)."""
    text = resources.files("tuneport.pairing").joinpath("spellings.json").read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)
    return found


def _kind_at(config: Mapping[str, Any], path: str | None) -> str | None:
    """The model type of the config at a dotted place within another."""
    value: Any = config
    for name in path.split(".") if path else ():
        value = value.get(name) if isinstance(value, Mapping) else None
    kind = value.get("model_type") if isinstance(value, Mapping) else None
    return kind if isinstance(kind, str) else None


def _rules(key: str, way: str, scope: str | None, prefix: str) -> list[SpellingRule]:
    return [
        SpellingRule(
            _compiled(entry["match"]),
            tuple(entry["to"]),
            scope,
            prefix,
            tuple(entry.get("from", ())),
            tuple(entry.get("ops", ())),
            entry.get("each", False),
            entry.get("offset", 0),
            entry.get("prefix", False),
        )
        for entry in data()["rules"][key][way]
    ]


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _converted(
    tensors: Tensors, rules: Sequence[SpellingRule], config: Mapping[str, Any], shapes: Shapes, converters_first: bool
) -> dict[str, StoredTensor]:
    """What transformers' loading or saving makes of the tensors, name by name (`core_model_loading`)."""
    renames = [rule for rule in rules if not rule.operations]
    converters = [rule for rule in rules if rule.operations]
    groups: dict[str, tuple[SpellingRule | None, dict[str, list[str]]]] = {}
    met: set[int] = set()
    final: Callable[[str], str] = (lambda name: _renamed_by(renames, name, met)) if converters_first else str
    for name in _in_turn(tensors, renames):
        other = name if converters_first else _renamed_by(renames, name, met)
        other, rule, source = _first_of(converters, other)
        if rule is None:
            other = final(other)
        if not converters_first and other not in shapes and name in shapes:
            other, rule, source = name, None, ""  # it has its place already; the rule was not for it
        held = groups.setdefault(other, (rule, {}))
        if held[0] is not rule or (rule is None and held[1]):
            raise UnviewableError(f"{name} and another tensor would both become {other}")
        held[1].setdefault(source, []).append(name)
    found: dict[str, StoredTensor] = {}
    for other, (rule, sources) in groups.items():
        if rule is None:
            made = {other: tensors[sources[""][0]]}
        else:
            collected = {
                source: [tensors[name] for name in (sorted(names, key=_natural) if len(names) > 1 else names)]
                for source, names in sources.items()
            }
            where = Where(other, config, lambda name: shapes.get(final(name)))
            made = {final(name): tensor for name, tensor in _made(rule, collected, where).items()}
        for name, tensor in made.items():
            if name in found:
                raise UnviewableError(f"two tensors would become {name}")
            found[name] = renamed(tensor, name)
    return found


def _made(rule: SpellingRule, collected: Collected, where: Where) -> dict[str, StoredTensor]:
    """The tensors that a rule makes of those it collected, under their whole names."""
    for operation in rule.operations:
        collected = OPERATIONS[operation["op"]](collected, rule, operation, where)
    whole = where.name.replace("*.", "0.")
    part = next((part for part in collected if part in whole), None)
    if part is None:
        raise UnviewableError(f"{where.name} is built from names that it does not contain")
    before, _, after = whole.partition(part)
    return {before + part + after: tensors[0] for part, tensors in collected.items()}


def _first_of(converters: Sequence[SpellingRule], name: str) -> tuple[str, SpellingRule | None, str]:
    """The first rule that takes a tensor, the name it gives, and which of its sources the tensor is."""
    for rule in converters:
        found = _match(rule, name)
        if found is not None:
            return _replaced(rule, name, found), rule, rule.sources[_branch(found[1])]
    return name, None, ""


def _renamed_by(rules: Sequence[SpellingRule], name: str, met: set[int]) -> str:
    """Every rule in turn; ``met`` remembers the rules of several branches whose first was seen."""
    for rule in rules:
        found = _match(rule, name)
        if found is None:
            continue
        if rule.each:
            if _branch(found[1]) == 0:
                met.add(id(rule))
            elif id(rule) not in met:
                continue
        name = _replaced(rule, name, found)
    return name


def _match(rule: SpellingRule, name: str) -> tuple[str, re.Match[str]] | None:
    """What comes before the scope of a rule, and what it matches there."""
    before = ""
    if rule.scope is not None:
        scope = f"{rule.scope}." if rule.scope else ""
        prefix = f"{rule.prefix}." if rule.prefix else ""
        if name.startswith(prefix + scope):
            before = prefix + scope
        elif name.startswith(scope):
            before = scope
        else:
            return None
    found = rule.match.search(name.removeprefix(before))
    return None if found is None else (before, found)


def _branch(found: re.Match[str]) -> int:
    return next(int(group[1:]) for group, text in found.groupdict().items() if text is not None)


def _replaced(rule: SpellingRule, name: str, matched: tuple[str, re.Match[str]]) -> str:
    before, found = matched
    branch = _branch(found)
    to = rule.to[branch if rule.each else 0]
    first = found.re.groupindex[f"g{branch}"]
    if "\\" in to:
        captured = {number: found.group(first + number) or "" for number in range(1, found.re.groups - first + 1)}
        if rule.offset:
            captured[1] = str(int(captured[1]) + rule.offset)
        to = re.sub(r"\\(\d)", lambda place: captured.get(int(place.group(1)), ""), to)
    return before + name.removeprefix(before).replace(found.group(0), to, 1)


def _in_turn(names: Iterable[str], rules: Sequence[SpellingRule]) -> Iterable[str]:
    """Names in transformers' order, where a rule asks whether another name came before."""
    return sorted(names, key=_natural) if any(rule.each for rule in rules) else names


def _natural(name: str) -> tuple[tuple[Any, ...], ...]:
    """Names in transformers' order: numbers by their value, before words; words by their letters, then a number at their end."""
    parts: list[tuple[Any, ...]] = []
    for part in name.split("."):
        if part.isdigit():
            parts.append((0, int(part)))
        else:
            text = part.rstrip("0123456789")
            parts.append((1, text, int(part[len(text) :] or -1)))
    return tuple(parts)
