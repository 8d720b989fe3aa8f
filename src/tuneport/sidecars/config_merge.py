"""Merge config.json field by field.

The output's config is in the target's spelling. Architecture is the target's, or the merge is refused; behaviour
settings follow the fine-tuning; token ids mean the same strings as before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuneport.errors import in_short, named
from tuneport.files.printable import printable_line, quoted
from tuneport.sidecars.computed_fields import inputs
from tuneport.sidecars.config import DROPPED, DTYPE, LEFTOVERS, Place, is_behaviour, is_fixed, resolve
from tuneport.sidecars.config_kinds import entry_of
from tuneport.sidecars.dtype_and_sizes import set_dtype, set_vocab_sizes
from tuneport.sidecars.rope import ROPE, ROPE_KEYS, computes_from_length, spell_rope
from tuneport.sidecars.three_way import SIDES, MergeFindings, Side, Sided, Three, conflict, same, says_null, three_way
from tuneport.sidecars.token_ids import TokenNames, in_words, is_token_field

# Switches of training that trainers leave behind in the config they save.
TRAINING = {"use_cache", "gradient_checkpointing", "output_router_logits"}
# How many positions a model is meant for, under the names of several kinds. It bounds nothing but what is warned about,
# unless the positions are computed from it.
_LENGTHS = {
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "model_max_length",
}


@dataclass(frozen=True)
class ConfigChoices:
    """What a person asked of the config: sides by dotted field, the weights' dtype; and the rows of matrices that grew.

    ``dtype`` is a name as transformers writes it (``bfloat16``), ``vocab_rows`` has new numbers of rows by the old ones.
    """

    sides: Mapping[str, str]
    dtype: str | None
    vocab_rows: Mapping[int, int]


def merge_config(configs: Three, choices: ConfigChoices, names: TokenNames, findings: MergeFindings) -> dict[str, Any]:
    """The output's config.json; what stops the run, and every decision, goes into ``findings``."""
    output = copy.deepcopy(dict(configs.target))
    merge = _ConfigMerge(configs, _resolved(configs), choices, names, findings, output, _is_custom(configs))
    for name in merge.in_order():
        if bare(name) != DTYPE or choices.dtype is None:
            merge.one(name)
    merge.leave_out()
    merge.tell_unsettled()
    if choices.dtype is not None:
        set_dtype(output, choices.dtype)
        findings.decided("config.dtype", choices.dtype, "set by --dtype")
    for sized, size in set_vocab_sizes(output, choices.vocab_rows).items():
        findings.decided(f"config.{sized}", str(size), "the vocabulary matrices grew by added tokens")
    return output


def choosable_fields(configs: Three) -> set[str]:
    """Every dotted name that ``--config`` understands for these three configs."""
    known: set[str] = set()
    for fields in _resolved(configs):
        named = {*fields.values, *fields.unread, *(".".join(place) for place in fields.places.values())}
        for name in named:
            known |= {name.removesuffix(ROPE) + key for key in ROPE_KEYS} if bare(name) == ROPE else {name}
    known |= {DTYPE, "torch_dtype"}
    return {name for name in known if not _is_kept_out(bare(name))}


def _is_kept_out(name: str) -> bool:
    return is_fixed(name) or name in DROPPED | LEFTOVERS


def bare(name: str) -> str:
    """A field's name without those of the sub-configs that it is in."""
    return name.rpartition(".")[2]


def _resolved(configs: Three) -> Three:
    custom = _is_custom(configs)
    return Three(*(resolve(config, custom=custom) for config in configs))


def _is_custom(configs: Three) -> bool:
    # Code beside one of the three models may read any field of any of them.
    return any(config.get("auto_map") for config in configs)


