"""The card: what was done, for people.

In comes the manifest, and nothing else, out comes README.md as the Hub reads it: front matter with ``base_model`` and tags,
then the formula, how to load the model, what was decided and what was measured.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

_TITLES = {"transfer": "fine-tuning carried over", "apply": "diff vector applied", "diff": "diff vector"}
_MOST_DECISIONS = 60


def render_card(manifest: Mapping[str, Any]) -> bytes:
    """README.md of an output."""
    lines = [*_front_matter(manifest), "", f"# {_title(manifest)}", "", *_what_was_done(manifest)]
    if manifest["operation"] != "diff":
        lines += ["", "## Load it", "", "```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
        lines += ['model = AutoModelForCausalLM.from_pretrained("this-folder")']
        lines += ['tokenizer = AutoTokenizer.from_pretrained("this-folder")', "```"]
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
        lines += ["", f"The target's code was copied and never run: {', '.join(code)}. Read it before you trust it."]
    lines += [
        "",
        "`tuneport.json` holds all of this for machines, with a digest of every tensor; `tuneport verify` checks it.",
    ]
    return ("\n".join(lines) + "\n").encode()


def _front_matter(manifest: Mapping[str, Any]) -> list[str]:
    # The name of a folder holds no slash, a Hub id always does.
    hub_ids = sorted({entry["name"] for entry in manifest["inputs"] if "/" in entry["name"]})
    lines = ["---"]
    if manifest["operation"] != "diff":
        lines.append("library_name: transformers")
    if hub_ids:
        lines += ["base_model:", *[f"- {json.dumps(hub_id)}" for hub_id in hub_ids]]
        lines.append("base_model_relation: merge")
    adapted = ["- peft"] if any("adapter" in entry for entry in manifest["inputs"]) else []
    return [*lines, "tags:", "- tuneport", "- fine-tuning-transfer", f"- {manifest['operation']}", *adapted, "---"]


def _title(manifest: Mapping[str, Any]) -> str:
    last, operation = _label(manifest["inputs"][-1]), manifest["operation"]
    return f"Diff vector of {last}" if operation == "diff" else f"{last}: {_TITLES[operation]}"


def _what_was_done(manifest: Mapping[str, Any]) -> list[str]:
    counts = Counter(entry["action"] for entry in manifest["tensors"])
    told = ", ".join(f"{number} {action}" for action, number in sorted(counts.items()))
    lines = [f"    {manifest['formula']}", ""]
    lines += [f"- **{entry['role']}**: {_label(entry)}" for entry in manifest["inputs"]]
    lines += ["", f"Tensors: {told}. Made by tuneport {manifest['environment']['tuneport']} without any training."]
    for warning in manifest["warnings"]:
        lines += ["", f"> **Warning:** {warning}"]
    return lines


def _measures(manifest: Mapping[str, Any]) -> list[str]:
    names = {
        "diff_norm": "‖Δ‖, the length of the diff vector",
        "drift_norm": "‖target − base‖, how far the versions are apart",
        "cosine": "cosine of the two",
        "base_target_cosine": "cosine of base and target",
    }
    rows = ["| measure | value |", "| --- | --- |"]
    for field, words in names.items():
        value = manifest["measures"].get(field)
        rows.append(f"| {words} | {'–' if value is None else f'{value:.6g}'} |")
    return rows


def _decisions(manifest: Mapping[str, Any]) -> list[str]:
    decisions = manifest["decisions"]
    rows = ["| what | choice | why |", "| --- | --- | --- |"]
    for decision in decisions[:_MOST_DECISIONS]:
        cells = (_cell(str(decision[key])) for key in ("subject", "choice", "reason"))
        rows.append(f"| {' | '.join(cells)} |")
    if len(decisions) > _MOST_DECISIONS:
        rows.append(f"| … | {len(decisions) - _MOST_DECISIONS} more in tuneport.json | |")
    return rows


def _cell(text: str, most: int = 160) -> str:
    text = text if len(text) <= most else text[: most - 1] + "…"
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _label(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']} @ {entry['revision']}" if entry.get("revision") else str(entry["name"])
