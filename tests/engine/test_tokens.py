"""What a transfer makes of tokens: rows that are lost are told with their size, and no choice leaves an id without a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.diffvector.run import transfer
from tuneport.errors import PairingError

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# A language was added to the vocabulary before the fine-tuning: base has its words as well.
EXTENDED = [*tiny.WORDS, "salam", "dunia", "<|reserved_9|>"]


def extended(tmp_path: Path, **files: str) -> list[str | Path]:
    rows = len(EXTENDED)
    base = tiny.llama(1, rows=rows)
    sizes = tiny.config(vocab_size=rows)
    tiny.write_model(tmp_path / "base", base, settings=sizes, words=EXTENDED)
    tiny.write_model(tmp_path / "tuned", tiny.moved(base, 2), settings=sizes, words=EXTENDED, **files)
    target = {name: value[:24] if name in (EMBED, HEAD) else value for name, value in tiny.moved(base, 3).items()}
    tiny.write_model(tmp_path / "target", target)
    parents = [f(tmp_path / role) for f, role in ((str, "base"), (str, "tuned"), (str, "target"))]
    return ["--base", parents[0], "--tuned", parents[1], "--onto", parents[2]]


def test_words_that_the_target_lacks_are_warned_of_with_their_share_and_strict_stops(cli: Cli, tmp_path: Path) -> None:
    parents = extended(tmp_path)
    ran = cli("transfer", *parents, "--out", tmp_path / "out")
    assert ran.status == 0 and ran.err.count("warning: ") == 1
    base, tuned = (tiny.read_weights(tmp_path / role) for role in ("base", "tuned"))
    diff = {name: (tuned[name].float() - base[name].float()) for name in base}
    lost = sum(float(diff[name][24:].double().square().sum()) for name in (EMBED, HEAD))
    whole = sum(float(each.double().square().sum()) for each in diff.values())
    assert "2 token(s) of base and tuned" in ran.err and "salam, dunia" in ran.err
    assert f"({(lost / whole) ** 0.5:.1%} of ‖Δ‖)" in ran.err and "--new-tokens all" in ran.err
    measures = json.loads((tmp_path / "out" / "tuneport.json").read_text())["measures"]
    assert measures["lost_norm"] == pytest.approx(lost**0.5)
    dry = cli("transfer", *parents, "--out", tmp_path / "dry", "--dry-run", "--json").json()
    assert len(dry["warnings"]) == 1 and "salam, dunia" in dry["warnings"][0] and "of ‖Δ‖" not in dry["warnings"][0]
    assert dry["tokens"][0]["lost"] == ["salam", "dunia", "<|reserved_9|>"]
    strict = cli("transfer", *parents, "--out", tmp_path / "strict", "--strict")
    assert strict.status == 1 and not list(tmp_path.glob("strict*"))


def test_a_reserved_slot_that_the_fine_tuning_used_is_no_free_one(cli: Cli, tmp_path: Path) -> None:
    parents = extended(tmp_path)
    tuned = tiny.read_weights(tmp_path / "tuned")
    tuned[HEAD][26] += 3.0
    tiny.write_weights(tmp_path / "tuned", tuned)
    ran = cli("transfer", *parents, "--out", tmp_path / "out")
    assert "3 token(s) of base and tuned" in ran.err and "<|reserved_9|>" in ran.err


def test_all_appends_them_with_the_tuned_models_rows(cli: Cli, tmp_path: Path) -> None:
    parents = extended(tmp_path)
    ran = cli("transfer", *parents, "--out", tmp_path / "out", "--new-tokens", "all")
    assert ran.status == 0 and not ran.err
    out, tuned = tiny.read_weights(tmp_path / "out"), tiny.read_weights(tmp_path / "tuned")
    for name in (EMBED, HEAD):
        assert out[name].shape == (27, 8) and torch.equal(out[name][24:], tuned[name][24:])
    vocabulary = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]["vocab"]
    assert [vocabulary[word] for word in EXTENDED[24:]] == [24, 25, 26]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 27
    assert cli("verify", tmp_path / "out", *parents, "--full").status == 0


@pytest.mark.parametrize("rows", [(24, 27, 24), (27, 27, 24)])
def test_equal_tokenizers_with_tokens_that_not_all_models_have_a_row_for_lose_none_in_silence(
    cli: Cli, tmp_path: Path, rows: tuple[int, int, int]
) -> None:
    """Gemma 3's tokenizer has a token more than its text models have rows; a resized one has a row for it."""
    longest = tiny.llama(1, rows=27)
    models = {"base": longest, "tuned": tiny.moved(longest, 2), "target": tiny.moved(longest, 3)}
    for (role, weights), own in zip(models.items(), rows, strict=True):
        cut = {name: value[:own] if name in (EMBED, HEAD) else value for name, value in weights.items()}
        tiny.write_model(tmp_path / role, cut, settings=tiny.config(vocab_size=own), words=EXTENDED)
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]
    ran = cli("transfer", *parents, "--out", tmp_path / "out")
    out, tuned = tiny.read_weights(tmp_path / "out"), models["tuned"]
    if rows[0] == 27:  # base has them too: a difference without a place, unless they are all to come
        assert "salam, dunia" in ran.err and "is lost" in ran.err and out[EMBED].shape[0] == 24
        ran = cli("transfer", *parents, "--out", tmp_path / "all", "--new-tokens", "all")
        out = tiny.read_weights(tmp_path / "all")
    assert ran.status == 0 and not ran.err
    for name in (EMBED, HEAD):
        assert out[name].shape[0] == 27 and torch.equal(out[name][24:], tuned[name][24:])
    assert json.loads((tmp_path / "target" / "config.json").read_text())["vocab_size"] == 24
    by_position = cli("transfer", *parents, "--out", tmp_path / "by-position", "--vocabulary", "positions")
    assert by_position.status == 0 and "lost" in by_position.err and "salam" in by_position.err
    assert "without --vocabulary positions" in by_position.err and "--new-tokens all" not in by_position.err


