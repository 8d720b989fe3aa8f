"""What a config class of transformers computes after reading a file, as rules that `tuneport.sidecars.computed_fields` works out.

A class fills in and changes fields in its ``__post_init__``: ``head_dim`` from two others, ``layer_types`` from a pattern.
That code is read here, statement by statement, and written down as steps ``[name, expression]``. What cannot be written
down that way is left out; make_config_defaults.py compares the rules with the classes and lists what they do not settle.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.tables.config_loops import Inlining, NotARuleError, appended, inlined, written_out

BASE = "$base"  # the step at which transformers' own base class puts the rope in order

Expression = Any
Step = list[Any]

_BINARY: dict[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
_COMPARED: dict[type, str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
}
_CALLS = {"len", "min", "max", "sorted", "range"}
_NUMBERS = {"ceil", "floor", "sqrt", "log2"}
_KEPT = {"list", "tuple", "dict", "set"}  # JSON has one kind of list; a set is asked for its members only
_TYPES = {
    "list": "list",
    "tuple": "list",
    "Sequence": "list",
    "dict": "dict",
    "str": "text",
    "int": "number",
    "float": "number",
}


@dataclass
class Rules:
    """What a class does to the fields of a file."""

    steps: list[Step] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)  # keys of a file that are no fields, and go into fields
    open: set[str] = field(default_factory=set)  # fields that it sets now and then in a way that is no rule
    overwritten: set[str] = field(
        default_factory=set
    )  # fields that it always sets in such a way, whatever the file says


def rules_of(config_class: type, parts: Collection[str]) -> Rules:
    """The rules of a class's ``__post_init__`` and of those it calls. ``parts`` are the names of its sub-configs."""
    reading = _Reading(config_class, parts)
    reading.method(0)
    rules = reading.rules
    # How a sub-config comes about is told apart from what is computed of it.
    own = [step for step in rules.steps if step[0] not in parts]
    rules.steps = _worth_keeping(own)
    rules.open -= {*parts, *rules.overwritten}
    return rules


