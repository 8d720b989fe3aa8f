"""TRL's trainers, set up for the recipes.

Returns one of TRL's own trainers, whose training loop is used unchanged. The differences: nothing is reported to
trackers by default, no model card is written, embeddings get no weight decay, frozen weights beside an adapter are held in
bfloat16 where that changes nothing, DPO takes the tokens that were made here, and GRPO that resumes after a kill takes the prompts in the order of an uninterrupted run.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneport.errors import ABSENT, Fault, TrainingError, UsageError
from tuneport.scoring.devices import best_device
from tuneport.tuning.distillation.distil_trainer import Collator, places_of, with_distil_loss
from tuneport.tuning.encode import Column
from tuneport.tuning.loading import narrow_frozen_weights, other_modules
from tuneport.tuning.losses import wants_plain_loss, with_checked_loss, with_fitting_loss
from tuneport.tuning.prepare import Prepared
from tuneport.tuning.recipes import DistilRecipe, DpoRecipe, GrpoRecipe, Lora, TuningRun
from tuneport.tuning.team import Team

# Kinds whose kernels read these modules' weights by themselves, past an adapter; peft refuses them by these names.
_MAMBAS = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
_MAMBA_KERNELS = ("out_proj", "conv1d")


def build_trainer(prepared: Prepared, model: Any, checkpoints: Path, team: Team, running: TuningRun) -> Any:
    """The trainer of the recipe, ready to train."""
    recipe = prepared.recipe
    args = _arguments(prepared, checkpoints, team, running)
    common = {
        "model": model,
        "processing_class": prepared.tokenizer,
        "peft_config": None if prepared.lora is None else _peft_config(prepared, model, prepared.lora),
    }
    if isinstance(recipe, DpoRecipe):
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        reference = None if prepared.lora else copy.deepcopy(model)  # with an adapter, the model without it
        return with_checked_loss(_ours(DPOTrainer), prepared.start.label)(
            **common,
            args=DPOConfig(**args, beta=recipe.dpo_beta, loss_type=[recipe.dpo_loss], max_length=None),
            ref_model=reference,
            train_dataset=_as_dataset(prepared.encoded.columns),
        )
    if isinstance(recipe, GrpoRecipe):
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer

        settings = GRPOConfig(
            **args,
            num_generations=recipe.num_generations,
            max_completion_length=recipe.max_completion_length,
            temperature=recipe.temperature,
            beta=recipe.kl_coef,
            reward_weights=[reward.weight for reward in prepared.rewards],
        )
        return with_checked_loss(_with_counted_passes(_ours(GRPOTrainer)), prepared.start.label)(
            **common,
            args=settings,
            reward_funcs=[_named(reward.function, reward.name) for reward in prepared.rewards],
            train_dataset=_prompts(prepared),
        )
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    if isinstance(recipe, DistilRecipe):
        assert prepared.lessons is not None, "the teacher has answered"
        return with_distil_loss(_ours(SFTTrainer), recipe.retain_weight)(
            **common,
            args=SFTConfig(
                **args, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False
            ),
            data_collator=Collator(prepared.lessons, prepared.tokenizer.pad_token_id),
            train_dataset=places_of(prepared.lessons),
        )
    at_once, _ = divide(recipe.examples_per_step, team.size, recipe.per_device_train_batch_size)
    return with_fitting_loss(_ours(SFTTrainer), wants_plain_loss(prepared, model, at_once))(
        **common,
        args=SFTConfig(**args, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=_as_dataset(prepared.encoded.columns),
    )


def _ours(trainer: Any) -> Any:
    """One of TRL's trainers, with what is said at the top of this file changed about it."""

    class Trainer(trainer):  # type: ignore[misc]  # TRL has no types
        def _send_telemetry(self) -> None:
            """Nothing is reported."""

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """None is written: tune.json says what was done."""

        def get_decay_parameter_names(self, model: Any) -> list[str]:
            """Transformers' own choice (no norms, no biases), without embeddings (section 3.1, footnote 4)."""
            from torch import nn

            tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
            spared = {name for name, parameter in model.named_parameters() if id(parameter) in tables}
            return [name for name in super().get_decay_parameter_names(model) if name not in spared]

        def _move_model_to_device(self, model: Any, device: Any) -> None:
            """Frozen weights take half the memory where that changes nothing; not with FSDP, which never comes here."""
            if self.args.bf16 and hasattr(model, "peft_config"):
                narrow_frozen_weights(model)
            super()._move_model_to_device(model, device)

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            """The tokens are made already (encode.py)."""
            return dataset

    Trainer.__name__ = trainer.__name__
    return Trainer


