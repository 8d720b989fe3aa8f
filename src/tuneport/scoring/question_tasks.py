"""Turn the user's examples into tasks of the harness, in memory, and the harness's log into outcomes.

The harness gives prompts, generates answers and computes likelihoods. This module decides how an example reads, which
tokens are measured, and which answers are right.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tuneport.errors import DataError, listing
from tuneport.examples.questions import Example, OwnTask, Way
from tuneport.results.example_outcomes import Outcome, TaskResult, end_of
from tuneport.scoring import score_spoilers
from tuneport.scoring.evaluate_options import USUAL_ANSWER, Asking
from tuneport.scoring.harness import ask
from tuneport.scoring.measured_tokens import Paired, Pairing, answers_of
from tuneport.scoring.prompts import left_out, prompts_of
from tuneport.scoring.score_spoilers import join_warnings, same_warnings

METRICS = {"match": "exact_match", "choice": "acc", "loss": "loss"}


def ask_own(
    task: OwnTask, model: Any, asking: Asking, *, as_said: bool = False, usual: int = USUAL_ANSWER
) -> TaskResult:
    """Ask `model` every example of `task`, through the harness. Messages need a chat template (see `look_over`).

    What was generated is kept without blanks around it, unless ``as_said``. ``usual`` is how many tokens an answer may have
    where ``asking`` says nothing and the context allows it. Raises `DataError` for answers that cannot be measured: those without a token, and those that no context holds.
    """
    examples = task.examples[: asking.limit]
    found: dict[str, Outcome] = {}
    for way in ("prompt", "messages", "text"):
        lot = [example for example in examples if example.way == way]
        if lot:
            found |= {outcome.id: outcome for outcome in _outcomes(task, lot, way, model, asking, as_said, usual)}
    outcomes = tuple(found[example.id] for example in examples)
    return TaskResult(task.name, METRICS[task.kind], task.kind != "loss", outcomes)


def _outcomes(
    task: OwnTask, examples: Sequence[Example], way: Way, model: Any, asking: Asking, as_said: bool, usual: int
) -> list[Outcome]:
    """Of examples that are all asked in one way."""
    prompts = prompts_of(model.tokenizer, examples)
    dropped = left_out(examples, prompts)
    if dropped:
        model.tell([f"{model.name}: its chat template leaves out the system message of {dropped:,} examples."])
    with contextlib.ExitStack() as stack:
        if way != "prompt":
            # What a template writes is whole, and a text is measured after the prefix token: nothing is written before them.
            stack.enter_context(model.as_written())
        if task.kind == "match":
            lengths = [len(model.tok_encode(prompt)) for prompt in prompts]
            _need_tokens(task, zip(examples, lengths, strict=True), model, "prompt")
            config = _generation(examples, prompts, asking.match, _longest(asking, task.name, lengths, model, usual))
        elif way == "text":
            counts = [len(model.plain_ids(example.answer)) for example in examples]
            _need_tokens(task, zip(examples, counts, strict=True), model, "text")
            config = _loss(examples, [""] * len(examples), counts, "loglikelihood_rolling")
        else:
            paired = _paired(task, examples, prompts, way, model)
            stack.enter_context(model.given([of_example.pairs for of_example in paired]))
            if task.kind == "choice":
                config = _choice(examples, prompts)
            else:
                counts = [len(of_example.pairs[0].answer) for of_example in paired]
                config = _loss(examples, prompts, counts, "loglikelihood")
        samples = ask(_common(task.name, len(examples)) | config, model)
    told = _told(task.kind, examples, samples, as_said)
    outcomes = []
    for example, sample, said in zip(examples, samples, told, strict=True):
        score, weight = _score(sample[METRICS[task.kind]])
        answer = example.answer if task.kind != "loss" else None
        outcomes.append(Outcome(example.id, score, weight, _question(example), said, answer))
    return outcomes


def judge(match: str | None) -> Callable[[str, str], bool]:
    """Whether what a model said is the answer: to the letter, blanks around it aside, or by a regex's group."""

    def right(said: str, answer: str) -> bool:
        return extracted(said, match) == answer.strip()

    return right


def extracted(said: str, match: str | None) -> str | None:
    """The answer in what a model said, without blanks around it: all of it, or a regex's group; None if it finds nothing."""
    if match is None:
        return said.strip()
    found = re.search(match, said)
    return None if found is None else (found.group(1 if found.re.groups else 0) or "").strip()