@pytest.mark.parametrize("how", ["rows", "strings", "renamed"])
def test_tokens_of_tuned_and_target_that_base_has_no_row_for_are_warned_of_and_strict_stops(
    cli: Cli, tmp_path: Path, how: str
) -> None:
    """Rows 24, 26 and 32: no difference is known, so the target's rows stay, and nobody would know why."""
    chat, free = ["<|im_end|>", "<|tool|>"], ["<|reserved_1|>"]
    words = {
        "rows": [[*tiny.WORDS, *chat, *free]] * 3,
        "strings": [tiny.WORDS, [*tiny.WORDS, *chat, *free], [*tiny.WORDS, *free, *chat]],
        "renamed": [[*tiny.WORDS, "<r0>", "<r1>"], [*tiny.WORDS, *chat], [*tiny.WORDS, "<r0>", "<r1>", *chat]],
    }[how]
    longest = tiny.llama(1, rows=32)
    models = {"base": longest, "tuned": tiny.moved(longest, 2), "target": tiny.moved(longest, 3)}
    for (role, weights), rows, own in zip(models.items(), (24 if how != "renamed" else 26, 27, 32), words, strict=True):
        cut = {name: value[:rows] if name in (EMBED, HEAD) else value for name, value in weights.items()}
        tiny.write_model(tmp_path / role, cut, settings=tiny.config(vocab_size=rows), words=own)
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]
    ran = cli("transfer", *parents, "--out", tmp_path / "out")
    assert (ran.status, ran.err.count("warning: ")) == (0, 1), ran.err
    assert "2 token(s)" in ran.err and ", ".join(chat) in ran.err and "--base" in ran.err
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    assert set(manifest["tokens"][0]["without_base"]) == {*chat, *(free if how != "renamed" else [])}
    ids = json.loads((tmp_path / "target" / "tokenizer.json").read_text())["model"]["vocab"]
    out = tiny.read_weights(tmp_path / "out")
    for token in chat:
        assert torch.equal(out[EMBED][ids[token]], models["target"][EMBED][ids[token]])
    assert cli("verify", tmp_path / "out", *parents, "--full").status == 0
    assert cli("transfer", *parents, "--out", tmp_path / "strict", "--strict").status == 1
    assert cli("diff", *parents[:4], "--out", tmp_path / "diff").status == 0
    applied = cli("apply", tmp_path / "diff", *parents[4:], "--out", tmp_path / "applied")
    assert "2 token(s)" in applied.err and "vector again" in applied.err
    with_rows = [*parents[:1], tmp_path / "tuned", *parents[2:]]  # the way out: a base that has them
    tiny.write_weights(tmp_path / "tuned", tiny.moved(tiny.read_weights(tmp_path / "tuned"), 4))
    assert "token(s)" not in cli("transfer", *with_rows, "--out", tmp_path / "other", "--dry-run").err


