"""Merge the chat template: one value with three possible places.

The output's template has one place only: chat_template.jinja, which overrides the others, or tokenizer_config.json, or
the older chat_template.json.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.errors import CheckpointError, in_short, named
from tuneport.sidecars.template_tokens import names_written, tokens_written
from tuneport.sidecars.three_way import SIDES, MergeFindings, Side, Sided, Three, render, three_way
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.special_tokens import TokenizerFiles

JINJA, CONFIG, JSON = "chat_template.jinja", "tokenizer_config.json", "chat_template.json"
SUBJECT = "chat_template"
NAMES = (SUBJECT, JINJA, JSON)


@dataclass(frozen=True)
class Template:
    """A model's templates by name (``default`` alone, as a rule), and where it has one: the first place counts."""

    texts: Mapping[str, str]
    places: tuple[str, ...]


@dataclass(frozen=True)
class PlacedTemplate:
    """The output's template: as a file of its own, or as the value in tokenizer_config.json, or nowhere.

    ``sides`` are the models that have this template, the one it was taken from first.
    """

    files: Mapping[str, bytes | Path]
    in_config: Any = None
    sides: tuple[Side, ...] = ()


def read_template(folder: SidecarFolder, tokenizer_config: Mapping[str, Any]) -> Template | None:
    """A folder's chat template. Raises `CheckpointError` for one that is not a template."""
    found: dict[str, dict[str, str]] = {}
    text = folder.text(JINJA)
    if text is not None:
        found[JINJA] = {"default": text}
    for place, holder in ((CONFIG, tokenizer_config), (JSON, folder.json(JSON) or {})):
        if holder.get("chat_template") is not None:
            found[place] = _named(holder["chat_template"], f"{folder.role} {folder.label}: {place}")
    if not found:
        return None
    return Template(next(iter(found.values())), tuple(found))


def lost_template(base: SidecarFolder, tuned: SidecarFolder) -> str | None:
    """What speaks for swapped roles where there is no target yet: a template that only the base has. In words, or None."""
    before, after = (read_template(folder, folder.json(CONFIG) or {}) for folder in (base, tuned))
    return f"{_SWAPPED} Check {named('base')} and {named('tuned')}." if before is not None and after is None else None


_SWAPPED = "The base has a chat template and the tuned model has none: base and tuned may have been swapped."


def template_tokens(folder: SidecarFolder, added: Collection[str]) -> list[str] | None:
    """The ``added`` tokens that a folder's chat template writes, as text or by their roles (``{{ eos_token }}``).

    None where it has no template.
    """
    config = folder.json(CONFIG) or {}
    template = read_template(folder, config)
    if template is None:
        return None
    files = TokenizerFiles(config, folder.json("special_tokens_map.json"), f"{folder.role} {folder.label}")
    roles = {role: token for role, token in files.roles().items() if token is not None}
    found: dict[str, None] = {}
    for text in template.texts.values():
        found |= dict.fromkeys(tokens_written(text, added, added))
        found |= dict.fromkeys(roles[role] for role in names_written(text, roles))
    return list(found)


def merge_template(
    folders: Three,
    templates: Three,
    choice: str | None,
    into_config: bool,
    names: TokenNames,
    findings: MergeFindings,
) -> PlacedTemplate:
    """Which template the output has, and where.

    ``into_config`` says that the output has a tokenizer_config.json in which a template may stand.
    """
    verdict = _verdict(templates, choice, findings)
    template: Template | None = templates.of(verdict.side)
    texts = templates.each(_comparable)
    if choice is not None or not (texts.base == texts.tuned == texts.target):
        findings.settled(SUBJECT, verdict, templates.each(_brief), _brief(template))
    if template is None:
        return PlacedTemplate({})
    if verdict.contested:
        findings.warnings.append(
            "The fine-tuning and the new version both changed the chat template; the output has the tuned model's. "
            f"{named('sidecar', 'chat_template=tuned')} confirms it, =target takes the target's."
        )
    _check_tokens(template, verdict.side, names, findings)
    placed = _place(template, verdict.side, folders, templates.target, into_config, findings)
    alike = [side for side in SIDES if texts.of(side) == texts.of(verdict.side)]
    return replace(placed, sides=(verdict.side, *(side for side in alike if side != verdict.side)))


