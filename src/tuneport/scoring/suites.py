"""The paper's evaluations by name: tasks, number of shots, metric, and where ours differ from theirs.

A suite has a `base` and a `tuned` variant: the paper scored bases with pretraining variants of the tasks, and tuned and
merged models with instruction variants. Tables 9 and 10 are stored here cell by cell; published scores are printed as
"published, other harness" and never asserted. Nothing here needs the network or the harness.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from tuneport.errors import Fault, UsageError

Variant = Literal["base", "tuned"]
VARIANTS: tuple[Variant, ...] = ("base", "tuned")

_MINERVA = tuple(
    f"minerva_math_{subject}"
    for subject in (
        "algebra", "counting_and_prob", "geometry", "intermediate_algebra", "num_theory", "prealgebra", "precalc",
    )
)  # fmt: skip
_IFEVAL = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")


@dataclass(frozen=True)
class TaskRecipe:
    """How one variant of a task is asked: tasks of the harness (pooled) or one of ours, and what counts."""

    tasks: tuple[str, ...]
    metric: str
    template: str
    shots: int
    own: str | None = None
    chat: bool = False
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class SuiteTask:
    """A row of Table 9 or 10: ``shots``, ``cot`` and ``metric`` as printed there, and our two recipes for it."""

    title: str
    shots: int
    cot: bool
    metric: str
    base: TaskRecipe
    tuned: TaskRecipe
    deviations: tuple[str, ...] = ()

    def recipe(self, variant: Variant) -> TaskRecipe:
        """The recipe of a variant."""
        return self.base if variant == "base" else self.tuned


@dataclass(frozen=True)
class Suite:
    """An evaluation of the paper's: its rows, where they stand, and the scores that were published."""

    name: str
    source: str
    tasks: tuple[SuiteTask, ...]
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _generated(
    tasks: tuple[str, ...], metric: str, shots: int, template: str, **more: Any
) -> tuple[TaskRecipe, TaskRecipe]:
    """One recipe for a base model, and the same through the chat template for a tuned one."""
    return (
        TaskRecipe(tasks, metric, template, shots, **more),
        TaskRecipe(tasks, metric, f"{template}, through the chat template, shots as turns", shots, chat=True, **more),
    )


_GSM8K_LLAMA = SuiteTask(
    "GSM8K", 8, True, "exact match acc.",
    TaskRecipe(("gsm8k_cot",), "exact_match,strict-match", "Q: … A: … The answer is N.", 8, max_new_tokens=1024),
    TaskRecipe(("gsm8k_cot_llama",), "exact_match,strict-match", "Llama's, shots as turns of a chat", 8, chat=True, max_new_tokens=1024),
)  # fmt: skip
_MATH = SuiteTask(
    "MATH", 4, True, "exact match acc.",
    *_generated(_MINERVA, "exact_match,none", 4, "Minerva's: Problem: … Solution: …", max_new_tokens=1024),
    deviations=("Llama 3 judges with sympy and a model as judge; here the normalised final answer has to match.",),
)  # fmt: skip
_GPQA = SuiteTask(
    "GPQA", 0, True, "exact match acc.",
    *_generated(("tuneport_gpqa_main",), "exact_match,none", 0, "question, choices (A) to (D), reasoning", own="gpqa_main"),
    deviations=("Own prompt; the order of choices is fixed by the question's text (the harness shuffles it in every "
        "run).",),
)  # fmt: skip
_LETTERS = "Question: … A. … B. … Answer:, letters compared by likelihood"
_MMLU = SuiteTask(
    "MMLU", 0, True, "exact match acc.",
    TaskRecipe(("mmlu",), "acc,none", "the harness's, letters compared by likelihood", 0),
    TaskRecipe(("mmlu_cot_llama",), "exact_match,strict_match", "Llama's reasoning prompt", 0, chat=True),
    deviations=(
        "base: by likelihood, without reasoning, because base models do not follow the format; the published 66.8 "
        "for Llama 3.1 8B is close to Meta's 5-shot score (66.7), not to a 0-shot one.",
        "The average is over questions; Meta's is over subjects.",
    ),
)  # fmt: skip
_IF = "the prompt as it stands"

