"""Write the model card: what was done, for people.

Made only from the manifest: front matter with ``base_model`` and tags, as the Hub reads it, then the formula, how to
load the model, what was decided and what was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tuneport.output.adapted_card import adapted, parents_of
from tuneport.output.model_card import (
    HERE,
    cell,
    document,
    front_matter,
    label,
    licensed,
    own_section,
    scored,
    table,
    warned,
)

_TITLES = {"transfer": "fine-tuning transferred", "apply": "diff vector applied", "diff": "diff vector"}
_MOST_DECISIONS = 60


def render_card(manifest: Mapping[str, Any]) -> bytes:
    """README.md of an output; the user's section in it is empty."""
    facts = manifest.get("card") or {}
    lines = [*_front_matter(manifest), "", f"# {_title(manifest)}", "", *_what_was_done(manifest)]
    if manifest["operation"] != "diff":
        lines += ["", "## Load it", "", "```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
        name = facts.get("repository") or HERE
        lines += [f'model = AutoModelForCausalLM.from_pretrained("{name}")']
        lines += [f'tokenizer = AutoTokenizer.from_pretrained("{name}")', "```"]
    record = manifest.get("adapted") or {}
    lines += adapted({name: value for name, value in record.items() if name != "inputs"})  # they are listed above
    lines += own_section()
    lines += scored(facts)
    lines += [
        "",
        "## What was measured",
        "",
        *_measures(manifest),
        "",
        "## What was decided",
        "",
        *_decisions(manifest),
    ]
    code = sorted(name for name in manifest["files"] if name.endswith(".py"))
    if code:
        lines += [
            "",
            f"tuneport copied the target's code and never ran it: {', '.join(map(cell, code))}. Read it before you "
            f"trust it.",
        ]
    lines += licensed(facts)
    lines += [
        "",
        "`tuneport.json` contains all of this in machine-readable form, with a digest of every tensor; `tuneport "
        "verify` checks it.",
    ]
    return document(lines)


def _front_matter(manifest: Mapping[str, Any]) -> list[str]:
    parents = parents_of(manifest) or manifest["inputs"]
    adapted = ["peft"] if any("adapter" in entry for entry in manifest["inputs"]) else []
    return front_matter(
        ["tuneport", "fine-tuning-transfer", manifest["operation"], *adapted],
        library="transformers" if manifest["operation"] != "diff" else None,
        parents=[entry["name"] for entry in parents],
        relation="merge",
        facts=manifest.get("card"),
    )


def _title(manifest: Mapping[str, Any]) -> str:
    parents = parents_of(manifest) or manifest["inputs"]
    last, operation = _label(parents[-1]), manifest["operation"]
    return f"Diff vector of {last}" if operation == "diff" else f"{last}: {_TITLES[operation]}"


def _what_was_done(manifest: Mapping[str, Any]) -> list[str]:
    counts = Counter(entry["fate"] for entry in manifest["tensors"])
    told = ", ".join(f"{number} {action}" for action, number in sorted(counts.items()))
    made = f"Tensors: {told}. Made by tuneport {manifest['environment']['tuneport']}"
    inputs = manifest["inputs"]
    parents = parents_of(manifest) or inputs
    listed = [f"- **{entry['role']}**: {_label(entry)}" for entry in parents]
    if [entry["name"] for entry in parents] != [entry["name"] for entry in inputs]:
        # `adapt` trained an adapter from one of its rungs and added it; base, tuned and target of that sum are rungs.
        adapter = (
            f"An adapter ({inputs[1]['adapter']}) was trained from the rung {inputs[-1]['name']}, and added to it."
        )
        lines = [*listed, "", f"{adapter} {made}."]
    else:
        lines = [f"    {manifest['formula']}", "", *listed, "", f"{made} without training."]
    return lines + warned(manifest["warnings"])


def _measures(manifest: Mapping[str, Any]) -> list[str]:
    names = {
        "diff_norm": "‖Δ‖, the length of the diff vector",
        "shift_norm": "‖target − base‖, the distance between the versions",
        "cosine": "cosine of the two",
        "base_target_cosine": "cosine of base and target",
    }
    measures = manifest["measures"]
    rows = [(words, _figure(measures.get(field))) for field, words in names.items()]
    if "rounding" in measures:
        lost = measures["rounding"] or {}
        rows.append(("‖(output − target) − Δ‖ / ‖Δ‖, the part of Δ lost to rounding", _figure(lost.get("error"))))
        unchanged = "share of the nonzero elements of Δ that did not change the target"
        rows.append((unchanged, _figure(lost.get("unchanged"))))
    return table(["measure", "value"], rows)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _decisions(manifest: Mapping[str, Any]) -> list[str]:
    decisions = manifest["decisions"]
    rows = [[decision[key] for key in ("subject", "choice", "reason")] for decision in decisions[:_MOST_DECISIONS]]
    if len(decisions) > _MOST_DECISIONS:
        rows.append(["…", f"{len(decisions) - _MOST_DECISIONS} more in tuneport.json", ""])
    return table(["what", "choice", "why"], rows)


def _label(entry: Mapping[str, Any]) -> str:
    return label(str(entry["name"]), entry.get("revision"))
