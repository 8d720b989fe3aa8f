"""config.json merged field by field.

In come three configs and a person's choices, out goes the output's config in the target's spelling. The promise:
architecture is the target's or a refusal, manners follow the fine-tuning, token ids mean the same strings as
before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.checkpoint.config import DROPPED, DTYPE, is_fixed, is_manner, resolve
from tuneport.checkpoint.config_rope import ROPE, ROPE_KEYS, spell_rope
from tuneport.checkpoint.merge3 import Findings, Side, Three, Verdict, conflict, in_short, same, three_way
from tuneport.checkpoint.token_names import TokenNames, is_token_field

# Sub-configs that are merged field by field; other objects (rope, quantisation, labels) are one value.
_ONE_VALUE = {"quantization_config"}
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True)
class ConfigChoices:
    """What a person asked of the config: sides by dotted field, the weights' dtype; and the rows of matrices that grew.

    ``dtype`` is a name as transformers writes it (``bfloat16``), ``vocab_rows`` has new numbers of rows by the old ones.
    """

    sides: Mapping[str, str]
    dtype: str | None
    vocab_rows: Mapping[int, int]


def merge_config(configs: Three, choices: ConfigChoices, names: TokenNames, findings: Findings) -> dict[str, Any]:
    """The output's config.json; what stops the run, and every decision, goes into ``findings``."""
    output = _merge(configs, "", None, choices, names, findings)
    if choices.dtype is not None:
        set_dtype(output, choices.dtype)
        findings.decided("config.dtype", choices.dtype, "asked for with --dtype")
    for field, size in _set_vocab_sizes(output, choices.vocab_rows).items():
        findings.decided(f"config.{field}", str(size), "the vocabulary matrices grew by added tokens")
    return output


def choosable_fields(configs: Three, prefix: str = "") -> set[str]:
    """Every dotted name that ``--config`` understands for these three configs."""
    known: set[str] = set()
    for config in configs:
        fields = resolve(config)
        for name in {*fields.values, *config, *((DTYPE, "torch_dtype") if not prefix else ())} - DROPPED:
            if is_fixed(name):
                continue
            sub = config.get(name)
            if _is_sub_config(name, sub):
                known |= choosable_fields(Three(sub, {}, {}), f"{prefix}{name}.")
            else:
                known.add(prefix + name)
        if ROPE in fields.values:
            known |= {prefix + key for key in ROPE_KEYS}
    return known


def _merge(
    configs: Three,
    prefix: str,
    model_type: str | None,
    choices: ConfigChoices,
    names: TokenNames,
    findings: Findings,
) -> dict[str, Any]:
    fields = Three(*(resolve(config, model_type) for config in configs))
    output = dict(configs.target)
    for name in _in_order(configs, fields):
        subs = [config.get(name) for config in configs]
        if any(_is_sub_config(name, sub) for sub in subs) and all(sub is None or isinstance(sub, dict) for sub in subs):
            kind = next((sub["model_type"] for sub in subs if sub and isinstance(sub.get("model_type"), str)), None)
            merged = _merge(Three(*(sub or {} for sub in subs)), f"{prefix}{name}.", kind, choices, names, findings)
            if merged or configs.target.get(name) is not None:
                output[name] = merged
            continue
        if name != DTYPE or choices.dtype is None:
            _merge_field(name, configs, fields, prefix, choices.sides, names, findings, output)
    for name in DROPPED & output.keys():
        del output[name]
    return output


def _merge_field(
    name: str,
    configs: Three,
    fields: Three,
    prefix: str,
    sides: Mapping[str, str],
    names: TokenNames,
    findings: Findings,
    output: dict[str, Any],
) -> None:
    shown = Three(*(field.values.get(name) for field in fields))
    compared = shown
    if is_token_field(name):
        compared = Three(
            names.named("base", name, shown.base),
            names.named("tuned", name, shown.tuned),
            names.named("target", name, shown.target),
        )
    called = _called(name, fields)
    choice = _choice(name, prefix, fields, sides)
    if same(compared.base, compared.tuned) and same(compared.tuned, compared.target):
        return
    if not any(name in field.keys for field in fields):
        return  # follows from other fields, which are merged themselves
    verdict = _verdict(name, compared, choice, fields)
    if verdict.contested and name == "eos_token_id":
        findings.contested_ends[prefix + called] = compared
    subject = f"config.{prefix}{called}"
    if verdict.conflict:
        findings.refusals.append(conflict(f"config.json `{prefix}{called}`", shown, prefix + called))
    value, said = shown.target, (verdict.side, verdict.reason)
    if verdict.side != "target":
        what, theirs = f"config.json `{prefix}{name}`", shown.of(verdict.side)
        asked = choice is not None
        taken = taken_ids(name, verdict.side, theirs, names, what, prefix + name, findings, compared.base, asked)
        if taken is None:
            said = ("target", "the output's tokenizer lacks the token")
        else:
            value = taken.value
            _write(name, value, verdict.side, configs, fields, output)
    findings.decided(subject, *said)
    findings.differ(f"{prefix}{called}", shown, value)


@dataclass(frozen=True)
class Taken:
    """A value taken over from another side, with the output's token ids."""

    value: Any


