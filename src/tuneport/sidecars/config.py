"""Read a config.json, whichever version of transformers wrote it.

A config becomes its fields in one spelling: with defaults, with older names and layouts translated, and with the fields
that its class computes from others, sub-configs included. So two configs can be compared field by field. Two files that
transformers reads as the same model give the same fields, for the kinds in ``config_defaults.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuneport.errors import CheckpointError
from tuneport.sidecars.computed_fields import renamed, work_out
from tuneport.sidecars.config_kinds import entry_of, kind_of, number_of, of_every_kind
from tuneport.sidecars.rope import ROPE, ROPE_KEYS, rope_of
from tuneport.sidecars.token_ids import is_token_field

# The output's own affair, never merged: which library wrote it, where its code and tokenizer class come from (both
# are the target's files). Sizes of vocabularies follow the rows that are written.
FIXED = {"transformers_version", "auto_map", "tokenizer_class"}
# What a path of somebody's machine, another model's name, or that of a weight file has no place in.
DROPPED = {"_name_or_path", "name_or_path", "_commit_hash", "transformers_weights"}
# What says that weights are quantised. Those of an output are not: quantised checkpoints are refused, and a config.json that
# still says so of plain weights (DeepSeek's, after fp8_cast_bf16.py) would have them read as what they are not.
LEFTOVERS = {"quantization_config", "compression_config"}
DTYPE = "dtype"
TIED = "tie_word_embeddings"
TEXT_CONFIGS = ("text_config", "llm_config", "language_config")

# Fields that do not change what the model computes at inference. All others are architecture, the unknown ones
# too: a field that nobody here has heard of may well be read by the forward pass.
_BEHAVIOUR = {
    # what the forward pass returns or keeps, not what it computes
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "return_dict",
    "use_return_dict",
    "return_dict_in_generate",
    "torchscript",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
    # starting values of training
    "initializer_range",
    "initializer_factor",
    "init_std",
    "init_method",
    "rescale_prenorm_residual",
    # losses and noise of training only
    "router_aux_loss_coef",
    "router_z_loss_coef",
    "router_jitter_noise",
    "input_jitter_noise",
    "aux_loss_alpha",
    "seq_aux",
    "ignore_index",
    "tf_legacy_loss",
    "loss_type",
    # slices of the same matrix product, kernels of the same attention
    "pretraining_tp",
    "ep_size",
    "slow_but_exact",
    "use_flash_attn",
    "attn_implementation",
    "use_bfloat16",
    # labels and notes; a classifier's head shows in `architectures` and in its tensors
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "prefix",
    "unsloth_version",
    "unsloth_fixed",
    "model_name",
    "license",
    "bos_token",
    "eos_token",
    "pad_token",
    DTYPE,
}  # fmt: skip  (groups with their reason)
_FORMER_CLASS = re.compile(r"^RW(?=Model$|For[A-Z])")
_DROPOUT = re.compile(r"(^|_)(dropout|pdrop|dropout_prob|dropout_rate|drop_rate|drop_path_rate|layerdrop)$")
# OPT's switch is the one field with a leading underscore that the forward pass reads; the others are private notes
# of the library that wrote the file.
_UNDERSCORE_ARCHITECTURE = {"_remove_final_layer_norm"}


Place = tuple[str, ...]  # the keys that lead to something in a config.json


@dataclass(frozen=True)
class Fields:
    """A config's fields under one spelling; those of a sub-config are called ``text_config.hidden_size``.

    ``values`` are resolved (defaults filled in, null left out), ``places`` say where the file itself has a field. Rope is
    one field, `ROPE`, with all its spellings. ``unread`` are fields that no class of that kind reads. ``homes`` are the
    places of the sub-configs (``text_config.``; of the whole: the empty name), ``kinds`` their model types. ``open`` are
    fields of which the table does not say what they are where they are left out.
    """

    values: Mapping[str, Any]
    places: Mapping[str, Place]
    unread: Mapping[str, Any]
    homes: Mapping[str, Place]
    kinds: Mapping[str, str | None]
    open: frozenset[str]

    def knows(self, name: str) -> bool:
        """Whether the table has the kind of the (sub-)config that a field is in, and so what it means to leave it out."""
        return bool(entry_of(self.kinds.get(name.rpartition(".")[0] + "." if "." in name else "")))


def resolve(config: Mapping[str, Any], model_type: str | None = None, *, custom: bool | None = None) -> Fields:
    """The fields of a config.

    ``model_type`` is the model's where the config does not say it; ``custom`` says that code beside the model reads the
    config, so that any field may count (default: the config names such code). Raises `CheckpointError` where a field that
    must be understood is malformed.
    """
    reading = _FieldReading(bool(config.get("auto_map")) if custom is None else custom)
    values = reading.config(config, model_type, "", ())
    return Fields(
        {name: value for name, value in values.items() if value is not None},
        reading.places,
        reading.unread,
        reading.homes,
        reading.kinds,
        frozenset(reading.open),
    )


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether a config ties embedding and head, as the class of its kind decides it; false where nothing says so."""
    entry, values = entry_of(kind_of(config)), resolve(config).values
    # Classes that the table does not know: a composite one may say it in the config of its text.
    fields = (entry.get("tied", TIED),) if entry else (TIED, *(f"{name}.{TIED}" for name in TEXT_CONFIGS))
    return any(bool(values.get(name)) for name in fields if name)