def _with_counted_passes(trainer: Any) -> Any:
    """TRL's GRPO trainer, which resumes in the pass over the data that it was in.

    Answers need nothing more: transformers restores the random states that they are drawn from.
    """

    class CountingTrainer(trainer):  # type: ignore[misc]  # TRL has no types
        def _get_train_sampler(self, dataset: Any = None) -> _CountedPasses:
            return _CountedPasses(super()._get_train_sampler(dataset), self)

    CountingTrainer.__name__ = trainer.__name__
    return CountingTrainer


class _CountedPasses:
    """TRL's order of the prompts. It draws a new one for each pass, each from where the last one left its generator.

    A run that goes on has begun no pass yet: the orders of earlier passes are drawn and discarded. (For SFT and DPO
    accelerate makes the order from the seed and the number of the pass.)
    """

    def __init__(self, sampler: Any, trainer: Any) -> None:
        self.sampler, self.trainer, self.begun = sampler, trainer, 0

    def __iter__(self) -> Iterator[int]:
        passed = int(self.trainer.state.epoch)
        while self.begun < passed:
            next(iter(self.sampler))
            self.begun += 1
        assert self.begun == passed, "no pass was begun but by training"
        self.begun += 1
        yield from self.sampler

    def __len__(self) -> int:
        return len(self.sampler)


def _arguments(prepared: Prepared, checkpoints: Path, team: Team, running: TuningRun) -> dict[str, Any]:
    """What the three trainers' settings have in common."""

    recipe = prepared.recipe
    device = best_device()
    bf16 = recipe.precision == "bfloat16" or (recipe.precision == "auto" and device == "cuda")
    device_batch, accumulated = divide(recipe.examples_per_step, team.size, recipe.per_device_train_batch_size)
    return {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": device_batch,
        "gradient_accumulation_steps": accumulated,
        "max_steps": prepared.steps,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type
        if recipe.lr_scheduler_type != "constant"
        else "constant_with_warmup",
        "warmup_steps": math.ceil(recipe.warmup_ratio * prepared.steps),
        "weight_decay": recipe.weight_decay,
        "adam_beta1": recipe.beta1,
        "adam_beta2": recipe.beta2,
        "max_grad_norm": recipe.max_grad_norm,
        "seed": recipe.seed,
        "bf16": bf16,
        "use_cpu": device == "cpu",
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "save_strategy": "steps",
        "save_steps": running.save_every,
        "save_total_limit": None,  # older ones are removed once the newest is marked (checkpoints.py)
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is not a number must be visible
        "report_to": running.report_to or "none",
        "project": "tuneport",
        "run_name": checkpoints.parent.name.removesuffix(".partial"),
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device == "cuda",
    }


def divide(examples: int, devices: int, most: int | None) -> tuple[int, int]:
    """Examples that each device takes at once, and how often before an update. Raises `UsageError`."""
    share, rest = divmod(examples, devices)
    if rest or not share:
        raise UsageError(f"{examples} examples per update cannot be split evenly over {devices} processes.")
    at_once = min(most or share, share)
    if share % at_once:
        told = f"each device has {share} examples per update, which this value does not divide"
        raise UsageError(Fault("per_device_train_batch_size", at_once, told))
    return at_once, share // at_once


def _as_dataset(columns: dict[str, Column]) -> Any:
    """Columns as the table that TRL wants, without copying numbers one by one."""
    import datasets
    import numpy as np
    import pyarrow

    table = {
        name: pyarrow.LargeListArray.from_arrays(
            np.frombuffer(column.ends, dtype=np.int64), np.frombuffer(column.values, dtype=np.int32)
        )
        for name, column in columns.items()
    }
    return datasets.Dataset(pyarrow.table(table))