@dataclass
class _ConfigMerge:
    configs: Three
    fields: Three  # of `Fields`
    choices: ConfigChoices
    names: TokenNames
    findings: MergeFindings
    output: dict[str, Any]
    custom: bool  # whether code beside a model may read any field
    unsettled: list[str] = field(default_factory=list)

    def in_order(self) -> Iterator[str]:
        """Field names in the target's order, then the tuned model's, then base's; those of sub-configs come last."""
        order: dict[str, None] = {}
        for fields in reversed(self.fields):
            order |= dict.fromkeys(fields.places)
        for fields in self.fields:
            order |= dict.fromkeys(sorted({**fields.values, **fields.unread}))
        names = sorted(order, key=lambda name: name.count("."))
        return (name for name in names if not _is_kept_out(bare(name)))

    def one(self, name: str) -> None:
        """Merge one field: into the output, or into the findings as a reason to stop."""
        shown = Three(*(one.values.get(name, one.unread.get(name)) for one in self.fields))
        compared = shown
        if is_token_field(bare(name)):
            sides = zip(SIDES, shown, strict=True)
            compared = Three(*(self.names.named(side, bare(name), value) for side, value in sides))
        if compared.alike:
            return
        choice = self.choice(name)
        if choice is None and not any(name in one.places for one in self.fields) and self.follows(name):
            return
        called = self.called(name)
        verdict = self.verdict(name, compared, choice)
        if verdict.contested and bare(name) == "eos_token_id":
            self.findings.contested_ends[called] = compared
        if verdict.conflict:
            self.findings.undecided.add(called)
        if verdict.conflict and not self.settled(name):
            self.unsettled.append(called)
        elif verdict.conflict:
            self.findings.refusals.append(conflict(f"config.json {quoted(called)}", shown, called))
        value, said = shown.target, (verdict.side, verdict.reason)
        if verdict.side != "target":
            what, theirs = f"config.json {quoted(called)}", shown.of(verdict.side)
            ids = (bare(name), verdict.side, theirs, self.names, what, called, self.findings, compared.base)
            taken = taken_ids(*ids, chosen=choice is not None)
            if taken is None:
                said = ("target", "the output's tokenizer lacks the token")
            else:
                value = taken.value
                null = value is None and name in self.fields.tuned.places and shown.target is not None
                if null and choice is None and bare(name) != "eos_token_id":
                    self.findings.warnings.append(says_null(what, shown.target, called))
                self.write(name, value, verdict.side)
                if choice is not None and taken.value == theirs and not self.says(name, value):
                    self.findings.refusals.append(
                        f"{named('config', f'{called}={choice}')} has no effect: this model's config class computes "
                        f"the field from others, whatever the file says. Choose for those."
                    )
        self.findings.decided(f"config.{called}", *said)
        self.findings.differ(called, shown, value)

    def follows(self, name: str) -> bool:
        """Whether a field that no file has differs only because others do, which are merged themselves."""
        prefix = name.removesuffix(bare(name))
        kind = self.fields.target.kinds.get(prefix)
        if not entry_of(kind):
            return True
        for asked in (prefix + own for own in inputs(entry_of(kind).get("steps", ()), bare(name))):
            values = [one.values.get(asked) for one in self.fields]
            if any(asked in one.places for one in self.fields) and not all(same(values[0], value) for value in values):
                return True
        # The field that it was computed from no longer exists (Gemma 3's sliding_window_pattern).
        return False

    def verdict(self, name: str, compared: Three, choice: str | None) -> Sided:
        """Whose value the output has, and why."""
        verdict = three_way(compared, behaviour=is_behaviour(bare(name)), choice=choice)
        if choice is None and (verdict.conflict or verdict.side != "target"):
            reason = self.reason_to_keep(name, compared)
            return verdict if reason is None else Sided("target", reason)
        return verdict

    def reason_to_keep(self, name: str, compared: Three) -> str | None:
        """Why a field stays the target's, whatever became of it by fine-tuning; None where the three ways decide."""
        own = bare(name)
        if own == DTYPE:
            return "the output has the target's dtype"
        if own in TRAINING:
            return "only used in training"
        if own == "architectures" and compared.tuned is None:
            # Weights saved by a trainer without its model class; a head of its own would show in the tensors.
            return "the tuned config does not name its class"
        if own.startswith("_") and is_behaviour(own):
            return "a note of the library that wrote the file"
        if any(name in one.unread for one in self.fields):
            return "no config class of this kind reads it"
        rope = name.removesuffix(own) + ROPE
        if own in _LENGTHS and not any(computes_from_length(one.values.get(rope)) for one in self.fields):
            return "its positions do not depend on it"
        return None

    def settled(self, name: str) -> bool:
        """Whether the files say what the field is, or the table knows it where they do not."""
        if all(name in one.places for one in self.fields):
            return True
        return not any(name in one.open for one in self.fields) and all(one.knows(name) for one in self.fields)

    def tell_unsettled(self) -> None:
        """One message for all fields that only some of the files have and of which nobody knows what it means to lack them."""
        if not self.unsettled:
            return
        kind = self.fields.target.kinds[""]
        known = "this config" if kind is None else f"a {quoted(kind)} config"
        self.findings.refusals.append(
            f"config.json: only some of the three models have {', '.join(quoted(name) for name in self.unsettled)}. "
            f"tuneport does not know what {known} means by leaving them out. If only another library version rewrote "
            f"the tuned config.json, pass {named('sidecar', 'config.json=target')} for all of them. Otherwise choose "
            f"for each with {named('config', f'{self.unsettled[0]}=base|tuned|target')}."
        )

    def leave_out(self) -> None:
        """Take out what no output has: names and paths of other models, and what says that weights are quantised."""
        told = [
            f"{side} has {'.'.join((*home, name))} ({_method(config[name])})"
            for side, whole, fields in zip(SIDES, self.configs, self.fields, strict=True)
            for home in dict.fromkeys(fields.homes.values())
            for config in (_inside(whole, home),)
            for name in sorted(LEFTOVERS & config.keys())
            if config[name]
        ]
        if told:
            self.findings.warnings.append(
                f"config.json says that weights are quantised: {printable_line(', '.join(told))}. Those of the output are "
                f"plain floats, so its config.json omits the field."
            )
        for home in dict.fromkeys(self.fields.target.homes.values()):
            config = _inside(self.output, home)
            for name in (DROPPED | LEFTOVERS) & config.keys():
                del config[name]
                if name in LEFTOVERS:
                    where = ".".join((*home, name))
                    self.findings.decided(f"config.{where}", "left out", "the output's weights are not quantised")

    def write(self, name: str, value: Any, side: Side) -> None:
        """Put another side's value into the output, where the target has the field or would have it."""
        there, here = self.fields.of(side).places, self.fields.target.places
        home = here[name][:-1] if name in here else self.home(name.rpartition(".")[0])
        config = _made(self.output, home)
        if bare(name) == ROPE:
            own = config
            if name in there and not any(key in config for key in ROPE_KEYS):
                own = _inside(self.configs.of(side), there[name][:-1])  # a target that spells no rope takes over theirs
            for key, part in spell_rope(value, own).items():
                if part is not None or (key == "rope_scaling" and key in config):
                    config[key] = part  # version 4 writes the absence of scaling out
                else:
                    config.pop(key, None)
            return
        key = here[name][-1] if name in here else there[name][-1] if name in there else bare(name)
        if name in there or (is_token_field(bare(name)) and value is not None):
            config[key] = value  # a default id means another token in the output
            return
        config.pop(key, None)
        if not self.says(name, value):
            config[key] = value  # this side computes it where the target differs

    def says(self, name: str, value: Any) -> bool:
        """Whether the output, as it is now, has a field with this value."""
        return same(resolve(self.output, custom=self.custom).values.get(name), value)

    def home(self, prefix: str) -> Place:
        """Where the target has a sub-config, or would have it."""
        homes = self.fields.target.homes
        if not prefix:
            return ()
        if f"{prefix}." in homes:
            place: Place = homes[f"{prefix}."]
            return place
        outer, _, own = prefix.rpartition(".")
        return (*self.home(outer), own)

    def called(self, name: str) -> str:
        """What a person calls the field: as the target's file writes it."""
        if bare(name) != ROPE:
            return ".".join(self.fields.target.places.get(name, (name,)))
        for fields in reversed(self.fields):
            if place := fields.places.get(name):
                return ".".join((*place[:-1], ROPE if place[-1] == ROPE else "rope_scaling"))
        return name

    def choice(self, name: str) -> str | None:
        """The side that a person chose for a field, under whichever of its names."""
        spellings = {name, *(".".join(one.places[name]) for one in self.fields if name in one.places)}
        if bare(name) == ROPE:
            spellings |= {one.removesuffix(bare(one)) + key for one in spellings for key in ROPE_KEYS}
        elif bare(name) == DTYPE:
            spellings.add("torch_dtype")
        asked = {
            spelling: self.choices.sides[spelling] for spelling in sorted(spellings) if spelling in self.choices.sides
        }
        if len(set(asked.values())) > 1:
            told = ", ".join(f"{named('config', f'{spelling}={side}')}" for spelling, side in asked.items())
            self.findings.refusals.append(f"{told}: these names mean the same field. Choose one side for it.")
        return next(iter(asked.values()), None)


