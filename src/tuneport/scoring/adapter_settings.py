"""Check what adapter_config.json makes peft do, before peft does it.

peft matches expressions of the file with every module name, makes matrices of the given ranks and imports the named
module. So the expressions are tried first in a child process with limits; other dangerous settings are refused if no
real adapter needs them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.checkpoint.weights import tensors_of_file
from tuneport.errors import CheckpointError
from tuneport.files.expressions import Expression, ExpressionError, try_expressions
from tuneport.files.opening import opened
from tuneport.files.printable import quoted

MOST_LAYERS = 10_000
MOST_COMPARED = 10**8  # entries of a list times names, which peft compares one by one
_FILE = "adapter_config.json"
_PLAIN = re.compile(r"[\w.-]*")
# How peft uses an expression of a field with a module's name.
_WHOLE, _END, _PART, _LAYERS = "{}", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
_FORMS = {
    "target_modules": _WHOLE,
    "exclude_modules": _WHOLE,
    "feedforward_modules": _WHOLE,
    "modules_to_save": _PART,
    "layers_pattern": _LAYERS,
    "base_model_name_or_path": None,  # no expression
    "revision": None,
}
# Fields whose entries peft compares with every module's name.
_BY_MODULE = (
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "target_parameters",
)


def check_adapter(folder: str, modules: Iterable[str]) -> None:
    """Look at an adapter's folder before peft reads it; ``modules`` are the model's, of which its expressions choose.

    Raises `CheckpointError`.
    """
    path = Path(folder)
    settings = SidecarFolder("model", path.name, path).json(_FILE) or {}
    check_settings(settings, _largest_dimension(path / "adapter_model.safetensors", path.name), path.name)
    check_expressions(settings, modules, path.name)


def check_settings(settings: Mapping[str, Any], largest: int, label: str) -> None:
    """Raise `CheckpointError` for what no adapter needs; ``largest`` is the largest dimension of a tensor in its file."""
    where = f"model {label}: {_FILE}"
    if settings.get("megatron_config"):
        raise CheckpointError(f"{where}: `megatron_config` makes peft import a module named in the file. Remove it.")
    by_pattern = settings.get("rank_pattern") or {}
    ranks = [settings.get("r") or 0, *(by_pattern.values() if isinstance(by_pattern, dict) else [])]
    for rank in ranks:
        if not isinstance(rank, int) or rank > largest:
            raise CheckpointError(
                f"{where}: the rank {str(rank)[:40]} does not match a matrix in its file, whose largest dimension is "
                f"{largest:,}. Correct `r` or `rank_pattern`."
            )
    copies = settings.get("layer_replication") or []
    try:
        layers = sum(end - start for start, end in copies)
    except (TypeError, ValueError):
        raise CheckpointError(f"{where}: `layer_replication` is not a list of pairs of layers. Correct it.") from None
    if layers > MOST_LAYERS:
        raise CheckpointError(f"{where}: `layer_replication` creates {layers:,} layers. The limit is {MOST_LAYERS:,}.")


def check_expressions(settings: Mapping[str, Any], modules: Iterable[str], label: str) -> None:
    """Match every expression as peft will. Raises `CheckpointError` where that takes too long, or too much memory."""
    names = set(modules)
    for field in _BY_MODULE:
        listed = settings.get(field)
        if isinstance(listed, list | dict) and len(listed) * len(names) > MOST_COMPARED:
            raise CheckpointError(
                f"model {label}: {_FILE}: {quoted(field)} has {len(listed):,} entries and the model {len(names):,} "
                f"names: comparing all would take too long. List fewer entries, as ends of names."
            )
    expressions = []
    for field, text in _expressions(settings):
        form = _FORMS.get(field, _END)
        assert form is not None
        how = "fullmatch" if form is _WHOLE else "match"
        expressions.append(Expression(field, form.format(text), how, shown=text))
    try:
        try_expressions(expressions, names)
    except ExpressionError as error:
        raise CheckpointError(f"model {label}: {_FILE}: {error}. List the modules' names instead.") from None


def _expressions(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text of the settings that is more than a name, with its field."""
    for field, value in settings.items():
        if _FORMS.get(field, _END) is None or (_FORMS.get(field) is _WHOLE and not isinstance(value, str)):
            continue  # a list of targets is one of ends of names
        left = [value]
        while left:
            each = left.pop()
            if isinstance(each, str) and not _PLAIN.fullmatch(each):
                yield field, each
            elif isinstance(each, dict):
                left += [*each, *each.values()]
            elif isinstance(each, list):
                left += each


def _largest_dimension(weights: Path, name: str) -> int:
    """The largest dimension of a tensor in an adapter's file."""
    with opened(weights) as file:

        def prefix(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        where = f"model {name}: {weights.name}"
        tensors, _ = tensors_of_file(weights.name, os.fstat(file.fileno()).st_size, prefix, where)
    return max((size for tensor in tensors.values() for size in tensor.shape), default=0)
