"""Render src/tuneport/__init__.pyi from the records of options: what editors and mypy see of the public functions.

``python -m experiments.pages.signatures_stub`` writes it; ``--check`` exits with status 1 where the committed one is another.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import tuneport
from experiments.pages.write_page import write_or_compare
from tuneport.public_functions import result_names, written

STUB = Path(tuneport.__file__).with_name("__init__.pyi")


def render() -> str:
    functions = {name: getattr(tuneport, name) for name in tuneport.__all__}
    results = sorted({_home(each.__module__, name) for each in functions.values() for name in result_names(each)})
    lines = [
        '"""What editors and mypy see of tuneport: made from the records of options by `make docs`."""',
        "",
        "from collections.abc import Callable, Mapping, Sequence",
        "from os import PathLike",
        "from typing import Any, Literal, TypeAlias",
        "",
        "import torch",
        "",
        *[f"from {module} import {name} as {name}" for module, name in results],
        "from tuneport.tuning.recipes import Lora as Lora",
        "from tuneport.tuning.recipes import Recipe as Recipe",
        "",
        "DataFrame: TypeAlias = Any  # of pandas",
        "Dataset: TypeAlias = Any  # of datasets",
        "__version__: str",
        f"__all__ = {tuneport.__all__!r}".replace("'", '"'),
        "",
    ]
    for name, function in functions.items():
        lines += [f"def {name}(", *_parameters(function), f") -> {written(function)}: ..."]
    return "\n".join(lines) + "\n"


def _home(module: str, name: str) -> tuple[str, str]:
    """Where a result's class is defined (a function's module may import it), and its name."""
    return str(getattr(sys.modules[module], name).__module__), name


def _parameters(function: Any) -> list[str]:
    lines, keywords = [], False
    for each in inspect.signature(function).parameters.values():
        if each.kind is each.KEYWORD_ONLY and not keywords:
            keywords = True
            lines.append("    *,")
        default = "" if each.default is each.empty else " = ..."
        lines.append(f"    {each.name}: {each.annotation!r}{default},")
    return lines


def main() -> int:
    return write_or_compare(STUB, render(), sys.argv[1:], "the records of options")


if __name__ == "__main__":
    sys.exit(main())
