"""Read adapter_config.json: ranks, scalings, and settings that cannot be transferred.

An `AdapterConfig` holds plain and rank-stabilised LoRA with patterns of ranks and alphas, trained tokens and saved
modules. Every field of peft's LoraConfig is either used, or does not change weights, or is refused with a message.
Unknown fields are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.checkpoint.module_patterns import first_matches
from tuneport.errors import CheckpointError, listing
from tuneport.files.printable import printable_line, quoted

MOST_RANK = 65536
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")
MOST_ALPHA = 1e12
_MERGE = "Merge it with peft (merge_and_unload().save_pretrained(…)) and pass the merged folder."
_NO_MERGE = "No weights of the base can hold what it does, so there is no difference to transfer. Train it again as LoRA, or on the target."
# Kinds of peft that change what a model reads or which way it goes, and have no merge.
_NOT_IN_WEIGHTS = (
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "XLORA",
)  # fmt: skip  (one list)

# Fields that are used here or elsewhere in tuneport.
_USED = (
    "peft_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "bias",
    "trainable_token_indices",
    "ensure_weight_tying",
    "init_lora_weights",
    "target_parameters",
    "peft_version",
)
# Fields about how it was trained or is loaded. Which modules were adapted, the weights themselves say. VeLoRA changes
# the backward pass alone; the settings of a way to begin (EVA, CorDA, LoftQ, LoRA-GA) say nothing beyond its name.
_WITHOUT_EFFECT = (
    "task_type",
    "auto_mapping",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "lora_dropout",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "velora_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "loftq_config",
)  # fmt: skip  (one list)
# Fields that, when they are set, make something else than W + scaling·B·A of the base's weights.
_REFUSED = {
    "use_dora": "DoRA rescales each row of the full weight, so it is not a plain difference",
    "lora_bias": "it trains biases beside the LoRA factors",
    "layer_replication": "it replicates layers, so its layers are not the base's",
    "megatron_config": "it was trained with Megatron's parallel layers",
    "use_qalora": "QALoRA pools the inputs of quantised layers",
    "alora_invocation_tokens": "an activated LoRA (aLoRA) changes the model only after some tokens, so no weights hold it",
    "arrow_config": "Arrow routes between several adapters, so no single set of weights holds it",
    "use_bdlora": "BD-LoRA's factors are block-diagonal",
    "kasa_config": "KaSA truncates the base's weights",
    "monteclora_config": "MonteCLoRA draws its factors at random",
}
# Of these, what no merged model of the base's shapes can hold.
_WITHOUT_MERGE = ("layer_replication", "alora_invocation_tokens", "arrow_config")
# Ways to begin that change the base's weights: the adapter is then relative to those, not to the base.
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class AdapterConfig:
    """What the config says of the weights. ``token_ids``: trained tokens by the end of a module's name ("": embedding).

    ``biases``: some of the base's were trained, and are saved as a whole. ``parameters`` are ends of names of what has an
    adapter though it is not a module (experts of a mixture in one tensor); ``old_parameters``: of a peft before 0.19,
    which took their last two dimensions the other way round.
    """

    rank: int
    alpha: float
    stabilised: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    transposed: bool
    tied: bool
    biases: bool
    token_ids: Mapping[str, tuple[int, ...]]
    base_model: str | None
    parameters: tuple[str, ...] = ()
    old_parameters: bool = False

    def in_words(self) -> str:
        """What a manifest says of an adapter."""
        kind = "rank-stabilised LoRA" if self.stabilised else "LoRA"
        patterns = ", with patterns" if self.ranks or self.alphas else ""
        return f"{kind}, r={self.rank}, alpha={self.alpha:g}{patterns}"

    def parameters_of(self, module: str) -> list[str]:
        """The parameters that a module may have an adapter on, as peft finds them, if it has such."""
        found = []
        for end in self.parameters:
            before, _, parameter = end.rpartition(".")
            if not before or module == before or module.endswith(f".{before}"):
                found.append(parameter)
        return found

    def scalings(self, modules: Iterable[str], where: str) -> dict[str, tuple[int, float]]:
        """Rank and scaling (alpha/r, rank-stabilised alpha/√r) of each module, patterns matched as peft does."""
        modules = list(modules)
        by_rank = first_matches(tuple(self.ranks), modules, f"{where}: rank_pattern")
        by_alpha = first_matches(tuple(self.alphas), modules, f"{where}: alpha_pattern")
        found = {}
        for module in modules:
            rank = self.ranks[by_rank[module]] if module in by_rank else self.rank
            alpha = self.alphas[by_alpha[module]] if module in by_alpha else self.alpha
            found[module] = (rank, alpha / math.sqrt(rank) if self.stabilised else alpha / rank)
        return found


def _advice(not_in_weights: bool) -> str:
    return _NO_MERGE if not_in_weights else _MERGE


def read_adapter_config(content: Mapping[str, Any], where: str) -> AdapterConfig:
    """The config of a LoRA adapter. Raises `CheckpointError` with everything that cannot be transferred."""
    kind = content.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{where} is a PEFT adapter of the kind {kind!r}; tuneport reads LORA. {_advice(kind in _NOT_IN_WEIGHTS)}"
        )
    faults: list[str] = []
    for name, value in content.items():
        if name in _REFUSED and _is_set(value):
            faults.append(f"{quoted(name)}: {_REFUSED[name]}")
        elif name not in (*_USED, *_WITHOUT_EFFECT, *_REFUSED) and _is_set(value):
            faults.append(f"{quoted(name)} is a setting that tuneport does not know")
    begun = content.get("init_lora_weights", True)
    if isinstance(begun, str) and begun.lower().startswith(_CHANGED_BASES):
        faults.append(
            f"`init_lora_weights` is {begun!r}: it changed the base's weights before training, so it is relative to "
            f"the changed weights "
            "(peft: save_pretrained(…, path_initial_model_for_weight_conversion=…) makes a plain LoRA of it)"
        )
    if faults:
        raise CheckpointError(
            f"{where} is a PEFT adapter that cannot be transferred as it is:{listing(faults)}\n"
            f"{_advice(any(_is_set(content.get(name)) for name in _WITHOUT_MERGE))}"
        )
    return _values(content, where)


def _values(content: Mapping[str, Any], where: str) -> AdapterConfig:
    faults: list[str] = []

    def number(name: str, value: Any, whole: bool) -> Any:
        good = type(value) is int or (not whole and type(value) is float)
        if good and (0 < value <= MOST_RANK if whole else abs(value) <= MOST_ALPHA):  # NaN is not
            return value
        expected = f"a whole number from 1 to {MOST_RANK}" if whole else f"a number up to {MOST_ALPHA:g}"
        faults.append(f"{quoted(name)} is {printable_line(str(value)[:60])}, not {expected}")
        return 1

    def switch(name: str) -> bool:
        value = content.get(name)
        if not isinstance(value, bool | None):
            faults.append(f"{quoted(name)} is {printable_line(str(value)[:60])}, not true or false")
        return value is True

    def pattern(name: str, whole: bool) -> dict[str, Any]:
        value = content.get(name) or {}
        if not isinstance(value, dict):
            faults.append(f"{quoted(name)} is {printable_line(str(value)[:60])}, not an object")
            return {}
        return {key: number(f"{name}.{key[:60]}", entry, whole) for key, entry in value.items()}

    name = content.get("base_model_name_or_path")
    config = AdapterConfig(
        rank=number("r", content.get("r", 8), whole=True),
        alpha=number("lora_alpha", content.get("lora_alpha", 8), whole=False),
        stabilised=switch("use_rslora"),
        ranks=pattern("rank_pattern", whole=True),
        alphas=pattern("alpha_pattern", whole=False),
        transposed=switch("fan_in_fan_out"),
        tied=switch("ensure_weight_tying"),
        biases=content.get("bias", "none") not in ("none", None),
        token_ids=_token_ids(content.get("trainable_token_indices"), faults),
        base_model=name if isinstance(name, str) and name else None,
        parameters=_parameters(content.get("target_parameters"), faults),
        old_parameters=_is_old(content.get("peft_version")),
    )
    if faults:
        raise CheckpointError(f"{where}: adapter_config.json has invalid values:{listing(faults)}")
    return config


def _token_ids(value: Any, faults: list[str]) -> dict[str, tuple[int, ...]]:
    by_module = {"": value} if isinstance(value, list) else value if isinstance(value, dict) else {}
    good = value is None or isinstance(value, list | dict)
    for ids in by_module.values():
        good = good and isinstance(ids, list) and all(type(id) is int and 0 <= id < 2**31 for id in ids)
        good = good and len(set(ids)) == len(ids)
    if not good:
        faults.append(
            "`trainable_token_indices` must be a list of different token ids, or a mapping from modules to such lists"
        )
        return {}
    return {module: tuple(ids) for module, ids in by_module.items()}


def _parameters(value: Any, faults: list[str]) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        faults.append("`target_parameters` must be a list of names")
        return ()
    return tuple(dict.fromkeys(value))


def _is_old(version: Any) -> bool:
    """Whether a version of peft, as it writes it, is before 0.19; it has always done so since parameters were targets."""
    numbers = _VERSION.match(version) if isinstance(version, str) else None
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < (0, 19)


def _is_set(value: Any) -> bool:
    """Whether a field is set: null, false, zero and empty count as not set."""
    return bool(value) or isinstance(value, float)
