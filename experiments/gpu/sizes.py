"""How large the models of the check are, and how long they are trained: for a GPU, and tiny ones to try the script out on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tuneport.families import versions
from tuneport.families.versions import VersionsRecipe


@dataclass(frozen=True)
class Sizes:
    """``llama`` are fields of transformers' LlamaConfig, ``family`` is a recipe of the lab."""

    llama: Mapping[str, int]
    family: VersionsRecipe
    free_gigabytes: int  # in the temporary folder
    steps: int
    batch: int
    rate: float
    asked: int  # examples that are asked or measured in a step
    answer: int  # tokens of an answer
    fitted: int  # prompts that distil is fitted on
    distil_steps: int
    distil_batch: int
    family_steps: int
    family_distil_steps: int
    family_asked: int  # of each kind of question


# The shapes of Llama 3.2 1B with a smaller vocabulary: 1.1 B parameters, 2.2 GB a copy.
FULL = Sizes(
    llama={
        "vocab_size": 32_000,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    family=versions.LARGE,
    free_gigabytes=24,
    steps=30,
    batch=128,
    rate=1e-4,
    asked=64,
    answer=16,
    fitted=64,
    distil_steps=20,
    distil_batch=32,
    family_steps=250,
    family_distil_steps=50,
    family_asked=100,
)
_SMALL = versions.SMALL
TINY = replace(
    FULL,
    llama={
        "vocab_size": 800,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    family=replace(
        _SMALL,
        architecture=replace(_SMALL.architecture, hidden=32, layers=1, feedforward=48),
        first_stage=replace(_SMALL.first_stage, steps=9, warmup=2),
        second_stage=replace(_SMALL.second_stage, steps=4, warmup=1),
        amounts=replace(
            _SMALL.amounts,
            taught=400,
            preferred=1,
            rewarded=300,
            tested=20,
            validated=1,
            completed=1,
            unseen=1,
            texts=20,
        ),
        untrained=1,
    ),
    free_gigabytes=0,
    steps=6,
    batch=8,
    rate=1e-2,
    asked=20,
    answer=2,
    fitted=16,
    distil_steps=2,
    distil_batch=8,
    family_steps=6,
    family_distil_steps=2,
    family_asked=4,
)
