"""Write a first study file (`study --init`): commented, from the given versions, data and tests; it runs without changes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneport.errors import Fault, TakenError, UsageError
from tuneport.files.writing import told, write_whole
from tuneport.options import Options, option

_GROUP = "the new file (with --init)"


@dataclass(frozen=True, kw_only=True)
class NewStudyOptions(Options):
    """What a new study's file is made of."""

    init: bool = option(False, group=_GROUP, help="write STUDY.toml with comments, and nothing else")
    versions: tuple[str, ...] = option(
        (), metavar="MODEL", nargs="+", group=_GROUP, help="the versions in order: at least two folders or Hub ids"
    )
    tuned: tuple[str, ...] = option(
        (),
        metavar="VERSION=MODEL",
        repeatable=True,
        group=_GROUP,
        help="an existing fine-tuned model of one of the versions",
    )
    data: tuple[str, ...] = option(
        (),
        metavar="FILE",
        repeatable=True,
        group=_GROUP,
        help="examples to fine-tune the versions on: a file or a Hub data set",
    )
    test: tuple[str, ...] = option(
        (),
        metavar="NAME",
        repeatable=True,
        group=_GROUP,
        help="what to score models on: a file of questions, or a task of lm-evaluation-harness",
    )

    def __post_init__(self) -> None:
        """Check every value, and that a file can be made of them."""
        super().__post_init__()
        given = [name for name in ("versions", "tuned", "data", "test") if getattr(self, name)]
        if not self.init:
            if given:
                raise UsageError(
                    [Fault(name, getattr(self, name), "is only for a new file", "Pass init too") for name in given]
                )
            return
        faults = []
        if len(self.versions) < 2:
            faults.append(Fault("versions", self.versions, "must be at least two models"))
        if not self.test:
            faults.append(Fault("test", self.test, "is missing", "Name a file of questions with answers, or a task"))
        if not self.data and not self.tuned:
            told = "is missing, and there is no fine-tuned model"
            faults.append(Fault("data", self.data, told, "Give examples to fine-tune on, or tuned models"))
        for each in self.tuned:
            if each.partition("=")[0] not in self.versions or not each.partition("=")[2]:
                faults.append(Fault("tuned", each, "must be VERSION=MODEL, with one of the given versions"))
        if faults:
            raise UsageError(faults)


def write_new_study(place: Path, asked: NewStudyOptions) -> None:
    """Write the file at ``place``. Raises `TakenError` where one is, and `OutputError` where it cannot be written."""
    text = text_of(place, asked)
    with told(place, "Choose another place."):
        if os.path.lexists(place):
            raise TakenError(f"{place} exists. Choose another name, or move it away.")
        write_whole(place, text)


def text_of(place: Path, asked: NewStudyOptions) -> str:
    """The file's text; folders and files of this machine are named as they are seen from ``place``."""
    here = place.absolute().parent

    def seen(spec: str) -> str:
        return os.path.relpath(Path(spec).expanduser().absolute(), here) if Path(spec).expanduser().exists() else spec

    tuned = {version: model for version, _, model in (each.partition("=") for each in asked.tuned)}
    names = _names(asked.versions)
    lines = [
        f"# A study: run it with `tuneport study {place.name} --out DIR`; `--dry-run` shows its steps and what they cost.",
        "# Paths are relative to this file. docs/formats.md lists all settings.",
        "",
        "[study]",
        f"name = {_quoted(place.stem)}",
        "seeds = [0] # seeds of the fine-tunings; several show how much results vary",
        "",
    ]
    for name, spec in zip(names, asked.versions, strict=True):
        lines += ["[[version]]", f"name = {_quoted(name)}", f"model = {_quoted(seen(spec))}"]
        if spec in tuned:
            lines.append(f"tuned = {_quoted(seen(tuned[spec]))} # exists already")
        lines.append("")
    if asked.data:
        lines += [
            "# How to fine-tune versions without a fine-tuned model: options of `tuneport tune`, without dashes.",
            "[tune]",
            'recipe = "sft"',
            f"data = {_list(map(seen, asked.data))}",
            "steps = 300",
            '# chat-template = "chatml" # for examples with `messages`, if the versions have no template',
            "# eval-every = 50 # a curve, on [evaluate] validation",
            "",
        ]
    lines += [
        "# What every model is scored on: the test set; nothing is chosen on it.",
        "[evaluate]",
        f"tasks = {_list(map(seen, asked.test))}",
        '# validation = ["validation.jsonl"] # for curves',
        "",
        "[do]",
        'transfer = "all" # target + (tuned − base), for every ordered pair; or pairs: [["a", "b"]]',
        'distances = "all" # how far apart versions are, and how similar their diff vectors are',
        *(['# transfer-then-tune = "all" # fine-tune the transferred models further'] if asked.data else []),
        '# paths = "all" # loss along lines between models; set `text` or `data` in [paths]',
        "",
    ]
    return "\n".join(lines)


def _names(specs: Sequence[str]) -> list[str]:
    """A name for each version: the last part of its place, with the revision where two would be alike, else by number."""
    for names in ([Path(spec.partition("@")[0]).name for spec in specs], [Path(spec).name for spec in specs]):
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"M{number}" for number in range(1, len(specs) + 1)]


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(_quoted(each) for each in values)}]"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a TOML string
