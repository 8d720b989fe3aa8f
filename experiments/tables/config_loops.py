"""Loops of a config class's source as single expressions, for config_classes.py."""

from __future__ import annotations

import ast
from typing import Any


class NotARuleError(Exception):
    """A statement that has no place among the rules."""


def written_out(target: ast.expr, iterated: ast.expr) -> list[dict[str, ast.expr]] | None:
    """The rounds of a loop over things that the source itself lists; None for another loop."""
    match target, iterated:
        case ast.Name(name), ast.List(items) | ast.Tuple(items):
            return [{name: item} for item in items]
        case ast.Tuple([ast.Name(first), ast.Name(second)]), ast.List(items) | ast.Tuple(items):
            return [{first: item.elts[0], second: item.elts[1]} for item in items if isinstance(item, ast.Tuple)]
        case ast.Tuple([ast.Name(first), ast.Name(second)]), ast.Call(ast.Attribute(ast.Dict(keys, values), "items")):
            return [{first: key, second: value} for key, value in zip(keys, values, strict=True) if key is not None]
    return None


def appended(body: list[ast.stmt]) -> tuple[str, Any] | None:
    """The list and the statements of a loop that appends one element a round to ``self.NAME``."""
    names = {
        node.func.value.attr
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "append"
        and isinstance(node.func.value, ast.Attribute)
    }  # fmt: skip  (one question)
    return (names.pop(), body) if len(names) == 1 else None


def inlined(body: list[ast.stmt]) -> ast.expr:
    """What a round of such a loop appends, as one expression."""
    known: dict[str, ast.expr] = {}
    for statement in body:
        match statement:
            case ast.Assign([ast.Name(name)], value):
                known[name] = value
            case ast.If(test, [*then], [*otherwise]) if otherwise:
                return Inlining(known).visit(ast.IfExp(test, inlined(then), inlined(otherwise)))
            case ast.Expr(ast.Call(ast.Attribute(attr="append"), [element])):
                return Inlining(known).visit(element)
            case _:
                raise NotARuleError
    raise NotARuleError


class Inlining(ast.NodeTransformer):
    """Puts known expressions in the place of names."""

    def __init__(self, known: dict[str, ast.expr]) -> None:
        self.known = known

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """What a name stands for, or the name."""
        return self.known.get(node.id, node)
