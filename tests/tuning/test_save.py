"""What a fine-tuning leaves: rows of new tokens, ends of turns, tied weights, dtypes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_results import Cli
from support.quick_tuning import QUICK
from support.tiny_tuning import END, PADDED_ROWS, base_model, same, weights, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import tuneport
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.errors import UsageError
from tuneport.examples.conversation_template import prepare_chat
from tuneport.tuning.recipes import DpoRecipe, Lora, SftRecipe
from tuneport.tuning.run import tune
from tuneport.tuning.save import save_tokenizer


def test_new_tokens_take_padded_rows_first_and_the_matrix_grows_only_when_they_run_out(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    rows = weights(base)["model.embed_tokens.weight"].shape[0]
    many = [f"<|new{place}|>" for place in range(PADDED_ROWS)]
    header = json.dumps({"end_of_turn": "<|new0|>", "tokens": [*many, "<|more|>"]})
    body = "{% for m in messages %}{{ m.role }}:{{ m.content }}<|new0|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    (tmp_path / "many.jinja").write_text("{#- tuneport: " + header + " -#}\n" + body)
    for name, template, expected in (("few", "chatml", rows), ("many", str(tmp_path / "many.jinja"), rows + 1)):
        out = tune(base, [chats], SftRecipe(steps=2), out=tmp_path / name, chat_template=template).out
        assert weights(out)["model.embed_tokens.weight"].shape[0] == expected
        assert weights(out)["lm_head.weight"].shape[0] == expected
        assert AutoConfig.from_pretrained(out).vocab_size == expected
        tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
        end = tokenizer.eos_token_id
        assert tokenizer.convert_ids_to_tokens(end) in ("<|im_end|>", "<|new0|>")
        assert model.generation_config.eos_token_id == [end, AutoTokenizer.from_pretrained(base).eos_token_id]
        assert model.config.eos_token_id == end
        assert "assistant" in tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
        )


def test_a_fine_tuning_with_new_tokens_is_carried_to_another_version_by_their_strings(
    base: Path, chats: Path, tmp_path: Path, cli: Cli
) -> None:
    tuned = tune(base, [chats], SftRecipe(steps=2, learning_rate=1e-3), out=tmp_path / "t", chat_template="chatml").out
    other = base_model(tmp_path / "other", seed=1)
    done = cli("transfer", "--base", base, "--tuned", tuned, "--onto", other, "--out", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>")]
    assert ids == [
        AutoTokenizer.from_pretrained(tuned).convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>")
    ]
    rows, taught = weights(tmp_path / "out")["lm_head.weight"], weights(tuned)["lm_head.weight"]
    assert torch.equal(rows[ids], taught[ids])
    assert tokenizer.eos_token == "<|im_end|>"


def test_an_adapter_learns_the_rows_of_new_tokens(base: Path, chats: Path, tmp_path: Path) -> None:
    out = tune(
        base, [chats], SftRecipe(steps=4, learning_rate=1e-2), out=tmp_path / "a", chat_template="chatml", lora=Lora(4)
    ).out
    from peft import PeftModel

    rows = [name for name in weights(out) if "trainable_tokens" in name]
    assert len(rows) == 2, "of the embedding and of the head"
    start = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = start.lm_head.weight.detach().clone()
    merged = PeftModel.from_pretrained(start, out).merge_and_unload().lm_head.weight
    changed = (merged != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [
        AutoTokenizer.from_pretrained(out).convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>")
    ]
    assert (out / "chat_template.jinja").exists()
    assert "<|im_end|>" in AutoTokenizer.from_pretrained(out).get_vocab()


def test_preferences_do_not_teach_an_adapter_new_tokens(base: Path, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}]
    answers = [[{"role": "assistant", "content": said}] for said in "bc"]
    data = write_rows(tmp_path / "pairs.jsonl", [{"prompt": talk, "chosen": answers[0], "rejected": answers[1]}])
    with pytest.raises(UsageError, match="Train them with sft first"):
        tune(base, [data], DpoRecipe(), out=tmp_path / "out", chat_template="chatml", lora=Lora(4))


def test_tokens_that_generation_stops_at_already_are_left_as_they_are(tmp_path: Path, chats: Path) -> None:
    base = base_model(tmp_path / "base")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((base / name).read_text())
        settings["eos_token_id"] = [settings["eos_token_id"], 7]
        (base / name).write_text(json.dumps(settings))
    out = tune(base, [chats], SftRecipe(steps=1), out=tmp_path / "out", chat_template="tulu").out
    for name in ("config.json", "generation_config.json"):
        assert json.loads((out / name).read_text()) == json.loads((base / name).read_text())


def test_an_end_that_generation_does_not_stop_at_is_told(tmp_path: Path, chats: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }}<|pad|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    base = base_model(tmp_path / "base", template=template)
    done = tune(base, [chats], SftRecipe(steps=1), out=tmp_path / "out")
    assert any("does not stop" in words and 'end_token="<|pad|>"' in words for words in done.warnings)
    mended = tune(base, [chats], SftRecipe(steps=1), out=tmp_path / "mended", end_token="<|pad|>")
    assert not mended.warnings
    ids = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids(["<|pad|>", END])
    assert json.loads((mended.out / "generation_config.json").read_text())["eos_token_id"] == ids


@pytest.mark.parametrize(("tied", "dtype"), [(True, torch.bfloat16), (False, torch.float32), (False, torch.float16)])
def test_tied_weights_stay_tied_and_each_dtype_is_kept(
    tmp_path: Path, sums: Path, tied: bool, dtype: torch.dtype
) -> None:
    base = base_model(tmp_path / "base", tied=tied, dtype=dtype, pad=False)
    out = tune(base, [sums], SftRecipe(steps=2, learning_rate=1e-2), out=tmp_path / "out").out
    assert weights(out).keys() == weights(base).keys()
    assert {tensor.dtype for tensor in weights(out).values()} == {dtype}
    assert AutoTokenizer.from_pretrained(out).pad_token is None, "what pads in training is not the model's business"
    assert "pad_token_id" not in json.loads((out / "generation_config.json").read_text())


@pytest.mark.parametrize(("asked", "dtype"), [("float32", torch.float32), ("fp16", torch.float16)])
def test_weights_can_be_stored_in_another_dtype_than_the_starts(
    base: Path, sums: Path, full: Path, tmp_path: Path, cli: Cli, asked: str, dtype: torch.dtype
) -> None:
    words = ["--steps", "12", "--learning-rate", "3e-2", "--batch-size", "8", "--dtype", asked]
    assert cli("tune", base, "--data", sums, "--out", tmp_path / "out", *words).status == 0
    kept = weights(tmp_path / "out")
    assert {tensor.dtype for tensor in kept.values()} == {dtype}
    if dtype is torch.float32:  # float16 would round twice
        assert same({name: tensor.to(torch.bfloat16) for name, tensor in kept.items()}, weights(full)), "same training"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((base / "config.json").read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["plan"]["dtype"] == config["dtype"]


def test_a_dtype_that_weights_cannot_be_stored_in_is_told(base: Path, sums: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dtype='int8': must be bfloat16, float16 or float32"):
        tune(base, [sums], QUICK, out=tmp_path / "out", dtype="int8")
    with pytest.raises(UsageError, match=r"an adapter \(lora\) is always stored in float32"):
        tune(base, [sums], QUICK, out=tmp_path / "out", dtype="float32", lora=Lora(rank=2))


def test_an_adapter_that_is_carried_over_stops_where_its_template_ends_an_answer(
    base: Path, chats: Path, tmp_path: Path, cli: Cli
) -> None:
    tuned = tune(
        base, [chats], SftRecipe(steps=2, learning_rate=1e-2), out=tmp_path / "a", chat_template="chatml", lora=Lora(2)
    ).out
    other = base_model(tmp_path / "other", seed=1)
    done = cli("transfer", "--base", base, "--tuned", tuned, "--onto", other, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    stops = GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_ids_to_tokens(stops) == ["<|im_end|>", AutoTokenizer.from_pretrained(base).eos_token]


@pytest.mark.parametrize("tokens", [1, PADDED_ROWS + 2], ids=["in padded rows", "in rows of their own"])
def test_the_code_on_an_adapters_card_loads_what_was_trained(
    base: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    named = json.dumps({"end_of_turn": "<|new0|>", "tokens": [f"<|new{n}|>" for n in range(tokens)]})
    template = tmp_path / "chat.jinja"
    body = "{% for m in messages %}{{ m.role + m.content + '<|new0|>' }}{% endfor %}"
    ask = "{% if add_generation_prompt %}assistant{% endif %}"
    template.write_text(f"{{#- tuneport: {named} -#}}\n{body}{ask}")
    recipe = SftRecipe(steps=2, learning_rate=1e-2)
    out = tune(base, [chats], recipe, out=tmp_path / "this-folder", chat_template=str(template), lora=Lora(2)).out
    shutil.copytree(base, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    loaded: dict[str, Any] = {}
    exec(code, loaded)
    assert loaded["model"].generation_config.eos_token_id[0] == loaded["tokenizer"].convert_tokens_to_ids("<|new0|>")
    tuneport.transfer("base", out, "base", tmp_path / "whole")
    ids = torch.tensor([loaded["tokenizer"]("the fox <|new0|>")["input_ids"]])
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16)
    with torch.no_grad():
        found, wanted = loaded["model"](ids).logits.float(), whole(ids).logits.float()
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.02)


def test_an_adapter_of_a_tied_model_is_scored_as_the_model_that_it_makes(chats: Path, tmp_path: Path, cli: Cli) -> None:
    tied = base_model(tmp_path / "tied", tied=True, dtype=torch.float32)
    recipe = SftRecipe(steps=4, learning_rate=3e-2)
    adapter = tune(tied, [chats], recipe, out=tmp_path / "a", chat_template="chatml", lora=Lora(2)).out
    tuneport.transfer(tied, adapter, tied, tmp_path / "whole")
    rows = [{"messages": [{"role": "user", "content": f"a fox {n}"}], "answer": f"jumps {n}"} for n in range(4)]
    asked = write_rows(tmp_path / "asked.jsonl", rows)
    out = tmp_path / "o.json"
    ran = cli("evaluate", adapter, tmp_path / "whole", "--tasks", asked, "--loss", "--device", "cpu", "--out", out)
    assert ran.status == 0, ran.err
    one, other = (m["tasks"]["asked"]["value"] for m in json.loads(out.read_text())["models"])
    assert one == pytest.approx(other, rel=1e-4)


def test_a_tokenizer_says_nothing_of_where_and_how_the_start_was_read(base: Path, tmp_path: Path) -> None:
    """Where HF_HUB_OFFLINE is set, transformers notes another thing than where it is not."""
    written = []
    for offline in (True, False):
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=offline)
        chat = prepare_chat(tokenizer, "chatml", None, needed=True)
        folder = tmp_path / f"offline-{offline}"
        folder.mkdir()
        save_tokenizer(folder, tokenizer, open_checkpoint(base, "base"), chat)
        written.append((folder / "tokenizer_config.json").read_bytes())
    assert written[0] == written[1]
    assert b"local" not in written[0]
    assert AutoTokenizer.from_pretrained(tmp_path / "offline-True").eos_token == "<|im_end|>"


def test_whoever_may_read_the_config_may_read_the_weights(full: Path, adapter: Path) -> None:
    for folder in (full, adapter):
        modes = {file.stat().st_mode & 0o777 for file in folder.iterdir() if file.is_file()}
        assert len(modes) == 1, modes
