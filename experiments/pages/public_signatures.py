"""What mkdocstrings shows of a public function: the signature and help that its options give it when it runs.

mkdocstrings reads source, where such a function takes one record. This extension of griffe replaces what it read by what
`inspect.signature` and ``__doc__`` say, with the options as a list of parameters.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from typing import Any

import griffe

from tuneport.public_functions import result_names


class PublicSignatures(griffe.Extension):
    """For functions under ``@takes``, and for records; everything else stays as it was read."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Replace parameters and docstring of a function that `takes` made."""
        if not any(str(decorator.value).startswith("takes(") for decorator in func.decorators):
            return
        living = getattr(importlib.import_module(func.module.path), func.name)
        func.parameters = griffe.Parameters(*map(_parameter, inspect.signature(living).parameters.values()))
        said, _, options = living.__doc__.partition("\nOptions:\n")
        module = importlib.import_module(func.module.path)
        returned = "\n".join(f"    {_result(getattr(module, name))}" for name in result_names(living))
        text = f"{said}\nArgs:\n{_as_text(options)}\n\nReturns:\n{returned}\n"
        func.docstring = griffe.Docstring(text, parent=func, parser=griffe.Parser.google)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Name the fields of a frozen record, whose types say what its docstring does not repeat."""
        fields = [
            f"`{name}: {one.annotation}`" for name, one in cls.attributes.items() if "instance-attribute" in one.labels
        ]
        if (
            cls.docstring
            and "dataclass" in cls.labels | {str(one.value).partition("(")[0] for one in cls.decorators}
            and fields
        ):
            cls.docstring.value += f"\n\nFields: {', '.join(fields)}."


def _result(record: type[Any]) -> str:
    told = (record.__doc__ or "").partition("\n\n")[0]
    return f"{record.__name__}: {told} See [{record.__name__}][{record.__module__}.{record.__name__}]."


def _as_text(options: str) -> str:
    """Help of options as Markdown: brackets in NAME[:SPLIT] are no links, those between backticks stay as they are."""
    parts = options.split("`")
    parts[::2] = [re.sub(r"([\[\]<*\\])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _parameter(one: inspect.Parameter) -> griffe.Parameter:
    kinds = griffe.ParameterKind
    return griffe.Parameter(
        one.name,
        annotation=str(one.annotation),
        kind=kinds.keyword_only if one.kind is one.KEYWORD_ONLY else kinds.positional_or_keyword,
        default=None if one.default is one.empty else _literal(one.default),
    )


def _literal(value: object) -> str:
    """A default as a caller may write it; records and missing values that no literal spells are an ellipsis."""
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError):
        return "..."
    return repr(value)
