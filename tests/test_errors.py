"""A message holds every line of its lists, of which a terminal is shown twenty; options are named as their reader writes them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

import tuneport
from tuneport.errors import (
    ABSENT,
    FLAGS,
    KEYS,
    PYTHON,
    Fault,
    OutputError,
    StudyError,
    Style,
    TrainingError,
    in_brief,
    listing,
    named,
    read_by,
    recorded,
    spoken,
)


def test_a_long_list_is_whole_in_the_message_and_cut_for_a_terminal() -> None:
    message = f"These:{listing([str(n) for n in range(25)])}\nGive them.{listing(['a', 'b'])}"
    assert message.count("\n  - ") == 27
    shown = in_brief(message).split("\n")
    assert shown[:2] == ["These:", "  - 0"] and shown[20:] == [
        "  - 19",
        "  - … and 5 more (--json lists all)",
        "Give them.",
        "  - a",
        "  - b",
    ]
    assert in_brief(f"x{listing(['a'] * 20)}") == f"x{listing(['a'] * 20)}"
    assert listing(["a"] * 5, 3).endswith("\n  - … and 2 more")


def test_json_has_every_line_of_an_error(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    extra = {f"extra.{place}.scale": torch.ones(1) for place in range(30)}
    trio = tiny.trio(tmp_path, base=base, tuned={**tiny.moved(base, 2), **extra})
    ran = cli(*trio.flags(tmp_path / "out"), "--json")
    assert ran.status == 1 and ran.err.count("extra.") < 60 and "and 10 more (--json lists all)" in ran.err
    assert all(f"`{name}`" in ran.json()["error"]["message"] for name in extra)


@pytest.mark.parametrize(
    ("style", "words"),
    [
        (FLAGS, "--learning-rate, --dtype float32, --rule '^embed$=0', --overwrite"),
        (KEYS, 'learning-rate, dtype = "float32", rule = ["^embed$=0"], overwrite'),
        (PYTHON, "learning_rate, dtype=\"float32\", rules={'^embed$': 0}, overwrite"),
    ],
)
def test_an_error_and_a_warning_write_options_as_their_reader_does(style: Style, words: str) -> None:
    text = f"{named('learning_rate')}, {named('dtype', 'float32')}, {named('rules', '^embed$=0')}, {named('overwrite')}"
    error = TrainingError(f"Check {text}.")
    assert error.message(style) == f"Check {words}."
    with read_by(style):
        assert str(error) == f"Check {words}." and spoken([text]) == (words,)
        assert str(StudyError(f"Around it: {error}")) == f"Around it: Check {words}."
        assert recorded([text]) == [FLAGS.message(text)], "records read the same, whoever ran it"
    assert str(error) == f"Check {PYTHON.message(text)}."


def test_a_run_names_options_for_the_command_line_for_python_and_in_its_record(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, base=tiny.llama(1))
    (tmp_path / "file").write_text("")
    ran = cli(*made.flags(tmp_path / "none" / "out"))
    assert ran.status == 1 and f"--out {tmp_path / 'none' / 'out'}: the folder" in ran.err
    with pytest.raises(OutputError, match=f'^out="{tmp_path / "none" / "out"}": the folder'):
        tuneport.transfer(made.base, made.tuned, made.target, tmp_path / "none" / "out")
    assert "\x1f" not in ran.err


def _without_commands(text: str) -> str:
    return "".join(text.split("`")[::2])


def test_no_error_spells_an_option_as_one_reader_does() -> None:
    """Options in errors go through `named`; whole command lines stand in backticks."""
    found = []
    files = sorted(Path(tuneport.__file__).parent.rglob("*.py"))
    assert len(files) > 200
    for file in files:
        raised = (node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Raise))
        for node in raised:
            parts = [part for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            text = "".join(part.value for part in parts)
            if re.search(r"(?<![\w-])--[a-z]", _without_commands(text)):
                found.append(f"{file.name}:{node.lineno}: {text[:80]}")
    assert not found


def test_a_flag_of_several_values_is_shown_as_it_is_given() -> None:
    fault = Fault("recovered_gain", ("a", "b", "c"), "is wrong")
    assert fault.message(FLAGS).startswith("--recovered-gain a b c: ")
    assert Fault("models", ABSENT, "is missing").message(FLAGS) == "MODEL is missing."
