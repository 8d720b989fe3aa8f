"""Make flags from option records, and read back which options were given."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from tuneport.errors import FLAGS, UsageError
from tuneport.files.json_text import check_text
from tuneport.options import Declared, options_of
from tuneport.terminal import tell

_METAVARS = {int: "N", float: "X", str: "WORD"}
# Places that the commands of the core open by themselves, whatever their names are; torch, transformers and records cannot.
_CORE = ("transfer", "diff", "apply", "export", "inspect", "verify")
_PLACES = ("base", "tuned", "onto", "out", "path", "diff", "diffs")


def add_options(parser: argparse.ArgumentParser, *records: type[Any], not_always: Collection[str] = ()) -> None:
    """A flag (or an argument) for each option of the records, in the groups that they name.

    Those of ``not_always`` may be left out here, though their record asks for them.
    """
    groups: dict[str | None, Any] = {None: parser}
    for record in records:
        for one in options_of(record):
            if one.spec.flag:
                group = one.spec.group
                if group not in groups:
                    groups[group] = parser.add_argument_group(group)
                _add(groups[group], one, one.required and one.name not in not_always)


def _add(group: Any, one: Declared, required: bool) -> None:
    spec, name = one.spec, FLAGS.name(one.name)
    given: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(one)}
    if one.kind is bool:
        group.add_argument(name, dest=one.name, action="store_true", **given)
        return
    if one.kind in (int, float) or (one.single in (int, float) and spec.separator is None):
        given["type"] = _whole if one.single is int else _float
    if one.choices and spec.parse is None:
        given["choices"] = list(one.choices)
    else:
        given["metavar"] = spec.metavar or _METAVARS.get(one.single, "X")
    if spec.nargs is not None:
        given["nargs"] = spec.nargs
    if spec.argument:
        if spec.repeatable:
            given["nargs"] = "+" if one.required else "*"
        group.add_argument(one.name, **given)
        return
    if spec.repeatable:
        given["action"] = "append"
    group.add_argument(name, dest=one.name, required=required, **given)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number") from None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number") from None


def flags_of(parser: argparse.ArgumentParser, command: str) -> set[str]:
    """All flags of a command."""
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return {"--version", *(flag for one in commands.choices[command]._actions for flag in one.option_strings)}


def _help(one: Declared) -> str:
    return one.help.replace("%", "%%") + (" (repeatable)" if one.spec.repeatable and not one.spec.argument else "")


def given_for(record: type[Any], options: argparse.Namespace) -> dict[str, Any]:
    """What was given of a record's options, by name; texts that hold several values between separators are split."""
    found = {}
    for one in options_of(record):
        if not one.spec.flag or one.name not in options:
            continue
        value, separator = getattr(options, one.name), one.spec.separator
        if separator is not None:
            texts = value if isinstance(value, list) else [value]
            value = [part for text in texts for part in text.split(separator) if part]
            value = [_number(part, one) for part in value] if one.single is float else value
        found[one.name] = value
    return found


def _number(text: str, one: Declared) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # the record says what is wrong with it


def tell_preset(options: argparse.Namespace) -> None:
    """Say on stderr what a preset stands for."""
    if getattr(options, "preset", None) is not None:
        from tuneport.engine.scaling.presets import in_words

        tell(in_words(options.preset))


def check_encodable(options: argparse.Namespace) -> None:
    """Raise `UsageError` for an argument that no record of the run could hold."""
    for name, value in vars(options).items():
        if options.name in _CORE and name in _PLACES:
            continue
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str):
                try:
                    check_text(text)
                except ValueError:
                    raise UsageError(
                        f"{text}: the name is not UTF-8. Rename the file or folder, and pass the new name."
                    ) from None
