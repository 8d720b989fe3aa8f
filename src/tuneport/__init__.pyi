"""What editors and mypy see of tuneport: made from the records of options by `make docs`."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias

import torch

from tuneport.comparison.distances import Distances as Distances
from tuneport.diagnosis.loss_path import LossPath as LossPath
from tuneport.diagnosis.pair_comparison import PairComparison as PairComparison
from tuneport.diagnosis.pair_comparison import Ranking as Ranking
from tuneport.engine.plan_text import PlannedRun as PlannedRun
from tuneport.engine.run import Output as Output
from tuneport.inspection import Description as Description
from tuneport.publishing.commit import Published as Published
from tuneport.reporting.run import Report as Report
from tuneport.scoring.run import Scores as Scores
from tuneport.studies.run.run import StudyOutcome as StudyOutcome
from tuneport.tuning.run import Tuned as Tuned
from tuneport.verification import Proof as Proof
from tuneport.tuning.recipes import Lora as Lora
from tuneport.tuning.recipes import Recipe as Recipe

DataFrame: TypeAlias = Any  # of pandas
Dataset: TypeAlias = Any  # of datasets
__version__: str
__all__ = ["apply", "compare", "diff", "distances", "evaluate", "inspect", "path", "plan", "publish", "report", "study", "transfer", "tune", "verify"]

def apply(
    diffs: str | PathLike[str] | Sequence[str | tuple[str, float]] | Mapping[str, float],
    onto: str | PathLike[str],
    out: str | PathLike[str],
    *,
    scale: float = ...,
    rules: Mapping[str, float] | Sequence[str] = ...,
    drop: str | Sequence[str] = ...,
    renames: Mapping[str, str] | Sequence[str] = ...,
    dtype: str | torch.dtype | None = ...,
    rounding: Literal['nearest', 'stochastic'] = ...,
    seed: int = ...,
    config: Mapping[str, str] | Sequence[str] = ...,
    sidecar: Mapping[str, str] | Sequence[str] = ...,
    new_tokens: Literal['append', 'all', 'drop'] = ...,
    vocabulary: str | Mapping[str, str] | Sequence[str] | None = ...,
    digest_inputs: bool = ...,
    shard_size: str = ...,
    strict: bool = ...,
    allow_nonfinite: bool = ...,
    overwrite: bool = ...,
    max_memory: str | None = ...,
    workers: int | None = ...,
    warn: Callable[[str], None] | None = ...,
) -> Output: ...
def compare(
    base: str | PathLike[str] | None = ...,
    tuned: str | PathLike[str] | None = ...,
    onto: str | PathLike[str] | Sequence[str | PathLike[str]] = ...,
    out: str | PathLike[str] | None = ...,
    *,
    diffs: str | PathLike[str] | Sequence[str | tuple[str, float]] | Mapping[str, float] | None = ...,
    tuned_target: str | PathLike[str] | None = ...,
    spectrum: bool = ...,
    scale: float = ...,
    rules: Mapping[str, float] | Sequence[str] = ...,
    drop: str | Sequence[str] = ...,
    renames: Mapping[str, str] | Sequence[str] = ...,
    dtype: str | torch.dtype | None = ...,
    config: Mapping[str, str] | Sequence[str] = ...,
    sidecar: Mapping[str, str] | Sequence[str] = ...,
    new_tokens: Literal['append', 'all', 'drop'] = ...,
    vocabulary: str | Mapping[str, str] | Sequence[str] | None = ...,
    overwrite: bool = ...,
    max_memory: str | None = ...,
    workers: int | None = ...,
) -> PairComparison | Ranking: ...
def diff(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    out: str | PathLike[str],
    *,
    encoding: Literal['exact'] = ...,
    drop: str | Sequence[str] = ...,
    renames: Mapping[str, str] | Sequence[str] = ...,
    vocabulary: str | Mapping[str, str] | Sequence[str] | None = ...,
    shard_size: str = ...,
    strict: bool = ...,
    allow_nonfinite: bool = ...,
    overwrite: bool = ...,
    max_memory: str | None = ...,
    workers: int | None = ...,
    warn: Callable[[str], None] | None = ...,
) -> Output: ...
def distances(
    versions: Mapping[str, str | PathLike[str]],
    tuned: Mapping[str, str | PathLike[str]] | None = ...,
) -> Distances: ...
def evaluate(
    models: str | PathLike[str] | Sequence[str | PathLike[str]] = ...,
    tasks: str | PathLike[str] | DataFrame | Dataset | Sequence[str | PathLike[str] | DataFrame | Dataset] = ...,
    out: str | PathLike[str] | None = ...,
    *,
    columns: Mapping[str, str] | None = ...,
    suite: str | None = ...,
    variant: Literal['auto', 'base', 'tuned'] = ...,
    run_code_in: str | None = ...,
    match: str | None = ...,
    loss: bool = ...,
    max_new_tokens: int | None = ...,
    limit: int | None = ...,
    chat: bool = ...,
    chat_template: str | PathLike[str] | None = ...,
    backend: Literal['hf', 'vllm', 'olmes'] = ...,
    device: str | None = ...,
    dtype: str | torch.dtype | None = ...,
    batch_size: int | str = ...,
    against: str | PathLike[str] | Sequence[str | PathLike[str]] = ...,
    recovered_gain: Sequence[Sequence[str]] = ...,
    trained_on: str | PathLike[str] | Sequence[str | PathLike[str]] = ...,
    allow_selection: bool = ...,
    seed: int = ...,
    strict: bool = ...,
    overwrite: bool = ...,
) -> Scores: ...
def inspect(
    path: str | PathLike[str],
) -> Description: ...
def path(
    a: str | PathLike[str],
    b: str | PathLike[str],
    data: str | PathLike[str] | DataFrame | Dataset | Sequence[str | PathLike[str] | DataFrame | Dataset],
    out: str | PathLike[str] | None = ...,
    *,
    points: int | None = ...,
    refine: int | None = ...,
    alphas: float | Sequence[float] | None = ...,
    beyond: float | None = ...,
    threshold: float = ...,
    allow_config: bool = ...,
    loss_only: bool = ...,
    match: str | None = ...,
    max_new_tokens: int | None = ...,
    columns: Mapping[str, str] | None = ...,
    chat_template: str | PathLike[str] | None = ...,
    device: str | None = ...,
    batch_size: int | str = ...,
    seed: int = ...,
    strict: bool = ...,
    overwrite: bool = ...,
) -> LossPath: ...
def plan(
    base: str | PathLike[str] | None = ...,
    tuned: str | PathLike[str] | None = ...,
    onto: str | PathLike[str] | None = ...,
    out: str | PathLike[str] | None = ...,
    *,
    diffs: str | PathLike[str] | Sequence[str | tuple[str, float]] | Mapping[str, float] | None = ...,
    scale: float = ...,
    rules: Mapping[str, float] | Sequence[str] = ...,
    drop: str | Sequence[str] = ...,
    renames: Mapping[str, str] | Sequence[str] = ...,
    dtype: str | torch.dtype | None = ...,
    rounding: Literal['nearest', 'stochastic'] = ...,
    seed: int = ...,
    config: Mapping[str, str] | Sequence[str] = ...,
    sidecar: Mapping[str, str] | Sequence[str] = ...,
    new_tokens: Literal['append', 'all', 'drop'] = ...,
    vocabulary: str | Mapping[str, str] | Sequence[str] | None = ...,
    digest_inputs: bool = ...,
    shard_size: str = ...,
    strict: bool = ...,
    allow_nonfinite: bool = ...,
    overwrite: bool = ...,
    max_memory: str | None = ...,
    workers: int | None = ...,
) -> PlannedRun: ...
def publish(
    folder: str | PathLike[str],
    repo: str,
    *,
    overwrite: bool = ...,
    scores: str | PathLike[str] | None = ...,
    license: str | None = ...,
    max_memory: str | None = ...,
    workers: int | None = ...,
) -> Published: ...
def report(
    study: str | PathLike[str],
    out: str | PathLike[str] | None = ...,
    *,
    format: Literal['page', 'markdown'] = ...,
) -> Report: ...
def study(
    file: str | PathLike[str],
    out: str | PathLike[str],
    *,
    engine: Literal['local', 'ray'] = ...,
    jobs: int = ...,
    ray_address: str | None = ...,
    families: int | Sequence[int] = ...,
    only: str | Sequence[str] = ...,
) -> StudyOutcome: ...
def transfer(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    onto: str | PathLike[str],
    out: str | PathLike[str],
    *,
    scale: float = ...,
    rules: Mapping[str, float] | Sequence[str] = ...,
    drop: str | Sequence[str] = ...,
    renames: Mapping[str, str] | Sequence[str] = ...,
    dtype: str | torch.dtype | None = ...,
    rounding: Literal['nearest', 'stochastic'] = ...,
    seed: int = ...,
    config: Mapping[str, str] | Sequence[str] = ...,
    sidecar: Mapping[str, str] | Sequence[str] = ...,
    new_tokens: Literal['append', 'all', 'drop'] = ...,
    vocabulary: str | Mapping[str, str] | Sequence[str] | None = ...,
    digest_inputs: bool = ...,
    shard_size: str = ...,
    strict: bool = ...,
    allow_nonfinite: bool = ...,
    overwrite: bool = ...,
    max_memory: str | None = ...,
    workers: int | None = ...,
    warn: Callable[[str], None] | None = ...,
) -> Output: ...
def tune(
    model: str | PathLike[str],
    data: str | PathLike[str] | DataFrame | Dataset | Sequence[str | PathLike[str] | DataFrame | Dataset],
    recipe: str | Recipe = ...,
    *,
    out: str | PathLike[str],
    columns: Mapping[str, str] | None = ...,
    mix: Mapping[str, float | int] | Sequence[str] = ...,
    chat_template: str | PathLike[str] | None = ...,
    end_token: str | None = ...,
    lora: str | Lora | None = ...,
    dtype: str | torch.dtype | None = ...,
    learning_rate: float | None = ...,
    steps: int | None = ...,
    epochs: float | None = ...,
    batch_size: int | None = ...,
    lr_scheduler_type: Literal['linear', 'cosine', 'constant'] | None = ...,
    warmup_ratio: float | None = ...,
    max_length: int | None = ...,
    weight_decay: float | None = ...,
    beta1: float | None = ...,
    beta2: float | None = ...,
    max_grad_norm: float | None = ...,
    seed: int | None = ...,
    precision: Literal['auto', 'float32', 'bfloat16'] | None = ...,
    per_device_train_batch_size: int | None = ...,
    gradient_checkpointing: bool | None = ...,
    dpo_beta: float | None = ...,
    dpo_loss: Literal['sigmoid', 'sigmoid_norm'] | None = ...,
    num_generations: int | None = ...,
    max_completion_length: int | None = ...,
    temperature: float | None = ...,
    kl_coef: float | None = ...,
    rewards: str | Sequence[str] | None = ...,
    save_every: int = ...,
    eval_every: int | None = ...,
    tasks: str | Sequence[str] = ...,
    match: str | None = ...,
    max_new_tokens: int | None = ...,
    eval_batch_size: int = ...,
    report_to: Literal['tensorboard', 'trackio'] | None = ...,
    shard_size: str = ...,
    strict: bool = ...,
    overwrite: bool = ...,
) -> Tuned: ...
def verify(
    out: str | PathLike[str],
    base: str | PathLike[str] | None = ...,
    tuned: str | PathLike[str] | None = ...,
    onto: str | PathLike[str] | None = ...,
    *,
    diffs: str | PathLike[str] | Sequence[str | PathLike[str]] = ...,
    full: bool = ...,
    seed: int = ...,
    max_memory: str | None = ...,
    workers: int | None = ...,
) -> Proof: ...
