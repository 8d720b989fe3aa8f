"""Write the card of an export: what it is, how to load it, and what it lost. Made from the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneport.output.model_card import (
    HERE,
    cell,
    document,
    front_matter,
    label,
    licensed,
    own_section,
    table,
    warned,
)

_MOST_ROWS = 200


def render_export_card(manifest: Mapping[str, Any]) -> bytes:
    """README.md of an export; the user's section in it is empty."""
    peft, facts = manifest["form"] == "peft", manifest.get("card") or {}
    target = manifest["inputs"][-1]
    name = label(target["name"], target.get("revision"))
    lines = front_matter(
        ["tuneport", "fine-tuning-transfer", "lora" if peft else "sparse-patch"],
        library="peft" if peft else None,
        parents=[target["name"]],
        relation="adapter" if peft else "finetune",
        facts=facts,
    )
    lines += ["", f"# {name}: {'adapter' if peft else 'sparse patch'} made from a diff vector", ""]
    lines += [f"    {manifest['formula']}", ""]
    lines += [f"- **{each['role']}**: {label(each['name'], each.get('revision'))}" for each in manifest["inputs"]]
    lines += warned(manifest["warnings"])
    lines += _adapter(manifest, target["name"]) if peft else _patch(manifest)
    lines += own_section()
    lines += licensed(facts)
    lines += ["", "`tuneport.json` contains all of this in machine-readable form; `tuneport verify` checks it."]
    return document(lines)


def _adapter(manifest: Mapping[str, Any], target: str) -> list[str]:
    exported = manifest["exported"]
    lines = ["", "## Load it", "", "```python", "from peft import PeftModel"]
    lines += ["from transformers import AutoModelForCausalLM", ""]
    lines += [f'model = AutoModelForCausalLM.from_pretrained("{target}")']
    if exported["rows"] is not None:
        lines += [f"model.resize_token_embeddings({exported['rows']})  # the adapter has rows for new tokens"]
    lines += [f'model = PeftModel.from_pretrained(model, "{HERE}")', "```", ""]
    lines += [f"Highest rank: {exported['rank']} (vLLM: `max_lora_rank`)."]
    lines += ["", "## What is kept", "", _kept_in_words(exported), ""]
    rows = [
        (each["name"], each["rank"], _figure(each["survives"]), _figure(each["error"]))
        for each in exported["matrices"][:_MOST_ROWS]
    ]
    lines += table(["matrix", "rank", "‖kept‖ / ‖Δ‖", "‖error‖ / ‖Δ‖"], rows)
    return lines + _more(exported["matrices"]) + _left_out(exported["left_out"])


def _kept_in_words(exported: Mapping[str, Any]) -> str:
    return (
        f"The adapter reproduces Δ with an error of {_figure(exported['error'])} of ‖Δ‖ in all; "
        f"{_figure(exported['survives'])} of ‖Δ‖ survives."
    )


def _left_out(left: Sequence[Mapping[str, Any]]) -> list[str]:
    if not left:
        return []
    rows = [(each["name"], _figure(each["share"]), each["reason"]) for each in left[:_MOST_ROWS]]
    lines = ["", "## What is left out", "", *table(["tensor", "‖Δ‖ of it / ‖Δ‖ in all", "reason"], rows)]
    return lines + _more(left)


def _patch(manifest: Mapping[str, Any]) -> list[str]:
    exported = manifest["exported"]
    return [
        "",
        "## What is in it",
        "",
        f"{exported['changed']:,} of {exported['elements']:,} elements of the target change "
        f"({exported['share']:.3%}). For each tensor NAME that changes: `NAME.indices` (flat positions, rising) and "
        f"`NAME.values` (the new values there, in the target's dtype).",
        "",
        "The patch fits only the target whose tensors have the digests in `tuneport.json` (`exported.tensors`).",
    ]


def _more(rows: Sequence[object]) -> list[str]:
    return ["", cell(f"{len(rows) - _MOST_ROWS} more are in tuneport.json.")] if len(rows) > _MOST_ROWS else []


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