def test_a_diff_vector_says_the_same_and_cannot_append_them(cli: Cli, tmp_path: Path) -> None:
    parents = extended(tmp_path)
    assert cli("diff", *parents[:4], "--out", tmp_path / "diff").status == 0
    ran = cli("apply", tmp_path / "diff", "--onto", parents[5], "--out", tmp_path / "out")
    carried = cli("transfer", *parents, "--out", tmp_path / "carried")
    assert (
        ran.status == 0
        and ran.err.partition(": salam")[0] == carried.err.partition(": salam")[0]
        and "of ‖Δ‖" in ran.err
    )
    assert "run `tuneport transfer --new-tokens all` with its parents" in ran.err and "Pass `--new" not in ran.err
    refused = cli("apply", tmp_path / "diff", "--onto", parents[5], "--out", tmp_path / "all", "--new-tokens", "all")
    assert refused.status == 1 and "`tuneport transfer` with the parents" in refused.err


def test_expressions_of_drop_add_up(cli: Cli, tmp_path: Path) -> None:
    base = {**tiny.llama(1), "old.a": torch.ones(3), "old.b": torch.ones(3)}
    trio = tiny.trio(tmp_path, base=base, tuned=tiny.moved(base, 2), target=tiny.moved(tiny.llama(1), 3))
    one = cli(*trio.flags(tmp_path / "out", "--drop", r"old\.a"))
    assert one.status == 1 and "`old.b`" in one.err and "`old.a`" not in one.err
    assert cli(*trio.flags(tmp_path / "out", "--drop", r"old\.a", "--drop", r"old\.b")).status == 0
    unknown = cli(*trio.flags(tmp_path / "no", "--drop", "old", "--drop", "no-such-tensor"))
    assert unknown.status == 2 and "no-such-tensor" in unknown.err


@pytest.mark.parametrize(
    ("text", "status"), [("up_proj=maybe", 2), ("=strings", 2), ("tokens", 2), ("no-such=strings", 2), ("(=strings", 2)]
)
def test_a_vocabulary_choice_that_means_nothing_is_wrong_usage(
    text: str, status: int, cli: Cli, tmp_path: Path
) -> None:
    base = tiny.llama(1)
    trio = tiny.trio(tmp_path, base=base, tuned=tiny.moved(base, 2))
    ran = cli(*trio.flags(tmp_path / "out", "--vocabulary", text))
    assert ran.status == status and "--vocabulary" in ran.err and not (tmp_path / "out").exists()


