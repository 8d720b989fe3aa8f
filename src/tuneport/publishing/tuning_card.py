"""The card of a fine-tuning: what was done to which model, with which data, and how to transfer it to the next version.

Made only from the record that becomes tune.json. Names are those of the record: Hub ids, or names of files and folders
without a path.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from tuneport.output.adapted_card import adapted, parents_of
from tuneport.output.model_card import (
    HERE,
    document,
    front_matter,
    is_hub_id,
    label,
    licensed,
    own_section,
    scored,
    table,
    warned,
)

_NAMES = {
    "sft": "supervised fine-tuning",
    "dpo": "preferences (DPO)",
    "grpo": "verifiable rewards (GRPO)",
    "distil": "distillation",
}


def render_card(record: Mapping[str, Any]) -> bytes:
    """README.md of a fine-tuned model or adapter; the user's section in it is empty."""
    facts = record.get("card") or {}
    here = facts.get("repository") or HERE
    plan, outcome = record["plan"], record["outcome"]
    recipe, lora, start = plan["recipe"]["recipe"], plan["lora"], plan["model"]
    parents = parents_of(record) or [start]
    model = label(start["name"], start["revision"]) if parents[0] is start else f"the rung {start['name']}"
    lines = [
        *front_matter(
            ["tuneport", "fine-tuning", recipe, *(["lora"] if lora else [])],
            library="peft" if lora else "transformers",
            parents=[parent["name"] for parent in parents],
            relation="adapter" if lora else "finetune" if parents[0] is start else "merge",
            datasets=[_data_set(source["name"]) for source in plan["data"]],
            facts=facts,
        ),
        "",
        f"# {parents[-1]['name'].rpartition('/')[2]}: {_NAMES[recipe]}",
        "",
        f"{'An adapter of' if lora else 'All parameters of'} {_part(plan)}{model}, trained for {outcome['steps']:,} "
        f"steps on {outcome['tokens']:,} tokens; the loss of the last steps was {_number(outcome['final_loss'])}. "
        f"Made by tuneport {record['environment']['tuneport']} on TRL.",
    ]
    if (lost := record.get("rounding")) and lost["error"] is not None:
        lines[-1] += (
            f" Storing the weights lost {lost['error']:.2g} of ‖Δ‖, the length of the learned difference; "
            f"{lost['unchanged']:.1%} of its nonzero elements did not change the start."
        )
    lines += _taught(plan, outcome.get("distillation"))
    lines += warned(outcome["warnings"])
    lines += adapted(record.get("adapted"))
    lines += ["", "## Load it", "", "```python", *_loading(plan, here), "```", *own_section(), *scored(facts), ""]
    lines += ["## Transfer it to another version of the model", "", "```sh", _transfer(parents[-1], here), "```", ""]
    lines += ["## Data", "", *_data(plan), "", "## Choices", "", *_choices(plan), *licensed(facts), ""]
    lines.append(
        "`tune.json` contains all of this in machine-readable form, `log.jsonl` every step. `tune-hashes.txt` "
        "contains digests of the training examples: `tuneport evaluate --trained-on DIR` finds test examples among "
        "them."
    )
    return document(lines)


def _part(plan: Mapping[str, Any]) -> str:
    """What of a multimodal model was trained."""
    return f"the {plan['part']} part alone of " if plan.get("part") else ""


def _taught(plan: Mapping[str, Any], learned: Mapping[str, Any] | None) -> list[str]:
    """Of a distillation, whose answers were learned, and how far the model's distribution was from the teacher's."""
    if learned is None:
        return []
    teacher = plan["teacher"]
    told = (
        f"It learned the distribution of {label(teacher['name'], teacher.get('revision'))} over its own greedy answers to "
        f"{learned['answers']:,} prompts, {learned['tokens']:,} tokens. The KL divergence from it went from "
        f"{_number(learned['first_kl'])} to {_number(learned['last_kl'])} nats a token."
    )
    if (kept := learned["last_retain_kl"]) is not None:
        texts = ", ".join(text["name"] for text in plan["retain"])
        told += f" On the texts of {texts} the KL divergence from the start was {_number(kept)} at the end."
    return ["", told]


def _data_set(name: str) -> str:
    """A data set's id without the revision and split that a source's name may hold."""
    return name.partition("@")[0].partition(":")[0] if is_hub_id(name) else name


def _loading(plan: Mapping[str, Any], here: str) -> list[str]:
    """How the model is loaded, or the adapter onto its base; the tokenizer lies beside it where the template came with it."""
    kind = "AutoModelForImageTextToText" if plan.get("part") else "AutoModelForCausalLM"
    start, imports = plan["model"], f"from transformers import {kind}, AutoTokenizer"
    whole, tokenizer = (
        kind + '.from_pretrained("{}"{})',
        'tokenizer = AutoTokenizer.from_pretrained("{}"{})',
    )
    if plan["lora"] is None:
        return [imports, "", f"model = {whole.format(here, '')}", tokenizer.format(here, "")]
    revision = f', revision="{start["revision"]}"' if start["revision"] and is_hub_id(start["name"]) else ""
    own = plan["chat"]["template"] in (None, "the model's own")
    lines = [
        "from peft import PeftModel",
        imports if own else imports.replace(", AutoTokenizer", ", AutoTokenizer, GenerationConfig"),
        "",
        tokenizer.format(start["name"], revision) if own else tokenizer.format(here, ""),
        f"base = {whole.format(start['name'], revision)}",
    ]
    if plan["chat"]["new_tokens"]:
        lines.append("if len(tokenizer) > base.get_input_embeddings().num_embeddings:")
        lines.append("    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)")
    lines.append(f'model = PeftModel.from_pretrained(base, "{here}")')
    if not own:  # else generation would not stop where the template ends an answer
        lines.append(f'model.generation_config = GenerationConfig.from_pretrained("{here}")')
    return lines


def _transfer(start: Mapping[str, Any], here: str) -> str:
    revision = f"@{start['revision']}" if start["revision"] and is_hub_id(start["name"]) else ""
    base = shlex.quote(f"{start['name']}{revision}")
    return f"tuneport transfer --base {base} --tuned {here} --onto NEW-VERSION --out DIR"


def _data(plan: Mapping[str, Any]) -> list[str]:
    rows = [(source["name"], source["form"], f"{source['rows']:,}", f"{source['of']:,}") for source in plan["data"]]
    return table(["data", "form", "rows used", "of"], rows)


def _choices(plan: Mapping[str, Any]) -> list[str]:
    chat = {name: plan["chat"][name] for name in ("template", "end_token", "new_tokens")}
    adapter = {f"lora {name}": value for name, value in (plan["lora"] or {}).items()}
    rows = [
        (name, value) for name, value in {**plan["recipe"], **adapter, **chat}.items() if value not in (None, [], ())
    ]
    return table(["choice", "value"], [(name, _shown(value)) for name, value in rows])


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
