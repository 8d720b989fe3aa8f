"""Make the demo's summary from all answers: what was transferred, what it is worth, and what the controls show.

Pure: questions and answers to a record for `summary.json`. Every number has its 95 % interval and its n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneport import statistics
from tuneport.families import corpus
from tuneport.families.family_scores import MAX_NEW_TOKENS, exact_matches
from tuneport.families.lesson_questions import (
    INSTRUCTION_TASKS,
    NEW_FACTS,
    NEW_FACTS_COMPLETED,
    NEW_KNOWLEDGE_TASKS,
    WORD_PROBLEMS,
    Question,
)
from tuneport.statistics import Estimate

SHARE_A_CONTROL_MAY_GAIN = 0.1
_WITHIN = ("v2-transferred", "v1-backported", "v2-shuffled")
_MEANING = {
    "v1_tuned": f"fine-tuned version 1, asked in chat form (task {NEW_FACTS}); about 0.05 is chance",
    "v2": (
        f"version 2, which has no chat format, completing a sentence of its text ({NEW_FACTS_COMPLETED}); "
        f"asked in chat form it scores what `forms` says under {NEW_FACTS}"
    ),
    "v2_transferred": f"version 2 + diff vector of version 1, asked in chat form (task {NEW_FACTS})",
    "v2_tuned": f"version 2 fine-tuned directly, asked in chat form (task {NEW_FACTS})",
    "difference": f"v2_transferred - v1_tuned on the same questions (task {NEW_FACTS})",
    "inserted_names": "the questions about names whose token only version 2 has; version 1 reads <unk>",
    "readable_names": "the questions about names that version 1 can spell but has never read",
}


def summarise(
    asked: Sequence[Question],
    said: Mapping[str, Sequence[str]],
    *,
    norms: Mapping[str, float],
    doubts: Mapping[str, Sequence[Mapping[str, str]]],
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """The record of a demo: `said[model]` holds each model's answers to `asked`, in the same order.

    `doubts` are what the transfers' manifests say against the roles, by the model that was made.
    """
    right = {model: exact_matches(answers, [q.answer for q in asked]) for model, answers in said.items()}

    def on(tasks: Sequence[str], names: Sequence[str] = ()) -> dict[str, list[bool]]:
        """Right or wrong, per model, on the questions of these tasks (and about these names only)."""
        chosen = [
            index
            for index, question in enumerate(asked)
            if question.task in tasks and (not names or set(names) & set(question.prompt.split()))
        ]
        return {model: [flags[index] for index in chosen] for model, flags in right.items()}

    together = on(INSTRUCTION_TASKS)
    transfer = _transfer(together, "v2", "v2-transferred", "v2-tuned", seed)
    gain = transfer["gain"]
    tasks = {task: _transfer(on([task]), "v2", "v2-transferred", "v2-tuned", seed) for task in INSTRUCTION_TASKS}
    controls = {
        name: _control(together, model, gain, seed) | {"doubts": list(doubts[model])}
        for name, model in (("shuffled", "v2-shuffled"), ("foreign_family", "v2-foreign"))
    }
    known = _new_knowledge(on, seed)
    return {
        "format": "tuneport-demo-1",
        "seed": seed,
        "n": transfer["n"],
        "seconds": round(seconds, 1),
        **{key: value for key, value in transfer.items() if key != "n"},
        "source": _accuracies({model: together[model] for model in ("v1", "v1-tuned")}),
        "tasks": tasks,
        "new_knowledge": known,
        "backport": _transfer(together, "v1", "v1-backported", "v1-tuned", seed),
        "diff_norm": norms["diff_norm"],
        "shift_norm": norms["shift_norm"],
        "controls": controls,
        "claims": _claims(transfer, tasks, known, controls)
        | {
            "the foreign control's transfer warns": bool(doubts["v2-foreign"]),
            "no transfer within the family warns": not any(doubts[model] for model in _WITHIN),
        },
        "how": {
            "instruction_tasks": list(INSTRUCTION_TASKS),
            "new_knowledge_tasks": list(NEW_KNOWLEDGE_TASKS),
            "decoding": f"greedy, at most {MAX_NEW_TOKENS} new tokens, from the bf16 checkpoints in float32",
            "score": "the whole answer, special tokens removed, equals `answer` to the letter",
            "intervals": "95 %; Wilson for an accuracy, joint bootstrap over the same questions otherwise",
        },
    }


def _transfer(
    right: Mapping[str, Sequence[bool]], target: str, transferred: str, tuned: str, seed: int
) -> dict[str, Any]:
    recovered = statistics.recovered_gain(right[target], right[transferred], right[tuned], seed)
    return {
        "n": len(right[target]),
        "recovered_gain": None,  # where fine-tuning itself gains nothing that can be told
        **_numbers(
            target=statistics.accuracy(right[target]),
            transferred=statistics.accuracy(right[transferred]),
            tuned_target=statistics.accuracy(right[tuned]),
            gain=statistics.difference(right[transferred], right[target], seed),
            **({"recovered_gain": recovered} if recovered else {}),
        ),
    }


def _control(right: Mapping[str, Sequence[bool]], model: str, real_gain: float, seed: int) -> dict[str, Any]:
    gain = statistics.difference(right[model], right["v2"], seed)
    share = {"share_of_real_gain": gain.value / real_gain if real_gain else None}
    return share | _numbers(accuracy=statistics.accuracy(right[model]), gain=gain)


def _new_knowledge(on: Any, seed: int) -> dict[str, Any]:
    asked, completed = on([NEW_FACTS]), on([NEW_FACTS_COMPLETED])
    return {
        "n": len(asked["v2"]),
        **_numbers(
            v1_tuned=statistics.accuracy(asked["v1-tuned"]),
            v2=statistics.accuracy(completed["v2"]),
            v2_transferred=statistics.accuracy(asked["v2-transferred"]),
            v2_tuned=statistics.accuracy(asked["v2-tuned"]),
            difference=statistics.difference(asked["v2-transferred"], asked["v1-tuned"], seed),
        ),
        "forms": {task: _accuracies(on([task])) for task in NEW_KNOWLEDGE_TASKS},
        "inserted_names": _accuracies(on([NEW_FACTS], corpus.INSERTED_NAMES)),
        "readable_names": _accuracies(on([NEW_FACTS], corpus.UNUSED_NAMES)),
        "meaning": _MEANING,
    }


def _numbers(**estimates: Estimate) -> dict[str, Any]:
    """The estimates by name, and their intervals."""
    intervals = {name: list(estimate.interval) for name, estimate in estimates.items()}
    return {**{name: estimate.value for name, estimate in estimates.items()}, "intervals": intervals}


def _accuracies(right: Mapping[str, Sequence[bool]]) -> dict[str, dict[str, Any]]:
    """Of each model."""
    found = {model: statistics.accuracy(flags) for model, flags in right.items()}
    return {model: {"accuracy": each.value, "interval": list(each.interval)} for model, each in found.items()}


def _claims(
    transfer: dict[str, Any], tasks: dict[str, Any], known: dict[str, Any], controls: dict[str, Any]
) -> dict[str, bool]:
    """What the demo set out to show, and whether it did."""

    def recovers(scores: dict[str, Any]) -> bool:
        return scores["recovered_gain"] is not None and scores["recovered_gain"] >= 0.6

    return {
        "over 30 points gained by addition alone": transfer["gain"] > 0.3,
        "at least 0.6 of the gain recovered": recovers(transfer),
        "at least 0.6 of the gain recovered on the word problems": recovers(tasks[WORD_PROBLEMS]),
        "new knowledge in version 2 + diff vector": known["intervals"]["difference"][0] > 0,
        **{
            f"control {name} gains under a tenth": control["share_of_real_gain"] is not None
            and control["share_of_real_gain"] < SHARE_A_CONTROL_MAY_GAIN
            for name, control in controls.items()
        },
    }