def _method(quantisation: Any) -> str:
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    return str(method or "of an unknown type")


def _inside(config: Any, home: Place) -> Any:
    """The object at a place of a config."""
    for key in home:
        config = config[key]
    return config


def _made(config: Any, home: Place) -> Any:
    """The object at a place of a config, made where there is none."""
    for key in home:
        if not isinstance(config.get(key), dict):
            config[key] = {}
        config = config[key]
    return config


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
    findings: MergeFindings,
    base: Any,
    chosen: bool = False,
) -> Taken | None:
    """A value of ``side`` with the output's ids; None, with a fault, for a lost token.

    Of several end tokens some may be lost, as long as one is left that is not among the ``base`` model's names.
    ``chosen``: a person asked for this side's value.
    """
    if not is_token_field(name):
        return Taken(value)
    carried, missing = names.carried(side, name, value)
    if not missing:
        return Taken(carried)
    lost = (
        f"{what}: the {side} model has {in_short(value)} (that is, {', '.join(map(in_words, missing))}), "
        "but the output's tokenizer lacks this token"
    )
    if name == "eos_token_id" and isinstance(value, list):
        # Llama 3.1's <|eom_id|> on 3.0: what the output cannot say ends nothing, and <|eot_id|> still ends a turn.
        kept = [(old, new) for old, new in zip(value, carried, strict=True) if new != -1]
        if any(isinstance(old, int) and str(names.name(side, old)) not in (base or []) for old, _ in kept):
            findings.warnings.append(f"{lost}. The other end tokens are kept.")
            return Taken([new for _, new in kept])
    if name == "eos_token_id" and not chosen and names.are_left_out(side, value):
        findings.warnings.append(f"{lost}, as you chose. The output ends answers as the target does.")
    elif name == "eos_token_id":
        findings.undecided.add(flag)
        findings.refusals.append(
            f"{lost}, and without its end token the model never stops. "
            f"{names.way_to_keep(missing, named('config', f'{flag}=target'))}"
        )
    else:
        findings.warnings.append(f"{lost}. The output keeps the target's value.")
    return None
