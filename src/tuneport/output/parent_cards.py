"""Read licence, languages and task from the cards of the models that an output was made from.

Others wrote these cards: only a plain README.md in the model's own folder (or the Hub cache's snapshot) is read, up to
a limit, line by line without a YAML reader, and only values that look like names known to the Hub are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.files.opening import read_bytes
from tuneport.output.licences import LICENCE, NAMED_BY_ITSELF

CARD = "README.md"
_MOST_CARD_BYTES = 2**20
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,3}|code|multilingual")
_TASK = re.compile(r"[a-z0-9-]{1,60}")
_MOST_LANGUAGES = 200


def named_in_card(checkpoint: Checkpoint, field: str) -> list[str]:
    """The texts of a field of a card's front matter: one, or a list of them; nothing where there is no card to read."""
    try:
        text = read_bytes(checkpoint.path / CARD, checkpoint.path, _MOST_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return []  # a card is for people; nothing depends on it
    front = _FRONT.match(text)
    entry = re.search(
        rf"^{field}:[ \t]*(?P<one>[^\r\n]*)\r?\n?(?P<list>(?:[ \t]*-[ \t]+[^\r\n]*\r?\n?)*)",
        front[1] if front else "",
        re.MULTILINE,
    )
    if entry is None:
        return []
    one = entry["one"].strip()
    first = one[1:-1].split(",") if one[:1] == "[" and one[-1:] == "]" else [one]
    listed = [line.strip().removeprefix("-") for line in entry["list"].splitlines()]
    return [name for text in (*first, *listed) if (name := text.strip().strip("\"'").strip())]


def card_facts(parents: Iterable[Checkpoint]) -> dict[str, Any]:
    """What a card says of its parents: `licences` by role (None where unknown), `languages`, `pipeline_tag`."""
    licences: dict[str, str | None] = {}
    languages: dict[str, None] = {}
    task = None
    for checkpoint in parents:  # the last one is the target, whose body the output has
        licences[checkpoint.role] = _licence(checkpoint)
        named = named_in_card(checkpoint, "language")[:_MOST_LANGUAGES]
        languages |= dict.fromkeys(name for name in named if _LANGUAGE.fullmatch(name))
        tasks = [name for name in named_in_card(checkpoint, "pipeline_tag") if _TASK.fullmatch(name)]
        task = tasks[0] if len(tasks) == 1 else task or _task_of(checkpoint.config)
    return {"licences": licences, "languages": list(languages)[:_MOST_LANGUAGES], "pipeline_tag": task}


def _licence(checkpoint: Checkpoint) -> str | None:
    """One licence's id; of `other` its own name, where the card has one."""
    found = [name.lower() for name in named_in_card(checkpoint, "license")]
    if found == [NAMED_BY_ITSELF]:
        found = [name.lower() for name in named_in_card(checkpoint, "license_name")] or found
    return found[0] if len(found) == 1 and LICENCE.fullmatch(found[0]) else None


def _task_of(config: Mapping[str, Any]) -> str | None:
    """What a model of this config does, as far as it says so."""
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    if "vision_config" in config:
        return "image-text-to-text"
    return "text-generation" if name.endswith(("ForCausalLM", "LMHeadModel")) else None
