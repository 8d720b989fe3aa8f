"""Compare a manifest with the one that the parents give, field by field.

Every field is computed again, except those in `OF_THAT_RUN`, which only the run itself could know. `verify` names
these, and docs/formats.md explains each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuneport.errors import shortened
from tuneport.files.printable import quoted

# ``*`` is any name, ``[]`` any place in a list; what lies below a field belongs to it.
OF_THAT_RUN = (
    "environment",  # the machine, its software, the time it took
    "inputs[].name",  # what a parent was called, which commit it was, what the Hub said of it
    "inputs[].revision",
    "inputs[].hub",
    "plan.inputs.*.name",
    "plan.inputs.*.revision",
    "plan.inputs.*.files.*.mtime_ns",  # a copy of a file has another
    "plan.inputs.*.files.*.ctime_ns",
    "plan.version",  # the software's, as in environment
    "card",  # what the parents' cards said then, and as what it was published
    "adapted",  # what `adapt` says of the rungs that it tried
    "lineage",  # what lay beside the target's weights then
    "plan.choices",  # each as far as it has an effect: the seed has none where nothing is drawn
)
# What `apply` says and three models alone cannot: it names the diff vector, and was measured with it.
OF_THAT_VECTOR = (
    "formula", "inputs", "decisions", "config_differences", "tensors[].norms", "tensors[].rounding", "tokens", "measures",
    "roles", "warnings", "scales", "plan",
)  # fmt: skip
# The same for a person, each once.
_WORDS = {
    "environment": "its machine, software and time",
    "inputs[].name": "names and revisions of the parents",
    "plan.inputs.*.files.*.mtime_ns": "times of the parents' files",
    "card": "what the parents' cards said",
    "adapted": "what `adapt` tried",
    "lineage": "whether the target is kin of the diff vector",
    "plan.choices": "options without an effect",
    "formula": "what names the diff vector or was measured with it",
}
# Compared with words of their own, whatever the operation and without --full.
_ELSEWHERE = (
    "operation", "formula", "decisions", "config_differences", "files", "tensors[].fate", "tensors[].shape",
    "tensors[].dtype", "tensors[].digest", "tensors[].scale", "tensors[].row_scales",
    "base_sample",
)  # fmt: skip
# Sums are added up in one order by the kernel; numpy's, and another machine's, agree to seven digits or so.
_SAME, _ALIKE = 1e-12, 1e-5


def differences(said: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """How a manifest differs from what the parents give, as sentences; ``found`` is made from them, as a run would make it."""
    skipped = re.compile("|".join(map(_pattern, (*OF_THAT_RUN, *_ELSEWHERE))))
    machines = (_mapping(said.get("environment")), found["environment"])
    alike = all(machines[0].get(name) == machines[1][name] for name in ("kernel", "numpy", "system"))
    close = _SAME if alike else _ALIKE
    return [*_of_itself(said), *_differing(said, found, "", "", skipped, close)]


def in_words(fields: Sequence[str]) -> str:
    """What only a run could know, for a person; a proof's ``of_that_run`` has it field by field."""
    return ", ".join(words for field, words in _WORDS.items() if field in fields)


def _of_itself(said: Mapping[str, Any]) -> Iterator[str]:
    """What a manifest says twice."""
    inputs = {entry["role"]: entry for entry in said["inputs"]}
    plan = said["plan"]
    for role, named in plan["inputs"].items():
        for field in ("name", "revision"):
            if inputs.get(role, {}).get(field) != named.get(field):
                yield f"{field} of {role} differs between inputs and plan"
    if plan.get("version") != _mapping(said.get("environment")).get("tuneport"):
        yield "the version of tuneport differs between plan and environment"


def _differing(said: Any, found: Any, path: str, shape: str, skipped: re.Pattern[str], close: float) -> Iterator[str]:
    """``path`` is where the two values stand, for a person; ``shape`` the same with ``[]`` for places in lists."""
    if shape and skipped.match(shape):
        return
    if isinstance(said, Mapping) and isinstance(found, Mapping):
        for name in sorted({*said, *found}):
            where, inner = (f"{path}.{name}", f"{shape}.{name}") if path else (name, name)
            if skipped.match(inner):
                continue
            if name not in said or name not in found:
                told = "is missing" if name not in said else "is in the manifest, but these parents do not give it"
                yield f"{where} {told}"
            else:
                yield from _differing(said[name], found[name], where, inner, skipped, close)
    elif _is_list(said) and _is_list(found) and len(said) == len(found):
        for place, (one, other) in enumerate(zip(said, found, strict=True)):
            name = one.get("name") if path == "tensors" and isinstance(one, Mapping) else None
            told = quoted(name) if isinstance(name, str) else f"{path}[{place}]"
            yield from _differing(one, other, told, f"{shape}[]", skipped, close)
    elif not _same(said, found, close):
        yield f"{path} is {_short(said)} in the manifest, these parents give {_short(found)}"


def _same(said: Any, found: Any, close: float) -> bool:
    if isinstance(found, float) and isinstance(said, int | float) and not isinstance(said, bool):
        return math.isclose(said, found, rel_tol=close, abs_tol=close * 1e-3)
    return type(said) is type(found) and bool(said == found)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    text = f"a list of {len(value)}" if _is_list(value) else repr(value)
    return shortened(text, 100)


def _pattern(field: str) -> str:
    """The expression of a field and what lies below it; a name may hold dots."""
    return re.escape(field).replace(r"\*", ".+") + r"(?=[.\[]|$)"
