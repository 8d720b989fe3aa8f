"""Our own task definitions, if the harness has none or one that differs from the paper's.

Each function returns a config for the harness; prompts are ours, following what the sources say of theirs.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from tuneport.errors import ABSENT, Fault, UsageError
from tuneport.scoring.sandbox.sandbox import Sandbox, program_in

# The makers' test set, where they publish it; it is not on the Hub under their name.
TABMWP = "https://raw.githubusercontent.com/lupantech/PromptPG/main/data/tabmwp/problems_test.json"
LIVECODEBENCH = ("livecodebench/code_generation_lite", "test.jsonl")  # release 1, 400 problems
LETTERS = ("A", "B", "C", "D", "E")
_EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]


def arc_challenge() -> dict[str, Any]:
    """ARC-Challenge, all choices shown, likelihoods of their letters compared (Llama 3's "MMLU setup")."""

    def shown(document: Mapping[str, Any]) -> str:
        texts = document["choices"]["text"]
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
        return "\n".join([f"Question: {document['question'].strip()}", *lines, "Answer:"])

    return {
        "task": "tuneport_arc_challenge",
        "dataset_path": "allenai/ai2_arc",
        "dataset_name": "ARC-Challenge",
        "output_type": "multiple_choice",
        "training_split": "train",
        "test_split": "test",
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": shown,
        "doc_to_choice": lambda document: list(LETTERS[: len(document["choices"]["text"])]),
        # Some questions label their choices 1 to 4.
        "doc_to_target": lambda document: document["choices"]["label"].index(document["answerKey"]),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def gpqa(subset: str) -> dict[str, Any]:
    """GPQA, no shots, reasoning first. The harness shuffles the choices in every run; here the order follows from the
    question's text, so that all models are asked the same.
    """

    def arranged(document: Mapping[str, Any]) -> tuple[list[str], str]:
        texts = [
            " ".join(str(document[key]).split())
            for key in ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
        ]
        order = list(range(4))
        random.Random(hashlib.sha256(document["Question"].encode()).hexdigest()).shuffle(order)
        return [texts[place] for place in order], LETTERS[order.index(0)]

    def asked(document: Mapping[str, Any]) -> str:
        lines = [f"({letter}) {text}" for letter, text in zip(LETTERS, arranged(document)[0], strict=False)]
        return "\n".join(
            [
                f"Question: {document['Question'].strip()}",
                "Choices:",
                *lines,
                'Reason step by step, and end with "The answer is (X)", X being one of A, B, C and D.',
                "",
            ]
        )

    return {
        "task": f"tuneport_{subset}",
        "dataset_path": "Idavidrein/gpqa",
        "dataset_name": subset,
        "output_type": "generate_until",
        "training_split": "train",
        "test_split": "train",
        "doc_to_text": asked,
        "doc_to_target": lambda document: arranged(document)[1],
        "process_results": _judged(lambda document: arranged(document)[1], _last_letter),
        "metric_list": _EXACT,
        "generation_kwargs": {"until": [], "max_gen_toks": 2048, "do_sample": False},
        "metadata": {"version": 1.0},
    }


def tabmwp(data: str) -> dict[str, Any]:
    """TabMWP, no shots, reasoning first: a table as text, a question, a number or one of several words."""

    def asked(document: Mapping[str, Any]) -> str:
        title, unit = document.get("table_title"), document.get("unit")
        lines = [
            "Read the table, and answer the question about it. Reason step by step, and end with "
            '"The answer is X", X being the answer alone.',
            "",
            *([f"Title: {title}"] if title else []),
            str(document["table"]),
            "",
            f"Question: {document['question']}" + (f" (in {unit})" if unit else ""),
        ]
        if document.get("choices"):
            lines.append(f"Choices: {', '.join(document['choices'])}")
        return "\n".join([*lines, "Answer:"])

    return {
        "task": "tuneport_tabmwp",
        "custom_dataset": lambda **_: {"test": _tabmwp_rows(data)},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": asked,
        "doc_to_target": lambda document: str(document["answer"]),
        "process_results": _judged(lambda document: str(document["answer"]), _last_answer),
        "metric_list": _EXACT,
        "generation_kwargs": {"until": ["\n\nQuestion:"], "max_gen_toks": 512, "do_sample": False},
        "metadata": {"version": 1.0},
    }


def livecodebench(sandbox: Sandbox | None) -> dict[str, Any]:
    """LiveCodeBench, no shots: a problem, a program, all tests passed in the user's sandbox."""
    if sandbox is None:
        told = "is missing; LiveCodeBench runs code written by models, which needs a sandbox"
        remedy = (
            "Give a command that runs Python from its stdin, for example "
            "'docker run --rm -i --network none --memory 4g --pids-limit 256 python:3.12 python -'"
        )
        raise UsageError(Fault("run_code_in", ABSENT, told, remedy))

    def documents(**_: Any) -> Any:
        from datasets import load_dataset
        from huggingface_hub import hf_hub_download

        file = hf_hub_download(*LIVECODEBENCH, repo_type="dataset")
        return {"test": load_dataset("json", data_files={"test": file})["test"]}

    def asked(document: Mapping[str, Any]) -> str:
        how = (
            f"Complete this code:\n```python\n{document['starter_code']}\n```"
            if document["starter_code"]
            else "Read the input from stdin and print the answer."
        )
        return (
            f"{document['question_content'].strip()}\n\n{how}\nAnswer with one Python program in a ```python block.\n"
        )

    def judged(document: Mapping[str, Any], results: list[str]) -> dict[str, float]:
        return {"pass@1": float(sandbox.passes(program_in(results[0]), document))}

    return {
        "task": "tuneport_livecodebench",
        "custom_dataset": documents,
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": asked,
        "doc_to_target": lambda document: document["question_id"],
        "process_results": judged,
        "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": [], "max_gen_toks": 2048, "do_sample": False},
        "metadata": {"version": 1.0},
    }


def _tabmwp_rows(data: str) -> Any:
    """The makers' file is one object, from number to problem."""
    import fsspec
    from datasets import Dataset

    with fsspec.open(data, encoding="utf-8", mode="rt") as file:
        problems = json.load(file)
    wanted = ("question", "choices", "answer", "unit", "table_title", "table")
    return Dataset.from_list([{key: problem[key] for key in wanted} for problem in problems.values()])


def _judged(
    answer: Callable[[Mapping[str, Any]], str], found: Callable[[str], str]
) -> Callable[[Mapping[str, Any], list[str]], dict[str, float]]:
    def judged(document: Mapping[str, Any], results: list[str]) -> dict[str, float]:
        return {"exact_match": float(_plain(found(results[0])) == _plain(answer(document)))}

    return judged


def _last_letter(said: str) -> str:
    marked = re.findall(r"answer is:?\s*\**\(?([A-D])\b", said, re.IGNORECASE)
    return str((marked or re.findall(r"\(([A-D])\)", said) or [""])[-1]).upper()


def _last_answer(said: str) -> str:
    marked = re.findall(r"answer is:?\s*([^\n]+)", said, re.IGNORECASE)
    if marked:
        return str(marked[-1])
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?", said)
    return numbers[-1] if numbers else said


def _plain(answer: str) -> str:
    """An answer without marks of money, thousands and emphasis; numbers by their value."""
    bare = re.sub(r"[$,*`\"]", "", answer).strip().rstrip(".").strip().casefold()
    try:
        return str(float(bare))
    except ValueError:
        return bare


CONFIGS: Mapping[str, Callable[[Sandbox | None], dict[str, Any]]] = {
    "arc_challenge": lambda _: arc_challenge(),
    "gpqa_main": lambda _: gpqa("gpqa_main"),
    "gpqa_diamond": lambda _: gpqa("gpqa_diamond"),
    "livecodebench": livecodebench,
    "tabmwp": lambda _: tabmwp(TABMWP),
}
