"""The section of docs/results.md on the warnings about roles, from the figures of `experiments.trials.role_trials`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.pages.markdown_cells import table
from tuneport.reporting.tables.wording import minus

_TOLD = {
    ("honest", ""): "honest: every fine-tuning, every other version as the target",
    ("instruct target", ""): "honest: a target that was fine-tuned for something else",
    ("adapter", ""): "honest: adapters",
    ("stranger", "target"): "target of another pretraining run",
    ("stranger", "tuned"): "tuned model of another pretraining run",
    ("stranger", "base"): "base of another pretraining run",
    ("stranger", "base and tuned"): "base and tuned model of another pretraining run",
    ("swapped", "base and tuned"): "base and tuned swapped",
    ("swapped", "base for tuned for target"): "given as base, tuned, target: tuned, target, base",
    ("swapped", "base and target"): "base and target swapped",
    ("swapped", "base for target for tuned"): "given as base, tuned, target: target, base, tuned",
    ("swapped", "tuned and target"): "tuned and target swapped: the same sum",
    ("target made from tuned", ""): "target fine-tuned on from the tuned model",
    ("same fine-tuning in the target", ""): "target fine-tuned on the same examples",
}


def render(record: Mapping[str, Any]) -> str:
    """What was tried, what was told, what bounds that gives, and what was not told."""
    chosen, counted = record["chosen_on"], record["counted"]
    parts = [
        "## Wrong roles\n\nTo repeat: `python -m experiments.trials.role_trials --out DIR`. Families of tiny Llamas, each of one pretraining "
        "seed: five moments of one run, a branch, a version very close and one far away, one with tokens inserted and "
        "one "
        "with its embeddings replaced; of these fine-tunings short, long, gentle and strong, a language and DPO on top of "
        "them, and adapters. Each trial is a transfer; the bounds that warn were chosen on families "
        f"{_listed(chosen['families'])} and counted on {_listed(counted['families'])}, with nothing changed. *Sample*: doubts "
        "of a sample as small a part of these models as the real one is of a large model (8 matrices, 512 elements of each); "
        "*whole*: of the whole pass; *files*: warnings from the files beside the weights, here always the template's.",
        _groups(chosen, counted),
        _bounds(counted),
        *_missing(record["missing"]),
        _lengths(chosen, counted),
        _rounding(chosen, counted),
    ]
    return "\n\n".join(parts)


def _groups(chosen: Mapping[str, Any], counted: Mapping[str, Any]) -> str:
    rows = [
        [
            "trials",
            "n",
            "sample",
            "whole",
            "files",
            "whole or files",
            "cosine of base and target",
            "cosine at the base",
            "n, whole (chosen on)",
        ]
    ]
    for group in _in_order(counted["groups"]):
        before = next((g for g in chosen["groups"] if (g["what"], g["order"]) == (group["what"], group["order"])), None)
        cells = [str(group[name]) for name in ("n", "sample", "whole", "files", "whole_or_files")]
        spans = [_span(group["base_target"]), _span(group["at_base"])]
        rows.append(
            [
                _TOLD[group["what"], group["order"]],
                *cells,
                *spans,
                f"{before['n']}, {before['whole']}" if before else "–",
            ]
        )
    return "### What was detected\n\n" + table(rows)


def _in_order(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    order = list(_TOLD)
    return sorted(groups, key=lambda group: order.index((group["what"], group["order"])))


def _bounds(counted: Mapping[str, Any]) -> str:
    honest, families = counted["honest"], counted["families"]
    return (
        f"**{honest['alarms']} alarms on {honest['trials']} honest trials of {len(families)} {_families(families)}.** If trials were independent, the "
        f"share of alarms would be under {100 * honest['bound']:.2f} % (one-sided 95 % interval, Clopper and Pearson). They are not: "
        f"those of a family share its models. {honest['families_with_alarms']} of {len(families)} {_families(families)} with an alarm bounds the share "
        f"of such families at {100 * honest['bound_of_families']:.0f} % only. A doubt of the sample that the whole pass took back: "
        f"{counted['taken_back']} times."
    )


def _missing(families: Sequence[int]) -> list[str]:
    """What was meant to be tried as well, if anything."""
    if not families:
        return []
    return [
        f"**Read this with care:** the trials of families {_listed(families)} have not been run. The bounds above are of the others "
        "alone."
    ]


def _lengths(chosen: Mapping[str, Any], counted: Mapping[str, Any]) -> str:
    rows = [["what is swapped; which two lengths", "first / second", "n", "whole", "files", "whole or files"]]
    names = {
        "tuned": "the tuned model is given as base; ‖Δ‖ / ‖target − base‖",
        "target": "the target is given as base; ‖target − base‖ / ‖Δ‖",
    }
    both = zip(chosen["swapped_by_length"], counted["swapped_by_length"], strict=True)
    for one, other in both:
        to = f"{other['from']} to {other['to']}" if other["to"] is not None else f"{other['from']} and more"
        told = [str(one[name] + other[name]) for name in ("n", "whole", "files", "either")]
        rows.append([names[other["with"]], to, *told])
    words = (
        "Whether weights can show a swap depends on two lengths of the correct trial (all families): the distance "
        "between the base "
        "and what was given in its place must not be far shorter than the other. A small fine-tuning whose base and tuned model are "
        "swapped looks like one with the right roles."
    )
    return f"### Which swaps weights can show\n\n{words}\n\n{table(rows)}"


def _rounding(chosen: Mapping[str, Any], counted: Mapping[str, Any]) -> str:
    rows = [["fine-tuning", "n", "over 0.1", "least", "most"]]
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in (*chosen["rounding"], *counted["rounding"]):
        found.setdefault(row["tuning"], []).append(row)
    for tuning, of in sorted(found.items(), key=lambda item: max(row["to"] for row in item[1])):
        numbers = (str(sum(row[name] for row in of)) for name in ("n", "warned"))
        rows.append([tuning, *numbers, f"{min(row['from'] for row in of):.3f}", f"{max(row['to'] for row in of):.3f}"])
    total, warned = (sum(row[name] for of in found.values() for row in of) for name in ("n", "warned"))
    words = (
        f"How much of ‖Δ‖ is lost by storing in bfloat16, over the correct trials of all families: {warned} of "
        f"{total} are over 0.1, and warn. "
        "They are those whose fine-tuning is small beside the weights (DPO at a small rate, thirty gentle steps); for these the "
        "warning is right, and `--strict` stops on it. *On its base's tuning*: the diff vector holds that fine-tuning alone."
    )
    return f"### What rounding loses\n\n{words}\n\n{table(rows)}"


def _span(values: Sequence[float] | None) -> str:
    return "–" if values is None else minus(f"{values[0]:z.2f} to {values[1]:z.2f}")


def _families(families: Sequence[int]) -> str:
    return "family" if len(families) == 1 else "families"


def _listed(families: Sequence[int]) -> str:
    return ", ".join(map(str, families))
