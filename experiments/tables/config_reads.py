"""Which fields of a config transformers' own code reads, found in its source.

A field that nothing reads changes nothing: Qwen 2.5's ``use_mrope``, or ``max_window_layers`` once ``layer_types`` is known.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from pathlib import Path

import transformers

_LIBRARY = Path(transformers.__file__).parent
# What every model's code calls.
_SHARED = (
    "modeling_utils.py",
    "modeling_layers.py",
    "modeling_rope_utils.py",
    "modeling_flash_attention_utils.py",
    "masking_utils.py",
    "cache_utils.py",
    "backbone_utils.py",
    "pytorch_utils.py",
    "generation/*.py",
    "integrations/*.py",
    "loss/*.py",
    "integrations/heterogeneity/*.py",
)  # fmt: skip  (one list)
_NO_MODEL = (
    "configuration_",
    "tokenization_",
    "processing_",
    "image_processing_",
    "video_processing_",
    "feature_extraction_",
    "convert_",
    "modular_",
)


@functools.cache
def shared() -> frozenset[str]:
    """What the code that all models share asks of a config."""
    return frozenset().union(*(_names_in(path)[0] for pattern in _SHARED for path in _LIBRARY.glob(pattern)))


def asked(config_class: type) -> frozenset[str]:
    """What the code beside a config class asks of a config; empty where there is no model beside it."""
    return frozenset().union(*(_names_in(path)[0] for path in _models_beside(config_class)))


def mentioned(config_class: type) -> frozenset[str]:
    """Every name that the code beside a config class mentions, or that the class itself uses but for reading a file."""
    beside = frozenset().union(*(_names_in(path)[1] for path in _models_beside(config_class)))
    return beside | _used_by(config_class)


def _models_beside(config_class: type) -> list[Path]:
    folder = Path(inspect.getfile(config_class)).parent
    return [
        path
        for path in sorted(folder.glob("*.py"))
        if not path.name.startswith(_NO_MODEL) and path.name != "__init__.py"
    ]


@functools.cache
def _names_in(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The names that a file asks of a config, and all that it mentions."""
    asked, every = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value, name):
                every.add(name)
                if _is_config(value):
                    asked.add(name)
            case ast.keyword(arg=str(name)):
                every.add(name)
            case ast.Constant(str(name)) if name.isidentifier():
                every.add(name)
            case ast.Call(ast.Name("getattr" | "hasattr"), [value, ast.Constant(str(name)), *_]) if _is_config(value):
                asked.add(name)
            case ast.Compare(ast.Constant(str(name)), [ast.In() | ast.NotIn()], [value]) if _is_config(value):
                asked.add(name)
    return frozenset(asked), frozenset(every)


def _is_config(node: ast.expr) -> bool:
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return "config" in name or "cfg" in name
        case ast.Call(ast.Attribute(attr=name)):
            return "config" in name
    return False


def _used_by(config_class: type) -> frozenset[str]:
    """What the properties and methods of a config class use, those aside that read and check a file."""
    found = set()
    for owner in config_class.__mro__:
        if owner.__module__.startswith("transformers.models"):
            for method in ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body:  # type: ignore[attr-defined] # a class has one
                if (
                    isinstance(method, ast.FunctionDef)
                    and method.name != "__post_init__"
                    and not method.name.startswith("validate")
                ):
                    found |= {node.attr for node in ast.walk(method) if isinstance(node, ast.Attribute)}
    return frozenset(found)
