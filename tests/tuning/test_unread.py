"""Tokens that a base has never read are told by their rows, and by nothing else; an adapter learns them where it can."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_tuning
from support.command_results import Cli

from tuneport.checkpoint.local_folder import open_folder
from tuneport.errors import UsageError
from tuneport.tuning.recipes import DpoRecipe, Lora, SftRecipe, parse_lora
from tuneport.tuning.run import rehearse, tune
from tuneport.tuning.unread import unread

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|begin|>{{ m.content }}{% else %}<|pad|>{{ m.content }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|pad|>{% endif %}"
)
Change = Callable[[torch.Tensor, list[int]], None]


def ids_of(folder: Path) -> dict[str, int]:
    return {
        entry["content"]: entry["id"] for entry in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    }


def changed(folder: Path, name: str, change: Change, *, tied: bool = False) -> Path:
    """A base whose special tokens' rows, and some padded ones, are changed in one matrix."""
    tiny_tuning.base_model(folder, tied=tied, pad=False, dtype=torch.float32)  # torch never trains a padding row
    ids = [*ids_of(folder).values()]
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            change(tensors[name], [*ids, tensors[name].shape[0] - 1])
            save_file(tensors, file, metadata={"format": "pt"})
            return folder
    raise AssertionError(f"no {name}")


def one_row_but_for_the_start(rows: torch.Tensor, ids: list[int]) -> None:
    """What pretraining makes of rows in the output matrix that are never the answer."""
    rows[ids] = torch.randn(1, rows.shape[1]) * 0.3 + torch.randn(len(ids), rows.shape[1]) * 0.01


def all_but_zero(rows: torch.Tensor, ids: list[int]) -> None:
    rows[ids] = rows[ids] * 1e-6


def two_alike(rows: torch.Tensor, ids: list[int]) -> None:
    rows[ids[0]] = rows[ids[1]]


@pytest.mark.parametrize(
    ("name", "change", "tied"),
    [
        (HEAD, one_row_but_for_the_start, False),
        (EMBEDDING, one_row_but_for_the_start, True),
        (EMBEDDING, all_but_zero, False),
    ],
    ids=["head", "tied", "shrunken"],
)
def test_rows_that_were_never_read_tell_it(tmp_path: Path, name: str, change: Change, tied: bool) -> None:
    base = changed(tmp_path / "base", name, change, tied=tied)
    tokens = ids_of(base)
    words = {word: 10 + place for place, word in enumerate(("a", "b", "c"))}
    assert unread(open_folder(base, "model"), tokens | words) == dict.fromkeys(tokens, name)
    module = name.removesuffix(".weight")
    assert unread(open_folder(base, "model"), tokens, trained=(module,)) == {}, "what is trained as a whole is learned"


def test_where_it_cannot_be_told_nothing_is_said(tmp_path: Path) -> None:
    plain = tiny_tuning.base_model(tmp_path / "plain", pad=False)
    assert unread(open_folder(plain, "model"), ids_of(plain)) == {}
    twins = changed(tmp_path / "twins", HEAD, two_alike)  # two words may stand in for one another everywhere
    assert unread(open_folder(twins, "model"), ids_of(twins)) == {}
    alike = changed(
        tmp_path / "alike", EMBEDDING, one_row_but_for_the_start
    )  # no pretraining makes this of an embedding
    assert unread(open_folder(alike, "model"), ids_of(alike)) == {}


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has the tokens of a chat and has never read them."""
    return changed(tmp_path_factory.mktemp("unread") / "blank", HEAD, one_row_but_for_the_start)


def rows_of(adapter: Path) -> dict[str, int]:
    found = load_file(adapter / "adapter_model.safetensors")
    return {name: len(tensor) for name, tensor in found.items() if "trainable_tokens" in name}


def test_an_adapter_learns_the_tokens_of_a_template_that_it_brings_though_they_were_there(
    blank: Path, chats: Path, tmp_path: Path
) -> None:
    quick = SftRecipe(steps=2)
    done = tune(blank, [chats], quick, out=tmp_path / "a", chat_template=TEMPLATE, lora=Lora(2))
    assert [*rows_of(done.out).values()] == [2, 2]  # <|pad|> and <|end|>, in embedding and head; not a text's beginning
    assert done.record["plan"]["lora"]["tokens"] == ["<|pad|>", "<|end|>"]
    assert not [warning for warning in done.warnings if "never to have read" in warning]
    named = tune(
        blank, [chats], quick, out=tmp_path / "b", chat_template=TEMPLATE, lora=parse_lora("rank=2,tokens=<|begin|>")
    )
    assert [*rows_of(named.out).values()] == [1, 1]
    whole = Lora(2, modules_to_save=("lm_head",))
    saved = tune(blank, [chats], quick, out=tmp_path / "c", chat_template=TEMPLATE, lora=whole)
    assert [*rows_of(saved.out).values()] == [2], "the head is saved as a whole, and holds them"


def test_tokens_that_were_never_read_and_stay_so_are_told_before_anything_is_trained(
    blank: Path, chats: Path, tmp_path: Path, cli: Cli
) -> None:
    base = tiny_tuning.base_model(tmp_path / "base", pad=False)
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    asked = ["--data", chats, "--chat-template", tmp_path / "chat.jinja", "--out", tmp_path / "o", "--dry-run"]
    done = cli("tune", blank, *asked, "--lora", "rank=2,tokens=new")
    assert done.status == 0, done.err
    assert "never to have read <|pad|>, <|end|>: by lm_head.weight" in done.err and "tokens=chat" in done.err
    assert "read" not in cli("tune", blank, *asked, "--lora", "rank=2").err
    assert "read" not in cli("tune", blank, *asked).err, "all parameters learn them"
    assert "read" not in cli("tune", base, *asked, "--lora", "rank=2,tokens=new").err
    pairs = tiny_tuning.write_rows(tmp_path / "p.jsonl", [{"prompt": "the", "chosen": " fox", "rejected": " dog"}])
    (warning,) = [w for w in rehearse(blank, [pairs], DpoRecipe(), lora=Lora(2))["warnings"] if "never" in w]
    assert "<|end|>" in warning and "sft first" in warning


@pytest.mark.parametrize("recipe", [SftRecipe(), DpoRecipe()], ids=["sft", "dpo"])
def test_tokens_that_cannot_be_taught_are_told(blank: Path, tmp_path: Path, recipe: SftRecipe | DpoRecipe) -> None:
    rows = tiny_tuning.write_rows(
        tmp_path / "r.jsonl", [{"prompt": "the", "completion": " fox", "chosen": " fox", "rejected": " dog"}]
    )
    lora = Lora(2, tokens=("<|end|>",) if recipe.name == "dpo" else ("<|end|>", "<|nowhere|>"))
    with pytest.raises(
        UsageError, match=r"dpo cannot teach.*<\|end\|>" if recipe.name == "dpo" else r"has no <\|nowhere\|>"
    ):
        rehearse(blank, [rows], recipe, lora=lora)