def test_a_matrix_nobody_knows_is_decided_by_an_expression(cli: Cli, tmp_path: Path) -> None:
    """Another kind of model, whose embedding has as many rows as the model is wide inside."""
    shuffled = tiny.WORDS[::-1]
    settings = tiny.config(model_type="a-new-kind", intermediate_size=24)

    def tensors(seed: int) -> tiny.Tensors:
        made = torch.Generator().manual_seed(seed)
        return {name: torch.randn(24, 8, generator=made) for name in ("model.table", "model.up")}

    base = tensors(1)
    models = {"base": base, "tuned": tiny.moved(base, 2), "target": tiny.moved(base, 3)}
    for role, weights in models.items():
        words = shuffled if role == "target" else tiny.WORDS
        tiny.write_model(tmp_path / role, weights, settings=settings, words=words)
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]
    refused = cli("transfer", *parents, "--out", tmp_path / "out")
    assert refused.status == 1 and "`model.table`" in refused.err and "`model.up`" in refused.err
    choices = ["--vocabulary", r"^model\.table$=strings", "--vocabulary", r"^model\.up$=positions"]
    assert cli("transfer", *parents, "--out", tmp_path / "out", *choices).status == 0
    out = tiny.read_weights(tmp_path / "out")
    diff = {name: models["tuned"][name] - base[name] for name in base}
    assert torch.equal(out["model.up"], models["target"]["model.up"] + diff["model.up"])
    assert torch.equal(out["model.table"], models["target"]["model.table"] + diff["model.table"].flip(0))
    assert cli("diff", *parents[:4], "--out", tmp_path / "diff").status == 0
    apply = ["apply", tmp_path / "diff", "--onto", tmp_path / "target", "--out", tmp_path / "applied"]
    assert cli(*apply, *choices).status == 0
    assert (tmp_path / "applied" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()
    assert cli("verify", tmp_path / "out", *parents, "--full").status == 0


def with_ids(tmp_path: Path, role: str, **fields: Any) -> None:
    path = tmp_path / role / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def small(tmp_path: Path) -> list[str | Path]:
    base = tiny.llama(1)
    weights = {"base": base, "tuned": tiny.moved(base, 2), "target": tiny.moved(base, 3)}
    for role, tensors in weights.items():
        tiny.write_model(tmp_path / role, tensors, settings=tiny.config(eos_token_id=2))
    return ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]


def test_an_id_without_a_row_stops_before_the_first_byte(cli: Cli, tmp_path: Path) -> None:
    parents = small(tmp_path)
    with_ids(tmp_path, "tuned", eos_token_id=24)
    ran = cli("transfer", *parents, "--out", tmp_path / "out")
    assert ran.status == 1 and "`eos_token_id` names token 24, but the output's matrices have 24 rows" in ran.err
    assert not list(tmp_path.glob("out*"))
    assert cli("transfer", *parents, "--out", tmp_path / "out", "--config", "eos_token_id=target").status == 0


def test_an_id_that_the_target_itself_has_no_row_for_is_noted_and_stops_nothing(cli: Cli, tmp_path: Path) -> None:
    parents = small(tmp_path)
    for role in ("base", "tuned", "target"):
        with_ids(tmp_path, role, image_token_id=24)
    assert cli("transfer", *parents, "--out", tmp_path / "out").status == 0
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    assert manifest["ids_without_row"] == [{"file": "config.json", "field": "image_token_id", "id": 24}]
    assert cli("verify", tmp_path / "out").status == 0
    assert cli("verify", tmp_path / "out", *parents, "--full").status == 0


def test_a_tying_that_the_tensors_do_not_fit_is_refused_whichever_flag_made_it(cli: Cli, tmp_path: Path) -> None:
    parents = small(tmp_path)
    for role in ("base", "tuned", "target"):
        weights = tiny.read_weights(tmp_path / role)
        del weights[HEAD]
        tiny.write_weights(tmp_path / role, weights)
        with_ids(tmp_path, role, tie_word_embeddings=True)
    with_ids(tmp_path, "tuned", tie_word_embeddings=False)
    ran = cli("transfer", *parents, "--out", tmp_path / "out", "--config", "tie_word_embeddings=tuned")
    assert ran.status == 1 and "which uses one matrix for both" in ran.err.replace("which have", "which has")
    assert "--config tie_word_embeddings=target" in ran.err and not list(tmp_path.glob("out*"))
    assert cli("transfer", *parents, "--out", tmp_path / "out", "--config", "tie_word_embeddings=target").status == 0


@pytest.mark.parametrize("behind", [1, 8])
def test_rows_that_are_not_for_tokens_leave_no_room_for_new_ones(behind: int, cli: Cli, tmp_path: Path) -> None:
    """Llama 3.2 Vision's embedding has eight rows behind the vocabulary, Moshi's one; the head has none."""

    def wide(weights: tiny.Tensors, rows: int) -> tiny.Tensors:
        made = torch.Generator().manual_seed(9)
        more = torch.randn(rows - 24 + behind, 8, generator=made).to(torch.bfloat16)
        head = torch.randn(rows - 24, 8, generator=made).to(torch.bfloat16)
        return {**weights, EMBED: torch.cat([weights[EMBED], more]), HEAD: torch.cat([weights[HEAD], head])}

    base = tiny.llama(1)
    sizes = tiny.config(vocab_size=26)
    tiny.write_model(tmp_path / "base", wide(base, 24))
    tiny.write_model(tmp_path / "tuned", wide(tiny.moved(base, 2), 26), settings=sizes, added=["<a>", "<b>"])
    tiny.write_model(tmp_path / "target", wide(tiny.moved(base, 3), 24))
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]
    ran = cli("transfer", *parents, "--out", tmp_path / "out")
    assert ran.status == 1 and f"`{EMBED}` has {behind} rows more than the vocabulary" in ran.err
    assert cli("transfer", *parents, "--out", tmp_path / "out", "--new-tokens", "drop").status == 0


