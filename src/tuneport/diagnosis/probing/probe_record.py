"""Make the field `probe` of a comparison, and rows for a terminal, from what a probe measured.

Everything is paired: the same answers and texts under each model. Losses of answers are nats for each token of the tuned model's,
whoever reads them, so that models with other tokenizers compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport import statistics
from tuneport.diagnosis.probing.probe_prompts import GreedyAnswer, Heard
from tuneport.scoring.answers.answer_losses import KEPT
from tuneport.statistics import Estimate

SOURCE, TARGET, CARRIED = "source", "target", "carried"
WORDS = {SOURCE: "tuned", TARGET: "target", CARRIED: "target + Δ"}


def prompts_record(heard: Mapping[str, Heard], answers: Sequence[GreedyAnswer | None]) -> dict[str, Any]:
    """What the prompts say: losses of the tuned model's answers, answers alike, and KL."""
    said = {role: [text.strip() for text in each.said] for role, each in heard.items()}
    losses = _losses(heard, answers)
    others = (TARGET, CARRIED)
    return {
        "n": len(answers),
        "empty": sum(answer is None for answer in answers),
        "tokens": sum(answer.tokens for answer in answers if answer is not None),
        "loss": losses,
        "alike": {role: _estimate(_alike(said[SOURCE], said[role])) for role in others},
        "kl": {"likeliest": KEPT, **{role: _divergence(heard[role]) for role in others}},
    }


def _losses(heard: Mapping[str, Heard], answers: Sequence[GreedyAnswer | None]) -> dict[str, Any] | None:
    """Nats a token under each model; the ``gain`` from target to target + Δ; ``recovered``: of the way to the tuned model."""
    nats = {role: heard[role].losses for role in WORDS}
    measured = [place for place in range(len(answers)) if all(of_role[place] is not None for of_role in nats.values())]
    if not measured:
        return None
    tokens = np.array([answer.tokens for place in measured if (answer := answers[place]) is not None], np.float64)
    scores = np.array([[nats[role][place] for place in measured] for role in WORDS], np.float64) / tokens
    values, drawn = scores @ tokens / tokens.sum(), statistics.weighted_means(scores, tokens)
    place = {role: number for number, role in enumerate(WORDS)}
    source, target, carried = (place[role] for role in WORDS)
    share = statistics.recovered_gain(
        scores[target].tolist(), scores[carried].tolist(), scores[source].tolist(), 0, tokens.tolist()
    )
    return {
        **{role: _told(float(values[number]), drawn[:, number]) for role, number in place.items()},
        "gain": _told(float(values[target] - values[carried]), drawn[:, target] - drawn[:, carried]),
        "recovered": None if share is None else _estimate(share),
    }


def _alike(source: Sequence[str], other: Sequence[str]) -> Estimate:
    return statistics.accuracy([one == another for one, another in zip(source, other, strict=True)])


def _divergence(heard: Heard) -> dict[str, Any] | None:
    """Nats a token, over the prompts whose answer both models cut into the same tokens."""
    found = [each for each in heard.divergences if each is not None]
    if not found:
        return None
    tokens = [float(each.tokens) for each in found]
    estimate = statistics.weighted_mean([each.nats / each.tokens for each in found], tokens)
    return {**_estimate(estimate), "prompts": len(found), "tokens": int(sum(tokens))}


def answers_record(heard: Mapping[str, Heard]) -> dict[str, Any] | None:
    """Where the prompts have answers: who is right how often, the gain, and section 3.2's condition."""
    places = [place for place, right in enumerate(heard[SOURCE].right) if right is not None]
    if not places:
        return None
    right = {role: [bool(heard[role].right[place]) for place in places] for role in WORDS}
    condition = statistics.difference(right[SOURCE], right[TARGET])
    return {
        "n": len(places),
        "accuracy": {role: _estimate(statistics.accuracy(of_role)) for role, of_role in right.items()},
        "gain": _estimate(statistics.difference(right[CARRIED], right[TARGET])),
        "source_over_target": _estimate(condition),
        "condition": condition_in_words(right[SOURCE], right[TARGET], condition),
    }


def condition_in_words(source: Sequence[bool], target: Sequence[bool], difference: Estimate) -> str:
    """Section 3.2's condition as a sentence: is the old tuned model still better than the new base?"""
    low, high = difference.interval
    answer = (
        "The old tuned model is still better than the new base"
        if low > 0
        else "The new base is better than the old tuned model"
        if high < 0
        else "These prompts do not show whether the old tuned model is still better than the new base"
    )
    return (
        f"{answer}: {sum(source) / len(source):.1%} against {sum(target) / len(target):.1%} right "
        f"(difference {_points(difference.value)}, 95 % {_points(low)} to {_points(high)}, n = {len(source):,})."
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"


def retained_record(target: Heard, carried: Heard) -> dict[str, Any] | None:
    """The loss of the texts under target and target + Δ, in nats per token, and by how much it rises."""
    if not target.retained:
        return None
    scores, tokens = _of_texts(target)
    moved, own = _of_texts(carried)  # whose vocabulary may have grown: its nats count for each of the target's tokens
    both, examples = np.array([scores, moved * own / tokens]), len(scores)
    values, drawn = both @ tokens / tokens.sum(), statistics.weighted_means(both, tokens)
    return {
        "n": examples,
        "tokens": int(tokens.sum()),
        TARGET: _told(float(values[0]), drawn[:, 0]),
        CARRIED: _told(float(values[1]), drawn[:, 1]),
        "rise": _told(float(values[1] - values[0]), drawn[:, 1] - drawn[:, 0]),
    }


def _of_texts(heard: Heard) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    outcomes = [outcome for result in heard.retained for outcome in result.outcomes]
    return np.array([outcome.score for outcome in outcomes]), np.array([outcome.weight for outcome in outcomes])


def _told(value: float, drawn: NDArray[np.float64]) -> dict[str, Any]:
    return {"value": value, "interval": list(statistics.central(drawn))}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": list(estimate.interval)}


def probe_rows(probe: Mapping[str, Any]) -> list[list[str]]:
    """The figures as rows of a table: a column for each model, and what the transfer changes."""
    rows = [["", *WORDS.values(), "difference"]]

    def add(name: str, figures: Mapping[str, Any], change: Any, shown: str) -> None:
        rows.append(
            [name, *(_cell(figures.get(role), shown) for role in WORDS), _cell(change, "+" + shown, interval=True)]
        )

    prompts, answers, retain = probe["prompts"], probe["answers"], probe["retain"]
    if prompts is not None and prompts["loss"] is not None:
        gain = prompts["loss"]["gain"]
        change = {"value": -gain["value"], "interval": [-end for end in reversed(gain["interval"])]}
        add("loss of the tuned model's answers (nats per token)", prompts["loss"], change, ".4f")
    if prompts is not None:
        add("answered as the tuned model does", prompts["alike"], None, ".1%")
        add("KL from the tuned model (nats per token)", prompts["kl"], None, ".4f")
    if answers is not None:
        add("right answers", answers["accuracy"], answers["gain"], ".1%")
    if retain is not None:
        add("loss of the texts to keep (nats per token)", retain, retain["rise"], ".4f")
    return rows


def _cell(figure: Mapping[str, Any] | None, shown: str, *, interval: bool = False) -> str:
    if figure is None:
        return "–"
    told = format(figure["value"], shown)
    return f"{told} ({' to '.join(format(end, shown) for end in figure['interval'])})" if interval else told