LLAMA3 = Suite(
    "llama3",
    "Table 9 (after meta-llama/llama-models, models/llama3_1/eval_details.md); scores of Tables 1 and 7",
    (
        _GSM8K_LLAMA,
        _MATH,
        SuiteTask(
            "ARC-C", 0, False, "acc.",
            TaskRecipe(("tuneport_arc_challenge",), "acc,none", _LETTERS, 0, own="arc_challenge"),
            TaskRecipe(("arc_challenge_llama",), "exact_match,strict_match", "Llama's, the letter generated", 0, chat=True),
            deviations=("base: Meta shows 25 examples to bases; the table says 0.",),
        ),
        _GPQA,
        _MMLU,
        SuiteTask(
            "IFEval", 0, False, "avg. acc. (strict & loose)",
            *_generated(("ifeval",), "+".join(f"{name},none" for name in _IFEVAL), 0, _IF, max_new_tokens=1280),
            deviations=("The mean of four: prompts and instructions, strict and loose, as Meta's page says.",),
        ),
    ),
    {
        "Llama 3.0 8B": {"GSM8K": 55.6, "MATH": 17.3, "ARC-C": 79.7, "GPQA": 22.3, "MMLU": 66.7, "IFEval": 34.5},
        "Llama 3.0 8B Instruct": {"GSM8K": 81.1, "MATH": 28.8, "ARC-C": 82.4, "GPQA": 31.5, "MMLU": 64.9, "IFEval": 76.6},
        "Llama 3.0 8B + Δ3.1": {"GSM8K": 82.8, "MATH": 44.7, "ARC-C": 83.0, "GPQA": 25.9, "MMLU": 70.0, "IFEval": 76.6},
        "Llama 3.1 8B": {"GSM8K": 56.6, "MATH": 19.3, "ARC-C": 79.2, "GPQA": 21.9, "MMLU": 66.8, "IFEval": 36.4},
        "Llama 3.1 8B Instruct": {"GSM8K": 86.5, "MATH": 50.3, "ARC-C": 83.8, "GPQA": 31.3, "MMLU": 72.9, "IFEval": 80.5},
        "Llama 3.1 8B + Δ3.0": {"GSM8K": 79.8, "MATH": 29.9, "ARC-C": 82.9, "GPQA": 32.6, "MMLU": 65.1, "IFEval": 83.3},
    },
    (
        "In the text at hand the row of Table 1 labelled Llama 3.1 8B + Δ3.0 holds the base, and the row below it, without "
        "a label, holds + Δ3.0; Table 7 confirms the base's. Llama 3.0's base is only in Table 7.",
    ),
)  # fmt: skip