def test_a_table_of_integers_by_token_leaves_no_room_for_new_ones(cli: Cli, tmp_path: Path) -> None:
    table = {"mlp.gate.tid2eid": torch.arange(48).reshape(24, 2)}
    base = tiny.llama(1)
    tuned = {k: torch.cat([v, v[:1]]) if k in (EMBED, HEAD) else v for k, v in tiny.moved(base, 2).items()}
    tiny.write_model(tmp_path / "base", {**base, **table})
    tiny.write_model(tmp_path / "tuned", {**tuned, **table}, settings=tiny.config(vocab_size=25), added=["<a>"])
    tiny.write_model(tmp_path / "target", {**tiny.moved(base, 3), **table})
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]
    ran = cli("transfer", *parents, "--out", tmp_path / "out")
    assert ran.status == 1 and "`mlp.gate.tid2eid` holds integers, a row for each token" in ran.err
    assert cli("transfer", *parents, "--out", tmp_path / "out", "--new-tokens", "drop").status == 0


def test_a_target_that_lacks_its_head_gives_an_output_that_verifies(cli: Cli, tmp_path: Path) -> None:
    parents = small(tmp_path)
    for role in ("base", "tuned", "target"):
        weights = tiny.read_weights(tmp_path / role)
        del weights[HEAD]
        tiny.write_weights(tmp_path / role, weights)
    assert cli("transfer", *parents, "--out", tmp_path / "out").status == 0
    assert json.loads((tmp_path / "out" / "tuneport.json").read_text())["without_head"] is True
    assert cli("verify", tmp_path / "out").status == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"'])
def test_a_broken_config_in_an_output_is_told_in_words(cli: Cli, tmp_path: Path, content: str) -> None:
    parents = small(tmp_path)
    assert cli("transfer", *parents, "--out", tmp_path / "out").status == 0
    (tmp_path / "out" / "generation_config.json").write_text(content)
    ran = cli("verify", tmp_path / "out")
    assert ran.status == 1 and "generation_config.json" in ran.err and "JSON" in ran.err


TRAINED = "token_adapter.trainable_tokens_delta"


@pytest.mark.parametrize("way", ["whole", "rows", "elsewhere"])
def test_what_an_adapter_changed_in_lost_rows_is_measured_as_of_a_full_model(
    cli: Cli, tmp_path: Path, way: str
) -> None:
    """Words 24, 25 and the reserved slot 26 have no row in the target."""
    parents = extended(tmp_path)
    base, made = tiny.read_weights(tmp_path / "base"), torch.Generator().manual_seed(9)
    adapter = tiny.write_lora(tmp_path / "lora", {"model.layers.0.mlp.up_proj.weight": torch.zeros(24, 8)}, rank=2)
    rows = torch.randn(3, 8, generator=made)
    ids = [0, 24, 25]
    tuned = base[EMBED].float().clone()
    tuned[ids] = rows
    saved = {
        "whole": ({f"base_model.model.{EMBED}": tuned}, {"modules_to_save": ["embed_tokens"]}),
        "rows": (
            {f"base_model.model.model.embed_tokens.{TRAINED}": rows},
            {"trainable_token_indices": {"embed_tokens": ids}},
        ),
        "elsewhere": ({}, {}),
    }[way]
    factors = load_file(adapter / "adapter_model.safetensors")
    save_file({**factors, **saved[0]}, adapter / "adapter_model.safetensors")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, **saved[1]}))
    diff = (tuned - base[EMBED].float()).double() if way != "elsewhere" else torch.zeros(27, 8).double()
    up = [factors[f"base_model.model.model.layers.0.mlp.up_proj.lora_{each}.weight"].double() for each in "BA"]
    whole = float(diff.square().sum() + (4 * up[0] @ up[1]).square().sum()) ** 0.5
    share = float(diff[24:].norm()) / whole
    given = ["--base", parents[1], "--tuned", adapter, "--onto", parents[5]]
    ran = cli("transfer", *given, "--out", tmp_path / "out")
    assert ran.status == 0 and f"({share:.1%} of ‖Δ‖)" in ran.err and "salam, dunia" in ran.err
    assert cli("diff", *given[:4], "--out", tmp_path / "diff").status == 0
    applied = cli("apply", tmp_path / "diff", "--onto", parents[5], "--out", tmp_path / "applied")
    assert applied.status == 0 and f"({share:.1%} of ‖Δ‖)" in applied.err


