"""Which libraries beyond the core a file of tests needs, read from its imports: those that it has itself, and those of the
helpers and fixtures that it uses. What needs none runs in an environment with the core alone (`make test-core`)."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

TESTS = Path(__file__).parents[1]
BEYOND_THE_CORE = frozenset(
    [
        "accelerate",
        "datasets",
        "jinja2",
        "lm_eval",
        "pandas",
        "peft",
        "playwright",
        "plotly",
        "pyarrow",
        "ray",
        "safetensors",
        "scipy",
        "sentencepiece",
        "tokenizers",
        "torch",
        "transformers",
        "trl",
        "yaml",
    ]
)


@functools.cache
def libraries(file: Path) -> frozenset[str]:
    """The libraries that a file needs, by their import names; a circle of imports counts once."""
    return frozenset().union(*(_imported(path)[0] for path in _used_by(file)))


def is_marked_models(file: Path) -> bool:
    """Whether the file says by itself that it needs the models extra, for what its commands do."""
    return "pytestmark = pytest.mark.models" in file.read_text(encoding="utf-8")


def _used_by(file: Path) -> set[Path]:
    """The file, the helpers that it imports, and the conftest files that stand above it."""
    found: set[Path] = set()
    waiting = [file, *(folder / "conftest.py" for folder in file.parents if folder.is_relative_to(TESTS))]
    while waiting:
        path = waiting.pop()
        if path not in found and path.exists():
            found.add(path)
            waiting += [TESTS / f"{name.replace('.', '/')}.py" for name in _imported(path)[1]]
    return found


@functools.cache
def _imported(file: Path) -> tuple[frozenset[str], frozenset[str]]:
    """What a file imports anywhere in it: libraries beyond the core, and dotted names that may be helpers."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return BEYOND_THE_CORE & {name.partition(".")[0] for name in names}, frozenset(names)