def _prompts(prepared: Prepared) -> Any:
    """The prompts that leave room for an answer, with all other fields, which rewards may look at."""
    import datasets

    rows = [
        row
        for source, fits in zip(prepared.sources, prepared.kept, strict=True)
        for row, fit in zip(source.rows, fits, strict=True)
        if fit
    ]
    return datasets.Dataset.from_list([dict(row) for row in rows])


def _named(function: Any, name: str) -> Any:
    """The function under the name that the log shows; its failures become messages."""

    def reward(*args: Any, **given: Any) -> list[float | None]:
        try:
            found = list(function(*args, **given))
        except Exception as error:  # whatever a user's own function raises
            raise TrainingError(f"The reward {name} failed with {type(error).__name__}: {error}") from error
        wanted = len(given["completions"])
        if len(found) != wanted or not all(value is None or isinstance(value, int | float) for value in found):
            raise TrainingError(
                f"The reward {name} gave {len(found)} value(s) for {wanted} completions; it must return one number or "
                f"None for each."
            )
        return found

    reward.__name__ = name
    return reward


def _peft_config(prepared: Prepared, model: Any, lora: Lora) -> Any:
    """peft's settings of the adapter; rows of tokens are trained by themselves, unless their whole matrix is."""
    from peft import LoraConfig

    modules = {part for name, _ in model.named_modules() for part in (name, name.rpartition(".")[2])}
    absent = [name for name in (*_target_names(lora), *lora.modules_to_save) if name not in modules]
    if absent:
        there = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight")})
        told = f"{prepared.start.label} has no module named {', '.join(absent)}"
        raise UsageError(Fault("lora", ABSENT, told, f"It has {', '.join(there)}"))
    saved = list(lora.modules_to_save)
    trained: dict[str, list[int]] = {}
    taught = [prepared.tokenizer.convert_tokens_to_ids(token) for token in prepared.taught]
    if taught:
        names = {id(module): name for name, module in model.named_modules()}
        layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
        tied = len(layers) == 2 and layers[0].weight is layers[1].weight
        for layer in layers[:1] if tied else layers:
            # By its whole name: peft takes all modules whose names end with what it is given.
            if names[id(layer)].rpartition(".")[2] not in (*saved, *_target_names(lora)):
                trained[names[id(layer)]] = sorted(taught)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha if lora.alpha is not None else 2 * lora.rank,  # type: ignore[arg-type]  # a float is fine
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        exclude_modules=_excluded(prepared, model, lora),
        use_rslora=lora.rslora,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        modules_to_save=saved or None,
        trainable_token_indices=trained or None,
    )


def _excluded(prepared: Prepared, model: Any, lora: Lora) -> str | None:
    """Modules that get no adapter, as an expression: towers of a multimodal model; of all linear layers those that are more."""
    from torch.nn import Linear

    found = [re.escape(name) + r"(\..*)?" for name in other_modules(model)] if prepared.text_only else []
    if isinstance(lora.targets, str):
        more = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, Linear) and not gives_one_tensor(module)
        }
        more.update(_MAMBA_KERNELS if model.config.model_type in _MAMBAS else ())
        found += [rf"(.*\.)?{re.escape(name)}" for name in sorted(more)]
    return "|".join(found) or None


def gives_one_tensor(layer: Any) -> bool:
    """Whether a linear layer is one: Llama 4's router is too by its class, and gives two things, around which peft fails."""
    import torch

    if type(layer).forward is torch.nn.Linear.forward:
        return True
    with torch.no_grad():
        try:
            return isinstance(layer(torch.zeros(2, layer.in_features)), torch.Tensor)
        except (AttributeError, IndexError, TypeError, ValueError, RuntimeError):
            return False  # it wants more than its inputs


def _target_names(lora: Lora) -> tuple[str, ...]:
    return () if isinstance(lora.targets, str) else lora.targets
