"""An adapter learns the special tokens that the template it brings needs: all of them, whatever the base knows of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import tiny_tuning

from tuneport.errors import UsageError
from tuneport.tuning.recipes import DpoRecipe, Lora, Recipe, SftRecipe, parse_lora
from tuneport.tuning.run import rehearse, tune

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|begin|>{{ m.content }}{% else %}<|pad|>{{ m.content }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|pad|>{% endif %}"
)


def rows_of(adapter: Path) -> dict[str, int]:
    found = load_file(adapter / "adapter_model.safetensors")
    return {name: len(tensor) for name, tensor in found.items() if "trainable_tokens" in name}


def test_an_adapter_learns_the_tokens_of_a_template_that_it_brings_though_they_were_there(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    quick = SftRecipe(steps=2)
    done = tune(base, [chats], quick, out=tmp_path / "a", chat_template=TEMPLATE, lora=Lora(2))
    assert [*rows_of(done.out).values()] == [2, 2]  # <|pad|> and <|end|>, in embedding and head; not a text's beginning
    assert done.record["plan"]["lora"]["tokens"] == ["<|pad|>", "<|end|>"]
    named = tune(
        base, [chats], quick, out=tmp_path / "b", chat_template=TEMPLATE, lora=parse_lora("rank=2,tokens=<|begin|>")
    )
    assert [*rows_of(named.out).values()] == [1, 1]
    whole = Lora(2, modules_to_save=("lm_head",))
    saved = tune(base, [chats], quick, out=tmp_path / "c", chat_template=TEMPLATE, lora=whole)
    assert [*rows_of(saved.out).values()] == [2], "the head is saved as a whole, and holds them"


def test_what_cannot_teach_the_templates_tokens_warns_unless_they_are_said_to_be_known(
    base: Path, tmp_path: Path
) -> None:
    pairs = tiny_tuning.write_rows(tmp_path / "p.jsonl", [{"prompt": "the", "chosen": " fox", "rejected": " dog"}])

    def warned(recipe: Recipe, lora: Lora | None, template: str | None = TEMPLATE) -> list[str]:
        told = rehearse(base, [pairs], recipe, out=tmp_path / "out", lora=lora, chat_template=template)["warnings"]
        return [warning for warning in told if "<|pad|>" in warning]

    (warning,) = warned(DpoRecipe(), Lora(2))
    assert "sft first" in warning and "tokens=new" in warning
    assert not warned(DpoRecipe(), Lora(2, tokens="new")) and not warned(DpoRecipe(), None)
    assert not warned(DpoRecipe(), Lora(2), None), "a template of the model's own is known to it"


@pytest.mark.parametrize("recipe", [SftRecipe(), DpoRecipe()], ids=["sft", "dpo"])
def test_tokens_that_cannot_be_taught_are_told(base: Path, tmp_path: Path, recipe: SftRecipe | DpoRecipe) -> None:
    rows = tiny_tuning.write_rows(
        tmp_path / "r.jsonl", [{"prompt": "the", "completion": " fox", "chosen": " fox", "rejected": " dog"}]
    )
    lora = Lora(2, tokens=("<|end|>",) if recipe.name == "dpo" else ("<|end|>", "<|nowhere|>"))
    with pytest.raises(
        UsageError, match=r"dpo cannot train.*<\|end\|>" if recipe.name == "dpo" else r"lacks <\|nowhere\|>"
    ):
        rehearse(base, [rows], recipe, out=tmp_path / "out", lora=lora)
