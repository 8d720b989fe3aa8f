"""What a LoRA adapter of the target can hold: which tensors, and how peft calls their modules.

peft names a module as the loaded model does, which is not always how the checkpoint spells its tensors. Without torch
the kind of a module is known by its name and its model's kind. What no LoRA can hold is named with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.pairing.adapters.adapted import TRANSPOSED_MODELS
from tuneport.pairing.spelling_rules import rules_of
from tuneport.pairing.tensors import ties_of
from tuneport.pairing.vocabulary_names import EMBEDDING, is_head_weight

ModuleKind = Literal["linear", "embedding", "conv1d"]
# Published checkpoints of these kinds lack the prefix that the class with a head has.
_PREFIXES = {"gpt2": "transformer.", "bloom": "transformer."}
_EMBEDDINGS = re.compile(r"(embed|^wte$|^wpe$|^relative_attention_bias$)")
_NOT_EMBEDDINGS = re.compile(r"(embed_out|embed_proj|embedding_proj|embed.*norm|norm.*embed)")
_ROUTERS = re.compile(r"(^|\.)(gate|router|router\.classifier|shared_expert_gate)\.weight$")
_EXPERTS = re.compile(r"(^|\.)experts?\.|\.experts(_|$)|block_sparse_moe\.experts")
# Embeddings of positions with a class of their own, which takes other arguments than peft's.
_POSITIONS = re.compile(r"(^|\.)embed_positions\.weight$")
# What peft refuses in these kinds: their fast kernels read the weights and pass the modules by.
_PAST_MODULES = re.compile(r"(^|\.)(out_proj|conv1d)\.weight$")
_WITH_KERNELS = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
ONE_DIMENSION = "LoRA holds matrices only"
NO_MODULE = "not the weight of a module that LoRA adapts"
EXPERTS = "experts of a mixture: adapters name them differently from version to version of transformers and peft"
ROUTER = "a router of experts: newer versions of transformers have no linear module for it"
SHARED = "one embedding of encoder and decoder: an adapter at one of its modules does not reach the others"
POSITIONS = "embeddings of positions whose module peft cannot wrap"
KERNELS = "peft refuses this module in models of this kind, whose kernels read its weight directly"
DIMENSIONS = "LoRA on tensors of more than two dimensions is not written"


@dataclass(frozen=True)
class PeftModule:
    """A module whose weight LoRA holds. ``also`` is a second module that shares the weight (a tied head)."""

    name: str
    kind: ModuleKind
    also: str | None = None

    @property
    def turned(self) -> bool:
        """Whether the weight is stored as inputs×outputs, with the module's A on its rows."""
        return self.kind != "linear"


def peft_names(names: Iterable[str], target: Checkpoint) -> dict[str, str]:
    """How the loaded model calls each of the target's tensors."""
    names = list(names)
    rules = rules_of(target.config)
    found = next(rules.names(names)) if rules is not None else {name: name for name in names}
    prefix = _PREFIXES.get(str(target.config.get("model_type")))
    if prefix and not any(name.startswith(prefix) for name in found.values()):
        found = {own: name if is_head_weight(name) else prefix + name for own, name in found.items()}
    return found


def module_of(own: str, name: str, shape: tuple[int, ...], target: Checkpoint) -> PeftModule | str:
    """The module of a tensor that is called ``own`` in the checkpoint and ``name`` in the model, or why LoRA has none for it."""
    if len(shape) < 2:
        return ONE_DIMENSION
    if _EXPERTS.search(name):
        return EXPERTS
    if len(shape) > 2:
        return DIMENSIONS
    if not name.endswith(".weight"):
        return NO_MODULE
    module = name.removesuffix(".weight")
    if _POSITIONS.search(name):
        return POSITIONS
    if module.rpartition(".")[2] == "shared":
        return SHARED
    if target.config.get("model_type") in _WITH_KERNELS and _PAST_MODULES.search(name):
        return KERNELS
    if _has_experts(target.config) and _ROUTERS.search(name):
        return ROUTER
    ties = ties_of(target)
    if is_head_weight(own):
        return PeftModule(module, "linear")
    if is_embedding(module):
        head = head_of(name, target.config) if ties.is_shared(own) else None
        if ties.is_shared(own) and head is None:
            return "tied to a head whose module tuneport does not know"
        return PeftModule(module, "embedding", head)
    conv1d = target.config.get("model_type") in TRANSPOSED_MODELS
    return PeftModule(module, "conv1d" if conv1d else "linear")


def is_embedding(module: str) -> bool:
    """Whether a module looks one row up for each token or position, by its name."""
    last = module.rpartition(".")[2]
    return bool(_EMBEDDINGS.search(last)) and not _NOT_EMBEDDINGS.search(last)


def head_of(name: str, config: Mapping[str, Any]) -> str | None:
    """The module of the head that is tied to an embedding; None where it is not the usual one."""
    if not EMBEDDING.search(name):
        return None
    return "embed_out" if config.get("model_type") in ("gpt_neox",) else "lm_head"


def target_modules(held: Iterable[str], others: Iterable[str]) -> list[str]:
    """What the config names: the last word of modules where it means only modules that are held, else whole names.

    A number is never short for a module: lists of layers have them too.
    """
    refused = {name.rpartition(".")[2] for name in others}
    short = {name: name.rpartition(".")[2] for name in held}
    return sorted({name if last in refused or last.isdigit() else last for name, last in short.items()})


def _has_experts(config: Mapping[str, Any]) -> bool:
    parts = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return any(
        isinstance(part.get(field), int) and part[field] > 1
        for part in parts
        for field in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    )
