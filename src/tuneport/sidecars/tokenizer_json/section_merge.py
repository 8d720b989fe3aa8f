"""Merge the sections of a tokenizer.json one by one, three ways.

Returns the output's sections that differ from the target's. Ids inside a section mean the same strings as before. Every
change of the fine-tuning that is left out is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuneport.errors import in_short, named
from tuneport.files.printable import quoted
from tuneport.sidecars.three_way import SIDES, MergeFindings, Side, Sided, Three, same, three_way
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.parsed_sections import KIND, MEMBERS, OPTION, Sections, default_options
from tuneport.tokenizer.section_meaning import in_brief, map_tokens, meaning
from tuneport.tokenizer.token_changes import rename_everywhere

# Longer values (a precompiled table of characters has 300 kB) are shown by their length.
_LONGEST_SHOWN = 4000


@dataclass(frozen=True)
class MergedSections:
    """Sections of the output that are not the target's, by name (None: taken away), and whose post-processor it has."""

    changed: Mapping[str, Any] = field(default_factory=dict)
    post_processor: Side = "target"


def choosable_sections(sections: Three) -> set[str]:
    """Every section that ``--config tokenizer.NAME`` understands here."""
    if sections.target is None:
        return set()
    options = {name for one in sections if one is not None for name in one.values if name.startswith(OPTION)}
    options |= {OPTION + name for name in default_options(sections.target.kind)}
    return {*MEMBERS, *options} - {KIND}


def merge_sections(
    sections: Three,
    sides: Mapping[str, str],
    names: TokenNames,
    findings: MergeFindings,
    rebuilt: Mapping[str, Any],
    template: Any,
) -> MergedSections:
    """Merge the sections of three tokenizer.json (None where a model has none).

    ``sides`` are the choices, by name. ``rebuilt`` are sections that the class which saved the tuned model's file
    creates whenever it reads the base's, ``template`` is the meaning of such a post-processor: equal ones say nothing
    about the fine-tuning.
    """
    if sections.tuned is None or (sections.target is None and sections.base is None):
        return MergedSections()
    task = _SectionMerge(sections.each(lambda one: one or Sections()), names, rebuilt, template, findings)
    if sections.target is None:
        lost = [name for name in (*MEMBERS, *task.options()) if task.tuned_changed(name)]
        if lost:
            findings.warnings.append(
                f"The fine-tuning changed tokenizer.json ({', '.join(lost)}), but the target has no such file, so the "
                f"output's tokenizer lacks this change. Put a tokenizer.json into the target's folder "
                "(AutoTokenizer's save_pretrained writes one)."
            )
        return MergedSections()
    changed: dict[str, Any] = {}
    whose: Side = "target"
    for name in (*MEMBERS, *(task.options() if task.is_of_one_kind(*sections[1:]) else ())):
        side = task.side(name, sides.get(name), base_is_known=sections.base is not None)
        if side == "target":
            continue
        changed[name] = task.carried(name, side)
        if name == "post_processor":
            whose = side
    task.tell_kinds()
    return MergedSections(changed, whose)


