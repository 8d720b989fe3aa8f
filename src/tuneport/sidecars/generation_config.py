"""Merge generation_config.json setting by setting.

What the fine-tuning taught about ending and sampling is kept, whichever file has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.files.printable import quoted
from tuneport.sidecars.config import generation_defaults, resolve
from tuneport.sidecars.config_merge import TRAINING, taken_ids
from tuneport.sidecars.three_way import SIDES, MergeFindings, Side, Sided, Three, same, says_null, three_way
from tuneport.sidecars.token_ids import TokenNames, is_token_field

PREFIXES = ("generation.", "generation_config.")
_FIXED = {"transformers_version"}
# Where a model has no generation_config.json, transformers takes these from its config.json.
_FROM_CONFIG = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclass(frozen=True)
class _Setting:
    value: Any
    ids_of: Side  # whose token ids the value holds


def merge_generation(
    generations: Three, configs: Three, sides: Mapping[str, str], names: TokenNames, findings: MergeFindings
) -> dict[str, Any] | None:
    """The output's generation_config.json, or None where it needs none.

    ``generations`` has None for a model without the file; ``sides`` are the choices, by bare field.
    """
    if all(generation is None for generation in generations):
        return None
    settings = _effective(generations, configs, names)
    defaults = generation_defaults()
    output = {name: setting.value for name, setting in settings.target.items()}
    changed = False
    for name in dict.fromkeys(key for side in reversed(settings) for key in side):
        if name in _FIXED:
            continue
        three = [side.get(name) for side in settings]
        shown = Three(*(defaults.get(name) if one is None or one.value is None else one.value for one in three))
        compared = shown
        if is_token_field(name):
            compared = Three(*(names.named(one.ids_of, name, one.value) if one is not None else None for one in three))
        choice = sides.get(name)
        if compared.alike:
            continue
        verdict = three_way(compared, behaviour=True, choice=choice)
        if choice is None and name in TRAINING and verdict.side != "target":
            verdict = Sided("target", "only used in training")
        if verdict.contested and name == "eos_token_id":
            findings.contested_ends[f"generation.{name}"] = compared
        value = shown.target
        if verdict.side != "target":
            source = settings.of(verdict.side).get(name)
            what, flag = f"generation_config.json {quoted(name)}", f"generation.{name}"
            theirs, ids_of = (None, verdict.side) if source is None else (source.value, source.ids_of)
            taken = taken_ids(name, ids_of, theirs, names, what, flag, findings, compared.base, choice is not None)
            if taken is None:
                verdict = Sided("target", "the output's tokenizer lacks the token")
            else:
                if choice is None and source is not None and source.value is None and name != "eos_token_id":
                    findings.warnings.append(says_null(what, shown.target, flag))
                value, changed = shown.of(verdict.side) if taken.value is None else taken.value, True
                if source is None:
                    output.pop(name, None)
                else:
                    output[name] = taken.value
        findings.settled(f"generation_config.{name}", verdict, shown, value)
    if generations.target is None and not changed:
        return None
    if "transformers_version" not in output:
        version = next(
            (one["transformers_version"] for one in generations if one and "transformers_version" in one), None
        )
        output |= {} if version is None else {"transformers_version": version}
    return output


def choosable_settings(generations: Three) -> set[str]:
    """Every name that ``--config generation.NAME`` understands here."""
    return {*generation_defaults(), *_FROM_CONFIG, *(key for one in generations for key in one or {})} - _FIXED


def _effective(generations: Three, configs: Three, names: TokenNames) -> Three:
    """Each model's settings; a model without the file has those that transformers would take from its config."""
    ids = Three(*(_ids_of(config, side) for config, side in zip(configs, SIDES, strict=True)))
    own = Three(
        *(
            None if settings is None else {name: _Setting(value, side) for name, value in settings.items()}
            for settings, side in zip(generations, SIDES, strict=True)
        )
    )
    base = ids.base if own.base is None else own.base
    tuned = own.tuned
    if tuned is None:
        # A tool that dropped the file has not unlearned its settings; new values in the tuned config count. Not
        # all of its ids: base's file may list more end tokens than either config names.
        tuned = base | {name: one for name, one in ids.tuned.items() if not _same_token(name, one, ids.base, names)}
    return Three(base, tuned, ids.target if own.target is None else own.target)


def _same_token(name: str, one: _Setting, others: Mapping[str, _Setting], names: TokenNames) -> bool:
    other = others.get(name)
    return other is not None and same(
        names.named(one.ids_of, name, one.value), names.named(other.ids_of, name, other.value)
    )


def _ids_of(config: Mapping[str, Any], side: Side) -> dict[str, _Setting]:
    values = resolve(config).values
    # What the whole does not say, its text part says.
    found = {name: values.get(name, values.get(f"text_config.{name}")) for name in _FROM_CONFIG}
    return {name: _Setting(value, side) for name, value in found.items() if value is not None}