TULU3 = Suite(
    "tulu3",
    "Table 10 (after Lambert et al., 2024; Muennighoff et al., 2025; Yang et al., 2024); scores of Tables 7 and 8",
    (
        _GSM8K_LLAMA,
        SuiteTask(
            "MATH", 4, True, "flex exact match acc.",
            *_generated(_MINERVA, "math_verify,none", 4, "Minerva's: Problem: … Solution: …", max_new_tokens=1024),
            deviations=("OLMES's flexible match tries several ways to find the answer; here math-verify judges.",),
        ),
        SuiteTask(
            "ARC-C", 5, False, "acc.",
            TaskRecipe(("tuneport_arc_challenge",), "acc,none", _LETTERS, 5, own="arc_challenge"),
            TaskRecipe(("tuneport_arc_challenge",), "acc,none", f"{_LETTERS}, through the chat template", 5, own="arc_challenge", chat=True),
            deviations=("The first five training questions are the shots; OLMES has five chosen by hand.",),
        ),
        _GPQA,
        _MMLU,
        SuiteTask(
            "IFEval", 0, False, "prompt-level loose acc.",
            *_generated(("ifeval",), "prompt_level_loose_acc,none", 0, _IF, max_new_tokens=1280),
        ),
        SuiteTask(
            "MATH500", 0, True, "exact match acc.",
            *_generated(("minerva_math500",), "exact_match,none", 0, "Problem: … Solution:", max_new_tokens=2048),
            deviations=("Without shots, the final answer must have a form that Minerva's extraction knows.",),
        ),
        SuiteTask(
            "GPQA-Diamond", 0, True, "exact match acc.",
            *_generated(("tuneport_gpqa_diamond",), "exact_match,none", 0, "question, choices (A) to (D), reasoning", own="gpqa_diamond"),
            deviations=_GPQA.deviations,
        ),
        SuiteTask(
            "TabMWP", 0, True, "exact match acc.",
            *_generated(("tuneport_tabmwp",), "exact_match,none", 0, "table as text, question, reasoning", own="tabmwp"),
            deviations=("The harness lacks the task; own prompt, the whole test set.",),
        ),
        SuiteTask(
            "ASDiv", 0, True, "exact match acc.",
            *_generated(("asdiv_cot_llama",), "exact_match,flexible-extract", 0, "Problem: … The final answer is …", max_new_tokens=512),
            deviations=("The harness's `asdiv` compares likelihoods; its reasoning task is taken, without its 8 shots.",),
        ),
    ),
    {
        "Tülu 3 8B SFT": {"GSM8K": 76.2, "MATH": 31.6, "ARC-C": 79.1, "GPQA": 31.0, "MMLU": 65.1, "IFEval": 72.0},
        "Tülu 3 8B DPO": {"GSM8K": 84.1, "MATH": 42.4, "ARC-C": 79.6, "GPQA": 33.3, "MMLU": 68.4, "IFEval": 81.7},
        "Tülu 3 8B": {"GSM8K": 87.9, "MATH": 43.4, "ARC-C": 79.4, "GPQA": 34.4, "MMLU": 67.9, "IFEval": 81.5},
        "Llama 3.0 8B + ΔSFT": {"GSM8K": 71.8, "MATH": 26.3, "ARC-C": 77.9, "GPQA": 32.1, "MMLU": 63.5, "IFEval": 69.1},
        "Llama 3.0 8B + ΔDPO": {"GSM8K": 81.1, "MATH": 38.1, "ARC-C": 78.6, "GPQA": 31.9, "MMLU": 67.5, "IFEval": 82.9},
        "Llama 3.0 8B + ΔRLVR": {"GSM8K": 85.1, "MATH": 37.6, "ARC-C": 79.1, "GPQA": 32.4, "MMLU": 66.2, "IFEval": 82.4},
        "Tülu 3.1 8B": {"GSM8K": 89.9, "MATH": 43.3, "ARC-C": 79.0, "GPQA": 31.4, "MMLU": 67.6, "IFEval": 84.1},
        "Llama 3.0 8B + ΔGRPO": {"GSM8K": 85.8, "MATH": 39.5, "ARC-C": 78.2, "GPQA": 29.4, "MMLU": 65.0, "IFEval": 82.6},
        "OLMo 2 7B": {"GSM8K": 67.2, "MATH": 19.2, "ARC-C": 79.9, "GPQA": 20.5, "MMLU": 63.6, "IFEval": 23.0},
        "OLMo 2 7B SFT": {"GSM8K": 71.7, "MATH": 25.2, "ARC-C": 79.7, "GPQA": 27.9, "MMLU": 61.2, "IFEval": 67.7},
        "OLMo 2 7B DPO": {"GSM8K": 82.5, "MATH": 31.3, "ARC-C": 80.5, "GPQA": 30.6, "MMLU": 62.1, "IFEval": 73.2},
        "OLMo 2 7B Instruct": {"GSM8K": 85.3, "MATH": 29.7, "ARC-C": 80.6, "GPQA": 29.7, "MMLU": 63.3, "IFEval": 75.6},
    },
    ("The paper scored these with OLMES; --backend olmes calls it where it is installed.",),
)  # fmt: skip

