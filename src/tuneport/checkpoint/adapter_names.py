"""The names of a PEFT adapter's tensors: which weight each one changes, and which part of the change it is.

peft writes a tensor under the module's name plus its own words. Trainers add more: wrappers of torch.compile and FSDP,
and the adapter's name in memory (``lora_A.default.weight``). All of these forms are understood here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tuneport.files.printable import quoted

PREFIX = "base_model.model."
Kind = Literal["A", "B", "embedding A", "embedding B", "rows", "whole", "saved", "original", "plain"]

# What torch.compile, FSDP, activation checkpointing, Lightning Fabric and DDP put around modules.
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module|_forward_module)\."
)
_OUTER_WRAPPER = "module."
# What peft writes behind a module's name; {name} is where an adapter's own name stands if it was not taken out.
_NAME = r"(?:\.(?P<name>[^.]+))?"
_ENDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("A", re.compile(rf"\.lora_A{_NAME}\.weight$")),
    ("B", re.compile(rf"\.lora_B{_NAME}\.weight$")),
    ("embedding A", re.compile(rf"\.lora_embedding_A{_NAME}$")),
    ("embedding B", re.compile(rf"\.lora_embedding_B{_NAME}$")),
    ("rows", re.compile(rf"\.token_adapter\.trainable_tokens_delta{_NAME}$")),
)
# A wrapped module keeps its own tensors under these, and so a saved module's.
_INSIDE: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("whole", re.compile(r"(?:\.token_adapter)?\.base_layer\.(?P<leaf>weight|bias)$")),
    ("original", re.compile(r"\.original_module\.(?P<leaf>.+)$")),
    ("saved", re.compile(r"\.modules_to_save\.(?P<leaf>.+)$")),
)
# Words of peft's for other kinds of adapter: never in the name of a weight.
_FOREIGN = re.compile(r"\.(lora_\w+|base_layer|token_adapter|modules_to_save|original_module)(\.|$)")


def without_wrappers(names: Iterable[str]) -> list[str]:
    """The names of tensors without what trainers put around modules: `_fsdp_wrapped_module.` anywhere, `module.` before all."""
    found = [_WRAPPERS.sub("", name) for name in names]
    while found and all(name.startswith(_OUTER_WRAPPER) for name in found):
        found = [_WRAPPERS.sub("", name.removeprefix(_OUTER_WRAPPER)) for name in found]
    return found


@dataclass(frozen=True)
class Part:
    """What one tensor of an adapter is: of ``module``, or of the weight ``module.leaf``.

    ``depth``: peft puts an adapter of a second parameter of one module around that of the first, which then has the depth 1.
    """

    kind: Kind
    module: str
    leaf: str = "weight"
    depth: int = 0

    @property
    def weight(self) -> str:
        """The name of the weight."""
        return f"{self.module}.{self.leaf}" if self.module else self.leaf


def read_names(names: Iterable[str]) -> tuple[dict[str, Part], list[str]]:
    """What each of an adapter's tensors is, and a message for each name that cannot be understood."""
    plain = {name: _unwrapped(name) for name in names}
    faults = []
    if any(name.startswith(PREFIX) for name in plain.values()):
        faults = [
            f"{quoted(n)} does not begin with {quoted(PREFIX)}, as peft's names do"
            for n in plain
            if not plain[n].startswith(PREFIX)
        ]
    own = _own_names(plain.values())
    if len(own) > 1:
        faults.append(
            f"it holds several adapters ({', '.join(sorted(own))}); save the one you need in a folder of its own"
        )
    parts = {}
    for name, short in plain.items():
        part = _part(short.removeprefix(PREFIX), own)
        if part is None:
            faults.append(f"{quoted(name)} belongs to a kind of adapter that tuneport does not read")
        else:
            parts[name] = part
    return parts, faults


def weight_names(names: Iterable[str]) -> list[str]:
    """The weights that an adapter's tensors are for, as peft calls them; names that cannot be understood are left out."""
    return list(dict.fromkeys(part.weight for part in read_names(names)[0].values()))


def _unwrapped(name: str) -> str:
    short = _WRAPPERS.sub("", name)
    return short.removeprefix(_OUTER_WRAPPER) if short.removeprefix(_OUTER_WRAPPER).startswith(PREFIX) else short


def _own_names(names: Iterable[str]) -> set[str]:
    """The names that adapters had in memory, where they were not taken out."""
    found = (end.search(name) for name in names for _, end in _ENDS)
    return {match["name"] for match in found if match is not None and match["name"] is not None}


def _part(name: str, own: set[str]) -> Part | None:
    for kind, end in _ENDS:
        found = end.search(name)
        if found is not None:
            module, depth = name[: found.start()], 0
            while module.endswith(".base_layer"):
                module, depth = module.removesuffix(".base_layer"), depth + 1
            return None if _FOREIGN.search(module) else Part(kind, module, depth=depth)
    for kind, inside in _INSIDE:
        found = inside.search(name)
        if found is not None:
            module, leaf = name[: found.start()], found["leaf"]
            first, dot, rest = leaf.partition(".")
            if kind == "saved" and dot and (first in own or first == "default"):
                leaf = rest
            return None if _FOREIGN.search(f"{module}.{leaf}") else Part(kind, module, leaf)
    module, _, leaf = name.rpartition(".")
    return None if _FOREIGN.search(name) else Part("plain", module, leaf)