def _check_tokens(template: Template, side: Side, names: TokenNames, findings: MergeFindings) -> None:
    """Words of the template that the output's tokenizer reads differently from the template's own."""
    for token in _written(template, names.lost(), names):
        findings.warnings.append(
            f"The chat template (of the {side} model) writes {token!r}, which is not a token of the output's "
            f"tokenizer and would be read as plain text. "
            f"Choose with {named('sidecar', 'chat_template=base|tuned|target')}."
        )
    unknown = _written(template, names.unknown_to(side), names)
    if unknown:
        findings.warnings.append(
            f"The chat template (of the {side} model) writes {', '.join(map(repr, unknown))} as text. The output's "
            f"tokenizer reads each as one added token, which the {side} model's tokenizer does not have: the model "
            f"would get a token it was not tuned with. Compare answers with and without this template, or choose with "
            f"{named('sidecar', 'chat_template=base|tuned|target')}."
        )


def _written(template: Template, tokens: list[str], names: TokenNames) -> list[str]:
    others = names.added() if tokens else ()
    return sorted({token for text in template.texts.values() for token in tokens_written(text, tokens, others)})


def _verdict(templates: Three, choice: str | None, findings: MergeFindings) -> Sided:
    if choice is None and templates.tuned is None and templates.base is not None:
        findings.warnings.append(
            f"{_SWAPPED} The output keeps the target's template; {named('sidecar', 'chat_template=tuned')} removes it."
        )
        return Sided("target", "the tuned model has no template; usually it was lost, not removed on purpose")
    return three_way(templates.each(_comparable), behaviour=True, choice=choice)


def _place(
    template: Template,
    side: Side,
    folders: Three,
    target: Template | None,
    into_config: bool,
    findings: MergeFindings,
) -> PlacedTemplate:
    place = (target or template).places[0]
    if target is not None and len(target.places) > 1:
        rest = ", ".join(target.places[1:])
        findings.decided(SUBJECT, place, f"the target has it in {rest} too; the output has it in one place")
    several = set(template.texts) != {"default"}
    if several and into_config:
        place = CONFIG  # the only one of the three that can hold templates by name
    elif place == CONFIG and not into_config:
        place = JINJA
    if place == CONFIG:
        named = [{"name": name, "template": text} for name, text in template.texts.items()]
        return PlacedTemplate({}, named if several else template.texts["default"])
    source: Path = folders.of(side).place(place)
    if template.places[0] == place and side == "target":
        return PlacedTemplate({place: source})
    text = template.texts.get("default", next(iter(template.texts.values())))
    return PlacedTemplate(
        {place: render({"chat_template": text}) if place == JSON else text.encode("utf-8", "surrogatepass")}
    )


def _named(value: Any, where: str) -> dict[str, str]:
    if isinstance(value, str):
        return {"default": value}
    entries = value if isinstance(value, list) else None
    if isinstance(value, dict):
        entries = [{"name": name, "template": text} for name, text in value.items()]
    if entries and all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
        for entry in entries
    ):
        return {entry["name"]: entry["template"] for entry in entries}
    raise CheckpointError(
        f"{where}: `chat_template` is {in_short(value, 60)}; it must be a string or a list of named strings."
    )


def _comparable(template: Template | None) -> dict[str, str] | None:
    # Jinja drops one newline at the end, so a file with it and a value without are the same template.
    return None if template is None else {name: text.removesuffix("\n") for name, text in template.texts.items()}


def _brief(template: Template | None) -> str | None:
    if template is None:
        return None
    return f"{sum(map(len, template.texts.values()))} characters in {template.places[0]}"
