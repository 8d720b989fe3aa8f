"""The card of a fine-tuning is made of its record: Hub ids are linked, nothing breaks out of its place."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCard

from tuneport.publishing.tuning_card import render_card
from tuneport.tuning.recipes import GrpoRecipe, Lora, SftRecipe


def record(**more: Any) -> dict[str, Any]:
    """What tune.json holds, as far as a card says it."""
    plan = {
        "model": {"name": "org/base", "revision": "abc123"},
        "recipe": {**SftRecipe(steps=1200).record(), "max_length": 128},
        "lora": None,
        "data": [
            {"name": "org/rows@v2:train", "revision": "v2", "form": "messages", "rows": 16_700, "of": 168_000},
            {"name": "mine.jsonl", "revision": None, "form": "text", "rows": 3, "of": 3},
        ],
        "chat": {"template": "chatml", "end_token": "<|im_end|>", "new_tokens": ["<|im_start|>", "<|im_end|>"]},
        **more,
    }
    outcome = {"steps": 1200, "tokens": 5_000_000, "final_loss": 0.25, "warnings": ["it never read <user>, <asst>"]}
    return {"plan": plan, "outcome": outcome, "environment": {"tuneport": "0.1.0"}}


def test_hub_ids_are_linked_with_the_relation_that_the_hub_knows() -> None:
    card = ModelCard(render_card(record()).decode())
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "base_model": ["org/base"],
        "base_model_relation": "finetune",
        "datasets": ["org/rows"],
        "tags": ["tuneport", "fine-tuning", "sft"],
    }
    assert "# base: supervised fine-tuning" in card.text
    assert "All parameters of org/base @ abc123, trained for 1,200 steps on 5,000,000 tokens" in card.text
    assert "| org/rows@v2:train | messages | 16,700 | 168,000 |" in card.text
    assert "tuneport transfer --base org/base@abc123 --tuned this-folder --onto NEW-VERSION --out DIR" in card.text


def test_an_adapter_is_loaded_onto_its_base_with_the_tokenizer_that_speaks_its_template() -> None:
    text = render_card(record(lora=Lora(8).record())).decode()
    assert "base_model_relation: adapter" in text and "library_name: peft" in text
    assert 'AutoModelForCausalLM.from_pretrained("org/base", revision="abc123")' in text
    assert 'AutoTokenizer.from_pretrained("this-folder")' in text
    assert 'GenerationConfig.from_pretrained("this-folder")' in text and "resize_token_embeddings" in text
    plain = {"template": None, "end_token": "<|end|>", "new_tokens": []}
    text = render_card(record(lora=Lora(8).record(), chat=plain)).decode()
    assert 'AutoTokenizer.from_pretrained("org/base", revision="abc123")' in text
    assert "GenerationConfig" not in text and "resize_token_embeddings" not in text


def test_names_of_folders_are_no_links_and_tokens_no_html() -> None:
    recipe = {**GrpoRecipe(rewards=("exact", "format=a|b")).record(), "max_length": 128}
    text = render_card(record(model={"name": "my base", "revision": None}, recipe=recipe)).decode()
    assert "base_model" not in text
    assert "--base 'my base' --tuned" in text
    assert "| rewards | exact, format=a\\|b |" in text
    assert "> **Warning:** it never read &lt;user>, &lt;asst>" in text
    assert "| end_token | &lt;\\|im_end\\|> |" in text


def test_a_name_begins_no_line_of_its_own() -> None:
    card = render_card(record(model={"name": "m\n# Forged \x1b[2J<b>", "revision": None})).decode()
    assert "Forged" in card and "\x1b" not in card
    assert not [line for line in card.splitlines() if line.startswith("# Forged")]