def sentencepiece_model(words: list[str]) -> bytes:
    """A tokenizer.model with these pieces: field 1 of the file for each, and in it the string as field 1 and a score."""

    def entry(word: str) -> bytes:
        text = word.encode()
        inner = b"\n" + bytes([len(text)]) + text + b"\x15\x00\x00\x00\x00"
        return b"\n" + bytes([len(inner)]) + inner

    return b"".join(map(entry, words))


@pytest.mark.parametrize("rows", [24, 32])
def test_an_end_token_that_no_file_of_the_output_defines_is_left_out_with_a_warning(
    rows: int, cli: Cli, tmp_path: Path
) -> None:
    """tokenizer.model alone: the tuned model's token is on a row of its own, or on a padded one."""
    base = tiny.llama(1, rows=rows)
    more = {
        k: torch.cat([v, v[:1]]) if k in (EMBED, HEAD) and rows == 24 else v for k, v in tiny.moved(base, 2).items()
    }
    weights = {"base": base, "tuned": more, "target": tiny.moved(base, 3)}
    for role, tensors in weights.items():
        settings = tiny.config(vocab_size=len(tensors[EMBED]), eos_token_id=24 if role == "tuned" else 2)
        folder = tiny.write_model(tmp_path / role, tensors, settings=settings)
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(tiny.WORDS))
        names = {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|im_end|>" if role == "tuned" else "w2"}
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (tmp_path / "tuned" / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 24}))
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]
    assert cli("transfer", *parents, "--out", tmp_path / "out").status == 1
    ran = cli("transfer", *parents, "--out", tmp_path / "out", "--vocabulary", "positions")
    assert ran.status == 0 and "1 token(s) that only the tuned model has (<|im_end|>)" in ran.err
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 2
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["eos_token"] == "w2"
    assert cli("verify", tmp_path / "out", *parents, "--full").status == 0


def test_rows_that_no_file_names_are_counted(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    more = {k: torch.cat([v, v[:2]]) if k in (EMBED, HEAD) else v for k, v in tiny.moved(base, 2).items()}
    for role, tensors in {"base": base, "tuned": more, "target": tiny.moved(base, 3)}.items():
        folder = tiny.write_model(tmp_path / role, tensors, settings=tiny.config(vocab_size=len(tensors[EMBED])))
        (folder / "tokenizer.json").rename(folder / "tekken.json")
        (folder / "tekken.json").write_text(role)
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]
    ran = cli("transfer", *parents, "--out", tmp_path / "out", "--vocabulary", "positions")
    assert ran.status == 0 and "2 row(s) of the tuned model whose tokens are in no file" in ran.err


def test_a_tuned_model_with_the_tokenizer_of_another_is_refused_and_not_taken_as_renamed(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(24)]
    base = tiny.llama(1)
    tiny.write_model(tmp_path / "base", base, words=words)
    tiny.write_model(tmp_path / "tuned", tiny.moved(base, 2), words=[*words[:4], *(f"x{i}" for i in range(4, 24))])
    tiny.write_model(tmp_path / "target", tiny.llama(1, rows=32), words=[*words, *(f"new{i}" for i in range(8))])
    with pytest.raises(PairingError, match="Only 4 token strings agree"):
        transfer(tmp_path / "base", tmp_path / "tuned", tmp_path / "target", tmp_path / "out")