def is_fixed(name: str) -> bool:
    """Whether a field is the target's own, whatever the others say: it is not compared, and no choice takes it from them."""
    return name in FIXED or "vocab_size" in name


def is_behaviour(name: str) -> bool:
    """Whether a field may come from the tuned model without changing what the target computes."""
    if name.startswith("_"):
        return name not in _UNDERSCORE_ARCHITECTURE
    return name in _BEHAVIOUR or name in generation_defaults() or is_token_field(name) or bool(_DROPOUT.search(name))


def generation_defaults() -> Mapping[str, Any]:
    """What generation_config.json means by leaving a field out."""
    return of_every_kind("generation")


def checked(config: Mapping[str, Any] | None, what: str, most: int = 64) -> Mapping[str, Any]:
    """``config`` as it is, or an error: nested deeper than any config is."""
    level: list[Any] = [config]
    for _ in range(most):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return config or {}
    raise CheckpointError(f"{what} is nested more than {most} levels deep, so it is not a valid config.")


@dataclass
class _FieldReading:
    custom: bool
    places: dict[str, Place] = field(default_factory=dict)
    unread: dict[str, Any] = field(default_factory=dict)
    homes: dict[str, Place] = field(default_factory=dict)
    kinds: dict[str, str | None] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)

    def config(self, given: Mapping[str, Any], kind: str | None, prefix: str, place: Place | None) -> dict[str, Any]:
        """The fields of one (sub-)config by their names in it; what is noted on the way has its full name."""
        entry, kind, given, names = _under_todays_names(given, kind)
        self.kinds[prefix] = kind
        if place is not None:
            self.homes[prefix] = place
        fields = {**of_every_kind("common"), **entry.get("defaults", {}), **entry.get("implied", {}), **given}
        if kind is not None:
            fields["model_type"] = kind
        here = {} if place is None else {name: (*place, key) for name, key in names.items()}
        for name, inner in self.parts(given, entry, prefix, place, fields, here):
            fields |= {f"{name}.{key}": value for key, value in inner.items()}
        done = False
        for step in (*entry.get("steps", ()), ["$base"]):
            if step != ["$base"]:
                work_out(step, fields, given, of_every_kind("layers"))
            elif not done:
                _as_the_base_class_does(fields, entry, given, here)
                done = True
        self.note(given, entry, fields, here, prefix)
        return {name: value for name, value in fields.items() if not name.startswith("$")}

    def parts(
        self,
        given: Mapping[str, Any],
        entry: Mapping[str, Any],
        prefix: str,
        place: Place | None,
        fields: dict[str, Any],
        here: dict[str, Place],
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The sub-configs, each with its fields; they are taken out of ``fields`` and ``here``."""
        parts: Mapping[str, Any] = entry.get("parts", {})
        loose = [name for name, value in given.items() if name not in parts and _is_part(name, value, entry)]
        for name in (*parts, *loose):
            part = parts.get(name, {})
            key = next((key for key in (name, *part.get("older", ())) if isinstance(given.get(key), dict)), None)
            own: Mapping[str, Any] | None = None if key is None else given[key]
            where = None if place is None or key is None else (*place, key)
            if name == entry.get("flat"):
                # Earlier versions had the fields of the text model beside those of the whole.
                spread = {
                    key: value for key, value in given.items() if key not in entry["defaults"] and _of_text(key, part)
                }
                for spread_key in spread:
                    fields.pop(spread_key, None)
                    here.pop(spread_key, None)
                if own is None and spread:
                    own, where = spread, place
            for key in (name, *part.get("older", ())):
                fields.pop(key, None)
                here.pop(key, None)
            if own is None and (part.get("optional") or not part):
                continue
            if own is None or part.get("laid_over"):
                own = {**part.get("start", {}), **(own or {})}
            kind = part.get("kind")
            if not part.get("fixed"):
                named = own.get("model_type")
                kind = part.get("kinds", {}).get(named) or kind_of(own) or kind
            else:
                own = {**own, "model_type": kind}
            yield name, self.config(own, kind, f"{prefix}{name}.", where)

    def note(
        self,
        given: Mapping[str, Any],
        entry: Mapping[str, Any],
        fields: dict[str, Any],
        here: dict[str, Place],
        prefix: str,
    ) -> None:
        """Set apart what nothing reads, and note where the file has the others."""
        for name in entry.get("taken", ()):
            fields.pop(name, None)  # it has gone into other fields
        for name in DROPPED | LEFTOVERS:
            fields.pop(name, None)
        architectures = fields.get("architectures")
        if isinstance(architectures, list):
            # Sharded training has saved the name of its wrapper around the class: FSDPLlamaForCausalLM. Falcon's class was RW.
            fields["architectures"] = [
                _FORMER_CLASS.sub("Falcon", str(name).removeprefix("FSDP")) for name in architectures
            ]
        for name in ("id2label", "label2id"):
            if isinstance(fields.get(name), dict) and all(map(_GENERIC.match, map(str, _labels(fields[name])))):
                fields.pop(name)  # version 5 makes up two labels for every model
        if isinstance(fields.get("per_layer_config"), dict):
            fields["per_layer_config"] = _by_layer(fields)
        known = {*entry.get("defaults", ()), *entry.get("reads", ()), *(step[0] for step in entry.get("steps", ()))}
        known |= {*of_every_kind("common"), *of_every_kind("read")["names"]} if entry else fields.keys()
        unknown = [name for name in given if name not in known and name in fields]
        if self.custom:
            self.open |= {prefix + name for name in unknown}  # how such code behaves without them is unknown
        for name in () if self.custom else (*unknown, *entry.get("unread", ())):
            if name in fields and not (is_behaviour(name) or is_fixed(name) or name in _ALWAYS):
                self.unread[prefix + name] = fields.pop(name)
        self.open |= {prefix + name for name in entry.get("open", ())}
        self.places |= {prefix + name: place for name, place in here.items()}


_GENERIC = re.compile(r"LABEL_\d+$")
_ALWAYS = {"model_type", ROPE, DTYPE}


def _under_todays_names(
    given: Mapping[str, Any], kind: str | None
) -> tuple[Mapping[str, Any], str | None, dict[str, Any], dict[str, str]]:
    """The entry of a config's kind, the kind, the config, and for each name in it the key that the file has."""
    own = given.get("model_type")
    old = entry_of(own) if isinstance(own, str) else {}
    kind = kind_of(given) or kind
    entry = {**entry_of(kind), **({"implied": old["implied"]} if "now" in old else {})}
    older = {**(old.get("names", {}) if "now" in old else {}), "torch_dtype": DTYPE}
    todays: dict[str, Any] = {}
    names: dict[str, str] = {}
    for key, value in given.items():
        name = older.get(key, key)
        if name == key or todays.get(name) is None:  # a key under today's name beats an older one
            todays[name], names[name] = number_of(value), key
    return entry, kind, todays, names


def _as_the_base_class_does(
    fields: dict[str, Any], entry: Mapping[str, Any], given: Mapping[str, Any], here: dict[str, Place]
) -> None:
    """What transformers' base class does to every config: rope in one form, aliases, layers under their names of today."""
    if entry:
        # Fields that the class lacks are only now set to the file's values, over computed ones.
        own = {
            *entry["defaults"],
            *of_every_kind("common"),
            *entry.get("taken", ()),
            *entry.get("parts", ()),
            "model_type",
        }
        fields |= {name: value for name, value in given.items() if name not in own and name in fields}
    if ("rope" in entry and ROPE not in entry.get("open", ())) or not entry:
        rope = rope_of(fields, entry.get("rope"))
        for key in ROPE_KEYS:
            fields.pop(key, None)
            if key in here:
                here[ROPE] = here.pop(key)
        fields[ROPE] = rope
    for alias, name in entry.get("aliases", {}).items():
        if alias in fields:
            fields[name] = fields.pop(alias)
        if alias in here:
            here[name] = here.pop(alias)
    for name in ("layer_types", "mtp_layer_types"):
        name = entry.get("aliases", {}).get(name, name)
        if name in fields:
            fields[name] = renamed(fields[name], of_every_kind("layers"))


def _by_layer(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What differs by layer, without what does not; layers are counted as the class counts them, 7 and not 07."""
    by_layer = {}
    for layer, changes in fields["per_layer_config"].items():
        if isinstance(changes, dict):
            changes = {name: value for name, value in changes.items() if name not in fields or fields[name] != value}
        if changes:
            by_layer[layer.lstrip("0") or "0"] = changes
    return by_layer


def _is_part(name: str, value: Any, entry: Mapping[str, Any]) -> bool:
    """Whether a field that the table does not know as a sub-config is one, merged field by field; others are one value."""
    known = (*entry.get("taken", ()), *entry.get("defaults", ()), "quantization_config", "per_layer_config")
    return isinstance(value, dict) and name.endswith("_config") and name not in known


def _of_text(key: str, part: Mapping[str, Any]) -> bool:
    entry = entry_of(part.get("kind"))
    return (
        key in entry["defaults"] or key in entry.get("aliases", {}) or key in entry.get("taken", ()) or key in ROPE_KEYS
    )


def _labels(labels: Mapping[str, Any]) -> Iterable[Any]:
    return labels if any(isinstance(value, int) for value in labels.values()) else labels.values()
