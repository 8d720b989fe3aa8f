"""What the files of a PEFT adapter say: its config, and the names of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuneport.checkpoint.adapter_names import PREFIX
from tuneport.diffvector.exports.peft_contents import AdapterContents, HeldMatrix
from tuneport.diffvector.exports.peft_modules import target_modules


def adapter_config(
    contents: AdapterContents, ranks: Sequence[int], target: Mapping[str, Any], hub_id: str | None, revision: str | None
) -> dict[str, Any]:
    """adapter_config.json: scaling 1 for every module, also for readers that know no patterns."""
    of_module = {
        name: rank for matrix, rank in zip(contents.held, ranks, strict=True) for name in matrix.modules if rank
    }
    without = [name for matrix, rank in zip(contents.held, ranks, strict=True) if not rank for name in matrix.modules]
    rank = max(of_module.values(), default=1)
    others = {name: own for name, own in sorted(of_module.items()) if own != rank}
    architectures = target.get("architectures") or [""]
    causal = str(architectures[0]).endswith(("ForCausalLM", "LMHeadModel"))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if causal else None,
        "base_model_name_or_path": hub_id,
        "revision": revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": any(each.module.kind == "conv1d" for each in contents.held),
        "init_lora_weights": True,
        "target_modules": target_modules(of_module, [*contents.others, *without]),
        "ensure_weight_tying": any(each.module.also for each in contents.held),
        "modules_to_save": sorted({name for each in contents.saved for name in each.modules}) or None,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
    }


def tensor_names(matrix: HeldMatrix) -> Iterator[tuple[str, str]]:
    """The adapter's tensors of a matrix, each with the factor that it is: B is outputs×rank, A rank×inputs."""
    module = f"{PREFIX}{matrix.module.name}"
    if matrix.module.kind == "embedding":
        yield f"{module}.lora_embedding_A", "left turned"
        yield f"{module}.lora_embedding_B", "right"
    else:
        turned = matrix.module.turned
        yield f"{module}.lora_A.weight", "left turned" if turned else "right turned"
        yield f"{module}.lora_B.weight", "right" if turned else "left"
    if matrix.module.also:  # a tied head: a linear module with the embedding's weight
        yield f"{PREFIX}{matrix.module.also}.lora_A.weight", "right turned"
        yield f"{PREFIX}{matrix.module.also}.lora_B.weight", "left"
