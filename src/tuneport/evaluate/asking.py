"""One's own examples become tasks of the harness, in memory, and the harness's log becomes outcomes.

In comes a task of examples and a loaded model, out comes a `TaskResult`. Prompts are given, answers generated and
likelihoods taken by the harness; what is written here is how an example reads to it, and what counts as right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneport.errors import UsageError
from tuneport.evaluate.examples import Example, OwnTask
from tuneport.evaluate.harness import ask
from tuneport.evaluate.outcomes import Outcome, TaskResult, end_of

METRICS = {"match": "exact_match", "choice": "acc", "loss": "loss"}


@dataclass(frozen=True)
class Asking:
    """How one's own examples are asked and judged."""

    match: str | None = None
    loss: bool = False
    max_new_tokens: int = 256
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check the values. Raises `UsageError`."""
        if self.match is not None:
            try:
                groups = re.compile(self.match).groups
            except re.error as error:
                raise UsageError(f"--match {self.match!r} is no regular expression: {error}.") from None
            if groups > 1:
                raise UsageError(f"--match {self.match!r} has {groups} groups; give one, the answer, or none.")
            if self.loss:
                raise UsageError("--match picks an answer out of what a model says; --loss generates nothing.")
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens}: give at least 1.")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give at least 1.")


def ask_own(task: OwnTask, model: Any, asking: Asking) -> TaskResult:
    """Ask `model` every example of `task`, through the harness. Messages need a chat template (see `look_over`)."""
    examples = task.examples[: asking.limit]
    prompts = _prompts(examples, model)
    build: Callable[..., dict[str, Any]] = {"match": _generation, "choice": _choice, "loss": _loss}[task.kind]
    # A text alone has no prompt: all of it is measured, after the model's prefix token and no other.
    model.bare = task.kind == "loss" and not examples[0].question
    if model.bare:
        build = _text_loss
    try:
        samples = ask(_common(task.name, len(examples)) | build(examples, prompts, model, asking), model)
    finally:
        model.bare = False
    told = _told(task.kind, examples, samples)
    outcomes = []
    for example, sample, said in zip(examples, samples, told, strict=True):
        score, weight = _score(sample[METRICS[task.kind]])
        answer = example.answer if task.kind != "loss" else None
        outcomes.append(Outcome(example.id, score, weight, _question(example), said, answer))
    return TaskResult(task.name, METRICS[task.kind], task.kind != "loss", tuple(outcomes))


def judge(match: str | None) -> Callable[[str, str], bool]:
    """Whether what a model said is the answer: to the letter, blanks around it aside, or by a regex's group."""

    def right(said: str, answer: str) -> bool:
        if match is not None:
            found = re.search(match, said)
            if found is None:
                return False
            said = found.group(1 if found.re.groups else 0) or ""
        return said.strip() == answer.strip()

    return right


def _prompts(examples: Sequence[Example], model: Any) -> list[str]:
    if not any(example.messages for example in examples):
        return [example.prompt or "" for example in examples]
    prompts, dropped = [], 0
    for example in examples:
        if example.messages is None:
            prompts.append(example.prompt or "")
            continue
        text = model.apply_chat_template([dict(message) for message in example.messages])
        dropped += any(m["role"] == "system" and m["content"].strip() not in text for m in example.messages)
        prompts.append(text)
    if dropped:
        model.tell([f"{model.name}: its chat template leaves out the system message of {dropped:,} examples."])
    return prompts


def _question(example: Example) -> str | None:
    """What is kept of a question: of one message its words, of several each with its role."""
    return end_of(example.asked if len(example.messages or ()) == 1 else example.question)


def _common(name: str, count: int) -> dict[str, Any]:
    def documents(**_: Any) -> Any:
        from datasets import Dataset

        return {"test": Dataset.from_dict({"place": list(range(count))})}

    return {
        "task": name,
        "custom_dataset": documents,
        "test_split": "test",
        "num_fewshot": 0,
        "target_delimiter": "",
    }


def _generation(examples: Sequence[Example], prompts: Sequence[str], _: Any, asking: Asking) -> dict[str, Any]:
    right = judge(asking.match)

    def judged(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        return {"exact_match": float(right(results[0], examples[document["place"]].answer))}

    return {
        "output_type": "generate_until",
        "doc_to_text": lambda document: prompts[document["place"]],
        "doc_to_target": lambda document: examples[document["place"]].answer,
        "process_results": judged,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        # No stop but the end tokens; the harness adds the tokenizer's own.
        "generation_kwargs": {"until": [], "max_gen_toks": asking.max_new_tokens, "do_sample": False},
    }


def _choice(examples: Sequence[Example], prompts: Sequence[str], _: Any, __: Asking) -> dict[str, Any]:
    def choices(document: Mapping[str, Any]) -> list[str]:
        place = document["place"]
        return [_joined(prompts[place], choice, examples[place]) for choice in examples[place].choices]

    return {
        "output_type": "multiple_choice",
        "doc_to_text": lambda document: prompts[document["place"]],
        "doc_to_choice": choices,
        "doc_to_target": lambda document: examples[document["place"]].choices.index(examples[document["place"]].answer),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def _loss(examples: Sequence[Example], prompts: Sequence[str], model: Any, _: Asking) -> dict[str, Any]:
    answers = [_joined(prompt, example.answer, example) for prompt, example in zip(prompts, examples, strict=True)]

    def judged(document: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
        place = document["place"]
        _, continuation = model._encode_pair(prompts[place], answers[place])
        return {"loss": (-results[0][0], len(continuation))}

    return {
        "output_type": "loglikelihood",
        "doc_to_text": lambda document: prompts[document["place"]],
        "doc_to_target": lambda document: answers[document["place"]],
        "process_results": judged,
        "metric_list": [{"metric": "loss", "aggregation": _per_token, "higher_is_better": False}],
    }


def _text_loss(examples: Sequence[Example], _: Sequence[str], model: Any, __: Asking) -> dict[str, Any]:
    def judged(document: Mapping[str, Any], results: Sequence[float]) -> dict[str, tuple[float, int]]:
        ids = model.tok_encode(examples[document["place"]].answer, add_special_tokens=False)
        return {"loss": (-results[0], len(ids))}

    return {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": lambda _: "",
        "doc_to_target": lambda document: examples[document["place"]].answer,
        "process_results": judged,
        "metric_list": [{"metric": "loss", "aggregation": _per_token, "higher_is_better": False}],
    }


def _joined(prompt: str, answer: str, example: Example) -> str:
    """The answer as it follows the prompt: after a blank, unless one stands there or a template wrote the prompt."""
    if example.messages is not None or prompt[-1:].isspace() or answer[:1].isspace():
        return answer
    return f" {answer}"


def _per_token(items: Sequence[tuple[float, int]]) -> float:
    return sum(nll for nll, _ in items) / sum(tokens for _, tokens in items)


def _score(value: Any) -> tuple[float, float]:
    if isinstance(value, tuple | list):  # a sum of losses, and over how many tokens
        return value[0] / value[1], float(value[1])
    return float(value), 1.0


def _told(kind: str, examples: Sequence[Example], samples: Sequence[Mapping[str, Any]]) -> list[str | None]:
    if kind == "match":
        return [sample["filtered_resps"][0].strip() for sample in samples]
    if kind == "loss":
        return [None] * len(samples)
    said: list[str | None] = []
    for example, sample in zip(examples, samples, strict=True):
        likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
        said.append(example.choices[likelihoods.index(max(likelihoods))])
    return said