_GLOBAL_PUBLISHED = {
    "mg": {"Llama 3.0 8B Instruct": 23.1, "+ FT": 30.8, "Llama 3.1 8B Instruct": 27.6, "+ Δ3.0": 32.3},
    "si": {"Llama 3.0 8B Instruct": 23.3, "+ FT": 29.0, "Llama 3.1 8B Instruct": 33.0, "+ Δ3.0": 32.3},
    "tr": {"Llama 3.0 8B Instruct": 30.8, "+ FT": 43.2, "Llama 3.1 8B Instruct": 27.7, "+ Δ3.0": 43.2},
}
_CODE = "the problem, a Python program in a fenced block"
LIVECODEBENCH = Suite(
    "livecodebench",
    "the published abstract, which names a gain of 15.7 points; no table gives its setting",
    (
        SuiteTask(
            "LiveCodeBench", 0, False, "pass@1",
            *_generated(("tuneport_livecodebench",), "pass@1,none", 0, _CODE, own="livecodebench"),
            deviations=("The paper does not say which release, prompt or sampling; here release 1, own prompt, greedy.",),
        ),
    ),
    {"Llama 3.1 8B + Δ3.0, gain over Llama 3.1 8B": {"LiveCodeBench": 15.7}},
    ("Programs written by models run only in the sandbox of --run-code-in.",),
)  # fmt: skip
NAMES = ("llama3", "global-mmlu:LANG", "tulu3", "livecodebench")


def find_suite(name: str) -> Suite:
    """The suite of this name. Raises `UsageError` that lists what there is."""
    if name == "llama3":
        return LLAMA3
    if name == "tulu3":
        return TULU3
    if name == "livecodebench":
        return LIVECODEBENCH
    family, _, language = name.partition(":")
    if family == "global-mmlu" and re.fullmatch(r"[a-z]{2,3}", language):
        return _global_mmlu(language)
    raise UsageError(
        Fault("suite", name, f"must be one of {', '.join(NAMES)} (LANG: mg, si, tr and others of Global MMLU)")
    )


def _global_mmlu(language: str) -> Suite:
    recipe = TaskRecipe(
        (f"global_mmlu_full_{language}",), "acc,none", "the harness's, letters compared by likelihood", 0
    )
    title = f"Global MMLU ({language})"
    return Suite(
        f"global-mmlu:{language}",
        "Table 9, last row; scores of Table 2",
        (SuiteTask(title, 0, False, "acc.", recipe, recipe),),
        {model: {title: score} for model, score in _GLOBAL_PUBLISHED.get(language, {}).items()},
        (
            "The full set: the harness's default one lacks mg, si and tr.",
            "Without a chat template in both variants: the paper does not say that it used one.",
        ),
    )


def as_record(suite: Suite) -> dict[str, Any]:
    """The suite for `--show --json`."""
    return {
        "suite": suite.name,
        "source": suite.source,
        "tasks": [
            {
                "title": task.title,
                "table": {"shots": task.shots, "cot": task.cot, "metric": task.metric},
                **{variant: vars(task.recipe(variant)) for variant in VARIANTS},
                "deviations": list(task.deviations),
            }
            for task in suite.tasks
        ],
        "published_other_harness": suite.published,
        "notes": list(suite.notes),
    }


def in_words(suite: Suite) -> str:
    """The suite for `--show`."""
    lines = [f"{suite.name}: {suite.source}", ""]
    for task in suite.tasks:
        cot = "reasoning" if task.cot else "no reasoning"
        lines.append(f"{task.title}: {task.shots}-shot, {cot}, {task.metric}")
        for variant in VARIANTS:
            recipe = task.recipe(variant)
            names = recipe.tasks[0] if len(recipe.tasks) == 1 else f"{len(recipe.tasks)} × minerva_math"
            limit = "" if recipe.max_new_tokens is None else f"; at most {recipe.max_new_tokens} tokens"
            lines.append(f"  {variant:5}  {names}, {recipe.shots} shots, {recipe.metric}; {recipe.template}{limit}")
        lines += [f"  differs: {deviation}" for deviation in task.deviations]
    if suite.published:
        lines += ["", "published, other harness (percent):"]
        width = max(map(len, suite.published))
        for model, scores in suite.published.items():
            lines.append(f"  {model:{width}}  " + "  ".join(f"{name} {score}" for name, score in scores.items()))
    return "\n".join([*lines, "", *suite.notes])