def _paired(task: OwnTask, examples: Sequence[Example], prompts: Sequence[str], way: Way, model: Any) -> list[Paired]:
    """The tokens of every example's prompt and answers; tells where a token spans the two."""
    pairing = Pairing.of(model.tokenizer, model.plain_ids, encoder=model.backend == "seq2seq")
    paired = [
        pairing.paired(prompt, answers_of(example, prompt), rendered=way == "messages")
        for example, prompt in zip(examples, prompts, strict=True)
    ]
    counts = ((example, len(pair.answer)) for example, of in zip(examples, paired, strict=True) for pair in of.pairs)
    _need_tokens(task, counts, model, "choice" if task.kind == "choice" else "answer", room=model.max_length)
    ids = [example.id for example in examples]
    model.tell(join_warnings(task.name, ids, paired, model.name) + same_warnings(task.name, ids, paired, model.name))
    return paired


def _need_tokens(
    task: OwnTask, counts: Iterable[tuple[Example, int]], model: Any, what: str, *, room: int | None = None
) -> None:
    """Raise `DataError` where `what` is asked or measured has no tokens, or more than there is `room`."""
    faults = []
    for example, count in counts:
        if not count:
            faults.append(f"{task.place(example)}: this tokenizer gives no tokens for the {what}")
        elif room is not None and count > room:
            faults.append(f"{task.place(example)}: the {what} has {count:,} tokens, but the context has {room:,}")
    if faults:
        raise DataError(f"model {model.name} cannot be scored on {len(faults)} example(s):{listing(faults)}")


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


def _config(
    output: str,
    prompts: Sequence[str],
    examples: Sequence[Example],
    metric: str,
    *,
    aggregation: Any = "mean",
    **more: Any,
) -> dict[str, Any]:
    """What the four ways of asking have in common, as the harness takes it: prompts and answers by the example's place."""
    return {
        "output_type": output,
        "doc_to_text": lambda document: prompts[document["place"]],
        "doc_to_target": lambda document: examples[document["place"]].answer,
        "metric_list": [{"metric": metric, "aggregation": aggregation, "higher_is_better": metric != "loss"}],
        **more,
    }


def _longest(asking: Asking, task: str, lengths: Sequence[int], model: Any, usual: int) -> int:
    """Most tokens of an answer: what was asked for, else the usual number, or the room beside the longest prompt."""
    if asking.max_new_tokens is not None:
        return asking.max_new_tokens
    longest: int = model.room_for_answers(lengths, usual)
    if longest < usual:
        model.tell([score_spoilers.short_answers(model.name, task, longest, model.max_length)])
    return longest


def _generation(examples: Sequence[Example], prompts: Sequence[str], match: str | None, longest: int) -> dict[str, Any]:
    right = judge(match)

    def judged(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        return {"exact_match": float(right(results[0], examples[document["place"]].answer))}

    # No stop but the end tokens; the harness adds the tokenizer's own.
    generation = {"until": [], "max_gen_toks": longest, "do_sample": False}
    more = {"process_results": judged, "generation_kwargs": generation}
    return _config("generate_until", prompts, examples, "exact_match", **more)


def _choice(examples: Sequence[Example], prompts: Sequence[str]) -> dict[str, Any]:
    def choices(document: Mapping[str, Any]) -> list[str]:
        return list(examples[document["place"]].choices)

    def right(document: Mapping[str, Any]) -> int:
        return choices(document).index(examples[document["place"]].answer)

    more = {"doc_to_choice": choices, "doc_to_target": right}
    return _config("multiple_choice", prompts, examples, "acc", **more)


def _loss(examples: Sequence[Example], prompts: Sequence[str], counts: Sequence[int], output: str) -> dict[str, Any]:
    """The loss of answers, or of texts, with the number of tokens that it is the sum over."""

    def judged(document: Mapping[str, Any], results: Sequence[Any]) -> dict[str, tuple[float, int]]:
        found = results[0] if output == "loglikelihood_rolling" else results[0][0]
        return {"loss": (-found, counts[document["place"]])}

    return _config(output, prompts, examples, "loss", aggregation=_per_token, process_results=judged)


def _per_token(items: Sequence[tuple[float, int]]) -> float:
    return sum(nll for nll, _ in items) / sum(tokens for _, tokens in items)


def _score(value: Any) -> tuple[float, float]:
    if isinstance(value, tuple | list):  # a sum of losses, and over how many tokens
        return value[0] / value[1], float(value[1])
    return float(value), 1.0


def _told(
    kind: str, examples: Sequence[Example], samples: Sequence[Mapping[str, Any]], as_said: bool
) -> list[str | None]:
    if kind == "match":
        given = [sample["filtered_resps"][0] for sample in samples]
        return given if as_said else [each.strip() for each in given]
    if kind == "loss":
        return [None] * len(samples)
    said: list[str | None] = []
    for example, sample in zip(examples, samples, strict=True):
        likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
        said.append(example.choices[likelihoods.index(max(likelihoods))])
    return said