def taken_ids(
    name: str,
    side: Side,
    value: Any,
    names: TokenNames,
    what: str,
    flag: str,
    findings: Findings,
    base: Any,
    chosen: bool = False,
) -> Taken | None:
    """A value with ids of ``side`` as the output can have it; None, with a fault told, for a lost token.

    Of several end tokens some may be lost, as long as one is left that is not among the ``base`` model's names.
    ``chosen``: a person asked for this side's value.
    """
    if not is_token_field(name):
        return Taken(value)
    carried, missing = names.carried(side, name, value)
    if not missing:
        return Taken(carried)
    lost = (
        f"{what}: the {side} model has {in_short(value)}, that is {', '.join(missing)}; "
        "the output's tokenizer has no such token"
    )
    if name == "eos_token_id" and isinstance(value, list):
        # Llama 3.1's <|eom_id|> on 3.0: what the output cannot say ends nothing, and <|eot_id|> still ends a turn.
        kept = [(old, new) for old, new in zip(value, carried, strict=True) if new != -1]
        if any(isinstance(old, int) and str(names.name(side, old)) not in (base or []) for old, _ in kept):
            findings.warnings.append(f"{lost}. The other end tokens are carried.")
            return Taken([new for _, new in kept])
    if name == "eos_token_id" and not chosen and names.are_left_out(side, value):
        findings.warnings.append(f"{lost}, as you chose. The output ends its answers as the target does.")
    elif name == "eos_token_id":
        findings.refusals.append(
            f"{lost}, and a model whose end token is lost generates without end. Keep it with --new-tokens append "
            f"where only the tuned model has it, or decide with --config {flag}=target."
        )
    else:
        findings.warnings.append(f"{lost}. It stays as the target has it.")
    return None


def _verdict(name: str, compared: Three, choice: str | None, fields: Three) -> Verdict:
    if choice is None and name == DTYPE:
        return Verdict("target", "the output has the target's dtype")
    if choice is None and name == "architectures" and compared.tuned is None:
        # Weights saved by a trainer without its model class; a head of its own would show in the tensors.
        return Verdict("target", "the tuned config does not name its class")
    if choice is None and name.startswith("_") and is_manner(name):
        return Verdict("target", "a private note of the library that wrote the file")
    return three_way(compared, manner=is_manner(name), choice=choice)


def _write(name: str, value: Any, side: Side, configs: Three, fields: Three, output: dict[str, Any]) -> None:
    if name == ROPE:
        # A target that spells no rope takes over the other side's spelling.
        spelling = configs.target if any(key in configs.target for key in ROPE_KEYS) else configs.of(side)
        for key, part in spell_rope(value, spelling).items():
            if part is not None or (key == "rope_scaling" and key in output):
                output[key] = part  # version 4 writes the absence of scaling out
            else:
                output.pop(key, None)
        return
    there, here = fields.of(side).keys, fields.target.keys
    if name in there:
        output[here.get(name, there[name])] = value
    elif is_token_field(name) and value is not None:
        output[here.get(name, name)] = value  # a default id means another token in the output
    else:
        output.pop(here.get(name, name), None)


def _in_order(configs: Three, fields: Three) -> list[str]:
    """Field names in the target's order, then the tuned model's, then base's."""
    order: dict[str, None] = {}
    for config, field in zip(reversed(configs), reversed(fields), strict=True):
        names = {key: name for name, key in field.keys.items()}
        order |= dict.fromkeys(names[key] for key in config if key in names)
    for field in fields:
        order |= dict.fromkeys(sorted(field.values))
    return [name for name in order if not is_fixed(name) and name not in DROPPED]


def _called(name: str, fields: Three) -> str:
    """What a person calls the field: as the target's file writes it."""
    if name != ROPE:
        return str(fields.target.keys.get(name, name))
    for field in (fields.target, fields.tuned, fields.base):
        if key := field.keys.get(ROPE):
            return ROPE if key == ROPE else "rope_scaling"
    return ROPE


def _choice(name: str, prefix: str, fields: Three, sides: Mapping[str, str]) -> str | None:
    spellings = {name, *(field.keys.get(name, name) for field in fields)}
    spellings |= set(ROPE_KEYS) if name == ROPE else {"torch_dtype"} if name == DTYPE else set()
    return next((sides[prefix + spelling] for spelling in sorted(spellings) if prefix + spelling in sides), None)


def _is_sub_config(name: str, value: Any) -> bool:
    return isinstance(value, dict) and name.endswith("_config") and name not in _ONE_VALUE


def set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Have a config say that its weights are of ``dtype`` (as transformers writes it), where it says so."""
    # `torch_dtype` is read by every version, `dtype` by none before 4.56.
    present = [key for key in (DTYPE, "torch_dtype") if key in config]
    for key in present or [DTYPE if ROPE in config else "torch_dtype"]:
        config[key] = dtype
    for name, sub in config.items():
        if _is_sub_config(name, sub):
            config[name] = sub | {key: dtype for key in (DTYPE, "torch_dtype") if key in sub}


def _set_vocab_sizes(config: dict[str, Any], grown: Mapping[int, int]) -> dict[str, int]:
    """Have a config say the new number of rows wherever it said the old one; the fields, dotted, with their values.

    Where it says another number than the weights had (a padded matrix), the text's ``vocab_size`` follows the largest.
    """
    if not grown:
        return {}
    changed = _replace_sizes(config, grown, "")
    if not changed:
        text = next((name for name in _TEXT_CONFIGS if isinstance(config.get(name), dict)), None)
        if text is not None:
            config[text] = config[text] | {"vocab_size": max(grown.values())}
        else:
            config["vocab_size"] = max(grown.values())
        changed = {"vocab_size" if text is None else f"{text}.vocab_size": max(grown.values())}
    return changed


def _replace_sizes(config: dict[str, Any], grown: Mapping[int, int], prefix: str) -> dict[str, int]:
    changed: dict[str, int] = {}
    for name, value in config.items():
        if _is_sub_config(name, value):
            config[name] = dict(value)
            changed |= _replace_sizes(config[name], grown, f"{prefix}{name}.")
        elif "vocab_size" in name and isinstance(value, int) and value in grown:
            config[name] = changed[prefix + name] = grown[value]
    return changed