@dataclass(frozen=True)
class _SectionMerge:
    sections: Three
    names: TokenNames
    rebuilt: Mapping[str, Any]
    template: Any
    findings: MergeFindings

    def options(self) -> list[str]:
        """The options of the three models, by name."""
        found = dict.fromkeys(name for one in reversed(self.sections) for name in one.values if name.startswith(OPTION))
        found.pop(KIND, None)
        return list(found)

    def is_of_one_kind(self, one: Sections, other: Sections) -> bool:
        """Whether two models have the same options at all."""
        return bool(one.kind == other.kind)

    def shown(self, name: str) -> Three:
        return Three(*(one.value(name) for one in self.sections))

    def compared(self, name: str) -> Three:
        return Three(*(self._meaning(name, value, side) for value, side in zip(self.shown(name), SIDES, strict=True)))

    def tuned_changed(self, name: str) -> bool:
        compared = self.compared(name)
        return not same(compared.base, compared.tuned) and not self.is_rebuilt(name, compared.tuned)

    def is_rebuilt(self, name: str, tuned: Any) -> bool:
        """Whether the tuned model has what its tokenizer class makes of the base's file."""
        if name == "post_processor":
            return self.template is not None and same(self.template, tuned)
        return name in self.rebuilt and same(self._meaning(name, Sections(self.rebuilt).value(name), "base"), tuned)

    def side(self, name: str, choice: str | None, *, base_is_known: bool) -> Side:
        """Whose section the output has; decisions and faults are recorded."""
        shown, compared = self.shown(name), self.compared(name)
        if compared.alike:
            return "target"
        if not base_is_known and choice is None:
            if not same(compared.tuned, compared.target):
                self.findings.warnings.append(
                    f"tokenizer.json {quoted(name)} differs between tuned and target, and the base has no "
                    f"tokenizer.json, so it is unclear whether the fine-tuning changed it. The output keeps the "
                    f"target's. Choose with {named('config', f'tokenizer.{name}=tuned|target')}."
                )
            return "target"
        verdict = three_way(compared, behaviour=True, choice=choice)
        if choice is None and verdict.side == "tuned" and self.is_rebuilt(name, compared.tuned):
            verdict = Sided("target", "the tuned model's tokenizer class creates it, whatever the base's file says")
        if verdict.contested:
            told = "; ".join(f"{side} {in_brief(name, value)}" for side, value in zip(SIDES, shown, strict=True))
            self.findings.refusals.append(
                f"tokenizer.json {quoted(name)}: {told}. The fine-tuning and the new version both changed it. Choose "
                f"with {named('config', f'tokenizer.{name}=base|tuned|target')}."
            )
            verdict = Sided("target", "both the fine-tuning and the new version changed it", conflict=True)
        self.findings.settled(f"tokenizer.{name}", verdict, shown.each(_brief), _brief(shown.of(verdict.side)))
        if choice is None and verdict.side == "tuned":
            self._warn_of_lengths(name, shown.tuned)
        return verdict.side

    def carried(self, name: str, side: Side) -> Any:
        """A section of one side with the output's ids; a refusal where it needs a token that the output lacks."""
        value, missing = self.sections.of(side).value(name), []

        def renew(id: int, string: str) -> tuple[int, str]:
            known, there = self.names.name(side, id), self.names.output_id(side, id)
            if there is None:
                missing.append(known if isinstance(known, str) else string or f"id {id}")
                return id, string
            return there, known if isinstance(known, str) else string

        if name == OPTION + "unk_id" and isinstance(value, int):
            value = renew(value, "")[0]
        elif name == OPTION + "unk_token" and isinstance(value, str) and not self.names.has(value):
            missing.append(value)
        elif not name.startswith(OPTION):
            value = map_tokens(value, renew)
        if missing:
            self.findings.refusals.append(
                f"tokenizer.json {quoted(name)} of the {side} model needs "
                f"{', '.join(map(repr, dict.fromkeys(missing)))}, but the output's tokenizer lacks them. Choose with "
                f"{named('config', f'tokenizer.{name}=target')}."
            )
        return value

    def _meaning(self, name: str, value: Any, side: Side) -> Any:
        def called(id: int, string: str) -> Any:
            return self.names.name(side, id)

        if name in MEMBERS:
            value = meaning(name, value, called)
        elif name == OPTION + "unk_id" and isinstance(value, int):
            value = called(value, "")
        return rename_everywhere(value, self.names.changes.renamed_entries)

    def tell_kinds(self) -> None:
        """Options and merges mean nothing to a model of another kind."""
        base, tuned, target = self.sections
        if self.is_of_one_kind(tuned, target) or not base.values or self.is_rebuilt(KIND, tuned.kind):
            return
        kinds = ", ".join(f"{side} {in_short(one.kind)}" for side, one in zip(SIDES, self.sections, strict=True))
        lost = (
            []
            if not self.is_of_one_kind(base, tuned)
            else [name for name in self.options() if self.tuned_changed(name)]
        )
        if lost or not self.is_of_one_kind(base, tuned):
            self.findings.warnings.append(
                f"tokenizer.json: the three models are of different kinds ({kinds}), and the fine-tuning changed "
                f"{', '.join(lost) or 'the kind'}. The output keeps the target's model, so it may split text "
                f"differently from the tuned model."
            )

    def _warn_of_lengths(self, name: str, value: Any) -> None:
        """Often leftovers of a training run: whoever reads tokenizer.json itself cuts or pads every text by them."""
        if not isinstance(value, dict):
            return
        fixed = value.get("strategy")
        if name == "truncation":
            self.findings.warnings.append(
                f"tokenizer.json `truncation` comes from the tuned model: with it, every text is cut after "
                f"{in_short(value.get('max_length'))} tokens. Training often leaves this setting behind; "
                f"{named('config', 'tokenizer.truncation=target')} takes the target's, =tuned keeps it."
            )
        elif name == "padding" and isinstance(fixed, dict):
            self.findings.warnings.append(
                f"tokenizer.json `padding` comes from the tuned model: with it, every text is padded to "
                f"{in_short(fixed.get('Fixed'))} tokens. Training often leaves this setting behind; "
                f"{named('config', 'tokenizer.padding=target')} takes the target's, =tuned keeps it."
            )


def _brief(value: Any) -> Any:
    text = in_short(value, _LONGEST_SHOWN)
    return value if len(text) <= _LONGEST_SHOWN else f"{len(in_short(value, 2**31))} characters"