def constants_of(config_class: type) -> set[str]:
    """Every text that the class's own source mentions."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(config_class)))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


class _Reading:
    def __init__(self, config_class: type, parts: Collection[str]) -> None:
        self.config_class, self.parts = config_class, parts
        self.owners = [one for one in config_class.__mro__ if "__post_init__" in vars(one)]
        self.rules = Rules()
        self.counted = 0

    def method(self, place: int) -> None:
        owner = self.owners[place]
        if owner.__name__ == "PreTrainedConfig":
            self.rules.steps.append([BASE])
            return
        tree = ast.parse(textwrap.dedent(inspect.getsource(vars(owner)["__post_init__"])))
        function = tree.body[0]
        assert isinstance(function, ast.FunctionDef), owner
        self.statements(function.body, None, place, {})

    def statements(self, body: Sequence[ast.stmt], when: Expression, place: int, local: dict[str, Expression]) -> None:
        for statement in body:
            try:
                self.statement(statement, when, place, local)
            except NotARuleError:
                # What it would have set is not known from here on.
                always = when is None and isinstance(statement, ast.Assign)
                for name in self.assigned(statement):
                    local[name] = NotARuleError
                    (self.rules.overwritten if always else self.rules.open).add(name)

    def statement(self, statement: ast.stmt, when: Expression, place: int, local: dict[str, Expression]) -> None:
        match statement:
            case ast.Expr(ast.Call(ast.Attribute(attr="__post_init__"))):
                if when is not None:
                    raise NotARuleError
                self.method(place + 1)
            case ast.Expr(ast.Call(ast.Attribute(ast.Name("kwargs"), "setdefault"), [ast.Constant(str(key)), value])):
                self.rules.taken.add(key)
                there = ["or", ["given", key], ["not", ["none", key]]]
                self.set(key, ["if", there, key, self.read(value, local)], when)
            case ast.Expr(ast.Call(ast.Attribute(ast.Name("kwargs"), "pop"), [ast.Constant(str(key)), *_])):
                self.rules.taken.add(key)
            case ast.Expr(ast.Call(ast.Attribute(ast.Name(name), "setdefault"), [key, value])) if name in local:
                at = self.read(key, local)
                changed = ["put", f"${name}", at, ["get", f"${name}", at, self.read(value, local)]]
                self.set(f"${name}", changed, when)
            case ast.Expr(ast.Call(ast.Name("setattr"), [ast.Name("self"), ast.Constant(str(name)), value])):
                self.set(self.dotted(ast.Attribute(ast.Name("self"), name)), self.read(value, local), when)
            case ast.Expr() | ast.Raise() | ast.Pass():
                pass  # a docstring, a log line, a check: nothing is set
            case ast.Assign([ast.Subscript(target, index)], value) if not (
                isinstance(target, ast.Name) and target.id == "kwargs"
            ):
                name = self.target(target, local)
                self.set(name, ["put", name, self.read(index, local), self.read(value, local)], when)
            case ast.Assign([ast.Tuple(names)], ast.Tuple(values)):
                self.counted += 1
                for number, value in enumerate(values):
                    self.set(f"${self.counted}.{number}", self.read(value, local), None)
                for number, one in enumerate(names):
                    self.set(self.target(one, local, new=True), f"${self.counted}.{number}", when)
            case ast.Assign([target], value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                self.set(self.target(target, local, new=True), self.read(value, local), when)
            case ast.If(test, body, otherwise):
                test = self.read(test, local)
                if test not in (True, False) and not (isinstance(test, str) and test.startswith("$")):
                    self.counted += 1
                    self.rules.steps.append([f"${self.counted}", test])
                    test = f"${self.counted}"
                self.statements(body, _both(when, test), place, local)
                self.statements(otherwise, _both(when, ["not", test]), place, local)
            case ast.For(target, iterated, [*body]) if (rounds := written_out(target, iterated)) is not None:
                for known in rounds:
                    self.statements([Inlining(known).visit(copy.deepcopy(one)) for one in body], when, place, local)
            case ast.For(
                ast.Name(variable),
                iterated,
                [ast.If(test, [ast.Assign([ast.Subscript(changed, ast.Name(place_name))], value)])],
            ) if variable == place_name:
                name = self.target(changed, local)
                inner = {**local, variable: f"@{variable}"}
                element = ["if", self.read(test, inner), self.read(value, inner), ["at", name, f"@{variable}"]]
                self.set(name, ["each", f"@{variable}", self.read(iterated, local), element], when)
            case ast.For(ast.Name(variable), iterated, [*body]) if (only := appended(body)) is not None:
                name, element = only
                place_of = self.target(ast.Attribute(ast.Name("self"), name), local)
                inner = {**local, variable: f"@{variable}"}
                built = ["each", f"@{variable}", self.read(iterated, local), self.read(inlined(element), inner)]
                self.set(place_of, built, when)
            case _:
                raise NotARuleError(ast.unparse(statement))

    def assigned(self, statement: ast.stmt) -> set[str]:
        found = set()
        for node in ast.walk(statement):
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            for target in targets:
                for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                    match one:
                        case ast.Name(name):
                            found.add(name)
                        case ast.Attribute(ast.Name("self"), _):
                            found.add(self.dotted(one))
        return found

    def target(self, node: ast.expr, local: dict[str, Expression], new: bool = False) -> str:
        match node:
            case ast.Name(name):
                if new:
                    local[name] = f"${name}"
                return f"${name}"
            case ast.Attribute():
                return self.dotted(node)
            case ast.Subscript(ast.Name("kwargs"), ast.Constant(str(key))):
                self.rules.taken.add(key)
                return key
        raise NotARuleError(ast.unparse(node))

    def dotted(self, node: ast.expr) -> str:
        match node:
            case ast.Attribute(ast.Name("self"), name):
                return str(self.config_class.attribute_map.get(name, name))
            case ast.Attribute(value, name):
                return f"{self.dotted(value)}.{name}"
        raise NotARuleError(ast.unparse(node))

    def set(self, name: str, value: Expression, when: Expression) -> None:
        self.rules.steps.append([name, value if when is None else ["if", when, value, name]])

    def read(self, node: ast.expr, local: dict[str, Expression]) -> Expression:
        found = self._read(node, local)
        if found is NotARuleError:
            raise NotARuleError(ast.unparse(node))
        return found

    def _read(self, node: ast.expr, local: dict[str, Expression]) -> Expression:
        read = lambda one: self.read(one, local)  # noqa: E731 (one word for what stands below fifty times)
        match node:
            case ast.Constant(str(text)):
                return f"'{text}"
            case ast.Constant(value) if value is None or isinstance(value, bool | int | float):
                return value
            case ast.Name(name) if name in local:
                return local[name]
            case ast.Name(name):
                return _literal(getattr(inspect.getmodule(self.config_class), name, None))
            case ast.Attribute(ast.Name("math"), "pi"):
                return math.pi
            case ast.Attribute(ast.Name("self"), "__class__"):
                raise NotARuleError
            case ast.Attribute():
                return self.constant(self.dotted(node))
            case ast.UnaryOp(ast.Not(), value):
                return ["not", read(value)]
            case ast.UnaryOp(ast.USub(), value):
                inner = read(value)
                return -inner if isinstance(inner, int | float) else ["-", 0, inner]
            case ast.BinOp(left, operator, right) if type(operator) in _BINARY:
                return [_BINARY[type(operator)], read(left), read(right)]
            case ast.BoolOp(operator, values):
                return ["and" if isinstance(operator, ast.And) else "or", *map(read, values)]
            case ast.IfExp(test, body, otherwise):
                return ["if", read(test), read(body), read(otherwise)]
            case ast.Compare(left, [ast.Is()], [ast.Constant(None)]):
                asked = read(left)
                # A sub-config is there where it has a kind.
                return ["none", f"{asked}.model_type" if isinstance(asked, str) and asked in self.parts else asked]
            case ast.Compare(left, [ast.IsNot()], [ast.Constant(None) as nothing]):
                return ["not", read(ast.Compare(left, [ast.Is()], [nothing]))]
            case ast.Compare(left, [ast.Is() | ast.IsNot() as operator], [ast.Constant(bool(value))]):
                same = ["same", read(left), value]
                return same if isinstance(operator, ast.Is) else ["not", same]
            case ast.Compare(ast.Constant(str(key)), [ast.In() | ast.NotIn() as operator], [ast.Name("kwargs")]):
                self.rules.taken.add(key)
                return ["given", key] if isinstance(operator, ast.In) else ["not", ["given", key]]
            case ast.Compare(left, [ast.NotIn()], [right]):
                return ["not", ["in", read(left), read(right)]]
            case ast.Compare(left, [operator], [right]) if type(operator) in _COMPARED:
                return [_COMPARED[type(operator)], read(left), read(right)]
            case ast.List(items) | ast.Tuple(items) | ast.Set(items):
                return ["list", *map(read, items)]
            case ast.Dict([None, *keys], [first, *values]):
                return ["laid_over", read(first), read(ast.Dict(keys, values))]
            case ast.Dict(keys, values) if all(key is not None for key in keys):
                return [
                    "dict",
                    *(read(one) for pair in zip(keys, values, strict=True) for one in pair if one is not None),
                ]
            case ast.Subscript(ast.Name("kwargs"), ast.Constant(str(key))):
                self.rules.taken.add(key)
                return key
            case ast.ListComp(element, [loop]) | ast.SetComp(element, [loop]) | ast.GeneratorExp(element, [loop]):
                match loop.target, loop.iter:
                    case ast.Name(variable), iterated:
                        inner = {**local, variable: f"@{variable}"}
                        each = ["each", f"@{variable}", read(iterated), self.read(element, inner)]
                        return [*each, *(self.read(test, inner) for test in loop.ifs)]
                raise NotARuleError
            case ast.DictComp(key, value, [loop]):
                match loop.target, loop.iter:
                    case ast.Tuple([ast.Name(place), ast.Name(variable)]), (
                        ast.Call(ast.Name("enumerate"), [sequence]) | ast.Call(ast.Attribute(sequence, "items"), [])
                    ):
                        inner = {**local, place: f"@{place}", variable: f"@{variable}"}
                        tests = [self.read(test, inner) for test in loop.ifs]
                        return [
                            "entries",
                            f"@{place}",
                            f"@{variable}",
                            read(sequence),
                            self.read(key, inner),
                            self.read(value, inner),
                            *tests,
                        ]
                raise NotARuleError
            case ast.NamedExpr(ast.Name(name), value):
                self.rules.steps.append([f"${name}", read(value)])
                local[name] = f"${name}"
                return f"${name}"
            case ast.Subscript(value, ast.Slice(lower, upper, None)):
                return [
                    "slice",
                    read(value),
                    None if lower is None else read(lower),
                    None if upper is None else read(upper),
                ]
            case ast.Subscript(value, index):
                return ["at", read(value), read(index)]
            case ast.Call(function, arguments, []):
                return self.call(function, arguments, local)
        raise NotARuleError(ast.unparse(node))

    def call(self, function: ast.expr, arguments: list[ast.expr], local: dict[str, Expression]) -> Expression:
        read = lambda one: self.read(one, local)  # noqa: E731 (as above)
        match function, arguments:
            case ast.Attribute(ast.Name("kwargs"), "pop" | "get"), [ast.Constant(str(key)), *default]:
                self.rules.taken.add(key)
                return ["if", ["given", key], key, read(default[0]) if default else None]
            case ast.Attribute(value, "get"), [key, *default]:
                return ["get", read(value), read(key), *map(read, default)]
            case ast.Name("getattr"), [ast.Name("self") | ast.Attribute() as owner, ast.Constant(str(name)), *default]:
                found = self.constant(self.dotted(ast.Attribute(owner, name)))
                return ["if", ["none", found], read(default[0]), found] if default and isinstance(found, str) else found
            case ast.Name("isinstance"), [value, types]:
                names = [types] if isinstance(types, ast.Name) else getattr(types, "elts", [])
                if names and all(isinstance(one, ast.Name) and one.id in _TYPES for one in names):
                    return ["kind", read(value), *sorted({f"'{_TYPES[one.id]}" for one in names})]
            case ast.Name("remap_legacy_layer_types"), [value]:
                return ["renamed", read(value)]
            case ast.Attribute(ast.Name("self"), name), _ if name in vars(self.config_class):
                return self.inlined(vars(self.config_class)[name], arguments, local)
            case ast.Name("int"), [value]:
                return ["int", read(value)]
            case ast.Name("bool"), [value]:
                return ["not", ["not", read(value)]]
            case ast.Name(name), _ if name in _CALLS:
                return [name, *map(read, arguments)]
            case ast.Name(name), [value] if name in _KEPT:
                return read(value)
            case ast.Attribute(ast.Name("math"), name), _ if name in _NUMBERS:
                return [name, *map(read, arguments)]
        raise NotARuleError

    def inlined(self, method: Any, arguments: list[ast.expr], local: dict[str, Expression]) -> Expression:
        """A method of one's own that only says what to return, in place of its call."""
        if not isinstance(method, staticmethod):
            raise NotARuleError
        function = ast.parse(textwrap.dedent(inspect.getsource(method.__func__))).body[0]
        assert isinstance(function, ast.FunctionDef)
        inner = {one.arg: self.read(value, local) for one, value in zip(function.args.args, arguments, strict=True)}
        for statement in function.body:
            match statement:
                case ast.Expr(ast.Constant()):
                    pass  # its docstring
                case ast.Assign([ast.Name(name)], value):
                    inner[name] = self.read(value, inner)
                case ast.Return(ast.expr() as value):
                    return self.read(value, inner)
                case _:
                    raise NotARuleError
        raise NotARuleError

    def constant(self, name: str) -> Expression:
        """A class attribute that is no field is a number, a text or a map of such."""
        value = getattr(self.config_class, name, None) if "." not in name else None
        declared = (
            name in getattr(self.config_class, "__dataclass_fields__", {})
            or callable(value)
            or isinstance(value, property)
        )
        if value is not None and not declared:
            return _literal(value)
        return name


def _literal(value: Any) -> Expression:
    """A constant of a class or module; only plain ones are."""
    if isinstance(value, str):
        return f"'{value}"
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return ["dict", *(_literal(one) for pair in value.items() for one in pair)]
    if isinstance(value, list | tuple):
        return ["list", *map(_literal, value)]
    raise NotARuleError


def _both(one: Expression, other: Expression) -> Expression:
    return other if one is None else ["and", one, other]


def _worth_keeping(steps: list[Step]) -> list[Step]:
    """Without conditions that nothing asks for and with the base class's step only where something comes after it."""
    kept: list[Step] = []
    wanted: set[str] = set()
    for step in reversed(steps):
        name = step[0]
        if name.startswith("$") and name != BASE and name not in wanted:
            continue
        if name == BASE and not kept:
            continue
        wanted |= _names(step[1:])
        kept.append(step)
    return kept[::-1]


def _names(expression: Expression) -> set[str]:
    if isinstance(expression, str):
        return {expression}
    if isinstance(expression, list):
        return {name for one in expression for name in _names(one)}
    return set()
