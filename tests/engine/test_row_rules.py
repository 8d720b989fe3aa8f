"""Rules for tokens scale the rows that they name and no others: against plain row by row arithmetic in torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_checkpoints as tiny
from support.broken_disks import Drive
from support.command_results import Cli
from support.killed_runs import KILLED, SHARDS, changes
from support.written_manifests import by_name, manifest

import tuneport
from tuneport.engine import budget as budgets
from tuneport.engine import kernel
from tuneport.errors import DoubtError, UsageError, VerificationError

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORDS = tiny.WORDS[:18]
CHAT = ["<|im_start|>", "<|im_end|>", "</s>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"


def one_vocabulary(where: Path, dtype: torch.dtype = torch.bfloat16, **settings: Any) -> tiny.Trio:
    """Three models with one tokenizer; rows behind it are padding."""
    base = tiny.llama(1, dtype)
    if settings.get("tie_word_embeddings"):
        base.pop(HEAD)
    small = {"chat_template__jinja": TEMPLATE}
    config = tiny.config(torch_dtype=str(dtype).removeprefix("torch."), **settings)
    return tiny.trio(where, base=base, words=WORDS, added=CHAT, settings=config, **small)


def three_vocabularies(where: Path, dtype: torch.dtype = torch.bfloat16) -> tiny.Trio:
    """A tuned model that adds a token; a target with two words in front, and without one of the words."""
    vocabularies: dict[str, tuple[list[str], list[str]]] = {
        "base": (WORDS, CHAT),
        "tuned": (WORDS, [*CHAT, "<tool>"]),
        "target": (["new0", "new1", *WORDS[:-1]], CHAT),
    }
    tensors, paths = {}, {}
    whole = tiny.llama(1, dtype, rows=40)
    for place, (role, (own, added)) in enumerate(vocabularies.items()):
        rows = len(own) + len(added)
        moved = tiny.moved(whole, place + 2, by=0.05 * place)
        tensors[role] = {name: value[:rows].clone() if value.shape[0] == 40 else value for name, value in moved.items()}
        config = tiny.config(vocab_size=rows, torch_dtype=str(dtype).removeprefix("torch."))
        more = {"chat_template__jinja": TEMPLATE + "<tool>"} if role == "tuned" else {}
        paths[role] = tiny.write_model(where / role, tensors[role], words=own, added=added, settings=config, **more)
    return tiny.Trio(paths["base"], paths["tuned"], paths["target"], tensors)


def by_hand(made: tiny.Trio, name: str, scales: Mapping[str, float], own: float) -> torch.Tensor:
    """A vocabulary matrix of the output, token by token."""
    ids = {
        role: {token: int(entry) for token, entry in _vocabulary(path).items()}
        for role, path in zip(("base", "tuned", "target"), made.paths, strict=True)
    }
    base, tuned, target = (made.tensors[role][name] for role in ("base", "tuned", "target"))
    one = ids["base"] == ids["target"]
    out = torch.cat([target] + [tuned[id : id + 1] for token, id in ids["tuned"].items() if token not in ids["base"]])
    names = {id: token for token, id in ids["target"].items()}
    for row in range(target.shape[0]):
        token = names.get(row, "")
        if token in ids["base"] or one:
            places = (row, row) if one else (ids["base"][token], ids["tuned"][token])
            out[row] = tiny.formula(base[places[0]], tuned[places[1]], target[row], scales.get(token, own))
    return out


def _vocabulary(path: Path) -> dict[str, int]:
    told = json.loads((path / "tokenizer.json").read_text())
    return {**told["model"]["vocab"], **{entry["content"]: entry["id"] for entry in told["added_tokens"]}}


def wanted(made: tiny.Trio, scales: Mapping[str, float], own: float = 1.0) -> tiny.Tensors:
    parts = made.tensors
    return {
        name: by_hand(made, name, scales, own)
        if name in (EMBED, HEAD)
        else tiny.formula(parts["base"][name], parts["tuned"][name], value)
        for name, value in parts["target"].items()
    }


CHAT_VECTOR = ["--row-rule", "@all=0", "--row-rule", "@template=1"]
ALONE = dict.fromkeys(["new0", "new1", *WORDS, "</s>", ""], 0.0) | {"<|im_start|>": 1.0, "<|im_end|>": 1.0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("make", [one_vocabulary, three_vocabularies])
def test_embeddings_left_alone_but_for_the_templates_tokens(
    cli: Cli, tmp_path: Path, make: Any, dtype: torch.dtype
) -> None:
    made = make(tmp_path, dtype)
    assert (ran := cli(*made.flags(tmp_path / "out", *CHAT_VECTOR))).status == 0, ran.err
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted(made, ALONE, own=0.0))
    entry = by_name(tmp_path / "out")[EMBED]
    assert {each["scale"]: each["rows"] for each in entry["row_scales"]}[1.0] == 2
    parents = ["--base", made.base, "--tuned", made.tuned, "--onto", made.target]
    assert (ran := cli("verify", tmp_path / "out", *parents, "--full")).status == 0, ran.err


@pytest.mark.parametrize("make", [one_vocabulary, three_vocabularies])
def test_diff_and_apply_give_the_same_bytes(cli: Cli, tmp_path: Path, make: Any) -> None:
    made = make(tmp_path)
    flags = ["--row-rule", "@special=0.3", "--row-rule", "w3,</s>=-2", "--row-rule", "w4=scale", "--scale", "0.7"]
    assert (ran := cli(*made.flags(tmp_path / "once", *flags))).status == 0, ran.err
    assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", tmp_path / "d").status == 0
    ran = cli("apply", tmp_path / "d", "--onto", made.target, "--out", tmp_path / "twice", *flags)
    assert ran.status == 0, ran.err
    tiny.assert_same(tiny.read_weights(tmp_path / "twice"), tiny.read_weights(tmp_path / "once"))
    scales = {"<|im_start|>": 0.3, "<|im_end|>": 0.3, "</s>": -2.0, "w3": -2.0}
    found = tiny.read_weights(tmp_path / "once")
    for name in (EMBED, HEAD):
        tiny.assert_same({name: found[name]}, {name: by_hand(made, name, scales, 0.7)})
    ran = cli("verify", tmp_path / "twice", "--diff", tmp_path / "d", "--onto", made.target, "--full")
    assert ran.status == 0, ran.err


def test_several_diff_vectors_each_have_their_own_scale_where_a_rule_says_scale(tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path, torch.float32)
    other = tiny.write_model(
        tmp_path / "other", tiny.moved(made.tensors["base"], 9), words=WORDS, added=CHAT,
        settings=tiny.config(torch_dtype="float32"), chat_template__jinja=TEMPLATE,
    )  # fmt: skip
    tuneport.diff(made.base, made.tuned, tmp_path / "one")
    tuneport.diff(made.base, other, tmp_path / "two")
    rules = {"@all": 0, ("w2", "w5"): "scale", "w5": 3}
    diffs = {str(tmp_path / "one"): 0.5, str(tmp_path / "two"): -1.0}
    tuneport.apply(diffs, made.target, tmp_path / "out", row_rules=rules)
    base, tuned, target = (made.tensors[role][EMBED] for role in ("base", "tuned", "target"))
    second = tiny.read_weights(other)[EMBED]
    out = target.clone()
    for row, scales in {2: (0.5, -1.0), 5: (3.0, 3.0)}.items():
        first = torch.tensor(scales[0]) * (tuned[row] - base[row])
        out[row] = target[row] + first + torch.tensor(scales[1]) * (second[row] - base[row])
    tiny.assert_same({EMBED: tiny.read_weights(tmp_path / "out")[EMBED]}, {EMBED: out})
    tuneport.verify(tmp_path / "out", onto=made.target, diffs=list(diffs), full=True)


def test_a_tied_embedding_is_scaled_once(cli: Cli, tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path, tie_word_embeddings=True)
    assert (ran := cli(*made.flags(tmp_path / "out", *CHAT_VECTOR))).status == 0, ran.err
    found = tiny.read_weights(tmp_path / "out")
    tiny.assert_same(found, wanted(made, ALONE, own=0.0))


def test_a_rule_by_name_is_the_scale_of_rows_that_no_rule_for_tokens_names(cli: Cli, tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path)
    flags = ["--rule", "embed_tokens=0.5", "--rule", "lm_head=0", "--row-rule", "w1=2", "--row-rule", "w1=0.25"]
    assert cli(*made.flags(tmp_path / "out", *flags)).status == 0
    found = tiny.read_weights(tmp_path / "out")
    for name, own in ((EMBED, 0.5), (HEAD, 0.0)):
        tiny.assert_same({name: found[name]}, {name: by_hand(made, name, {"w1": 0.25}, own)})


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_pieces_workers_and_the_kernel_change_no_bit_and_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounding: str
) -> None:
    words = [f"w{number}" for number in range(2000)]
    base = {EMBED: tiny.llama(1, rows=2000, hidden=96)[EMBED], "model.norm.weight": torch.ones(96).bfloat16()}
    made = tiny.trio(tmp_path, base=base, words=words, settings=tiny.config(vocab_size=2000, tie_word_embeddings=True))
    rules = {"@all": 0.3, ",".join(words[5:1900:7]): -1, ",".join(words[:2000:3]): 0}
    found = []
    for place, (workers, pieces, compiled) in enumerate(((1, 8, True), (3, 1, True), (2, 2, False))):
        with monkeypatch.context() as patch:
            patch.setattr(budgets, "PIECES", (pieces * kernel.BLOCK,))
            if not compiled:
                patch.setattr(kernel, "_compiled", None)
            out = tmp_path / f"out{place}"
            tuneport.transfer(*made.paths, out, workers=workers, row_rules=rules, rounding=rounding, seed=5)
        found.append((tiny.contents(out)["model.safetensors"], manifest(out)["tensors"]))
    assert found[0] == found[1]
    assert found[0][0] == found[2][0]
    if rounding == "nearest":
        scales = dict.fromkeys(words, 0.3) | dict.fromkeys(words[5:1900:7], -1.0) | dict.fromkeys(words[::3], 0.0)
        tiny.assert_same({EMBED: tiny.read_weights(out)[EMBED]}, {EMBED: by_hand(made, EMBED, scales, 1.0)})


def test_rows_at_zero_keep_the_targets_bytes(tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path, torch.float32)
    changed = dict(made.tensors["target"])
    changed[EMBED][3, :2] = torch.tensor([-0.0, float("nan")])
    tiny.write_weights(made.target, changed)
    tuneport.transfer(*made.paths, tmp_path / "out", row_rules="w3=0")
    found = tiny.read_weights(tmp_path / "out")[EMBED][3]
    assert tiny.bits(found) == tiny.bits(changed[EMBED][3])


def test_an_adapters_rows_are_scaled_too(cli: Cli, tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path, torch.float32)
    adapter = tmp_path / "adapter"
    tiny.write_lora(adapter, made.tensors["base"], rank=2)
    from safetensors.torch import load_file, save_file

    factors = load_file(adapter / "adapter_model.safetensors")
    trained = made.tensors["tuned"][EMBED]
    factors["base_model.model.model.embed_tokens.weight"] = trained
    save_file(factors, adapter / "adapter_model.safetensors")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "modules_to_save": ["embed_tokens"]}))
    flags = ["--base", made.base, "--tuned", adapter, "--onto", made.target, "--out", tmp_path / "out"]
    ran = cli("transfer", *flags, "--row-rule", "@all=0", "--row-rule", "w3=0.5", "--row-rule", "</s>=1")
    assert ran.status == 0, ran.err
    scales = dict.fromkeys(["", *WORDS, *CHAT], 0.0) | {"w3": 0.5, "</s>": 1.0}
    tiny.assert_same({EMBED: tiny.read_weights(tmp_path / "out")[EMBED]}, {EMBED: by_hand(made, EMBED, scales, 0.0)})
    tiny.assert_same({HEAD: tiny.read_weights(tmp_path / "out")[HEAD]}, {HEAD: made.tensors["target"][HEAD]})


# ---- what is said


def test_the_dry_run_names_the_tokens_and_the_matrices(cli: Cli, tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path)
    ran = cli(*made.flags(tmp_path / "out", *CHAT_VECTOR, "--dry-run", "--json"))
    told = {entry["subject"]: entry for entry in ran.json()["decisions"]}
    assert told["rows.@template"]["choice"] == "2 tokens: <|im_start|>, <|im_end|>"
    assert told["rows.@all"]["choice"] == "all rows"
    assert EMBED in told["rows.@template"]["reason"] and HEAD in told["rows.@template"]["reason"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("<|im_strat|>=1", "<|im_start|>"),
        ("@templates=1", "@template"),
        ("w3,nothing like it at all=0", "no tokenizer has a token"),
    ],
)
def test_a_token_that_no_tokenizer_has_is_a_fault_with_the_nearest(
    cli: Cli, tmp_path: Path, rule: str, words: str
) -> None:
    made = one_vocabulary(tmp_path / "in")
    ran = cli(*made.flags(tmp_path / "out", "--row-rule", rule))
    assert ran.status == 2
    assert "--row-rule" in ran.err
    assert words in ran.err
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_a_token_that_the_output_lacks_is_a_fault(tmp_path: Path) -> None:
    made = three_vocabularies(tmp_path)
    with pytest.raises(UsageError, match="w17"):
        tuneport.transfer(*made.paths, tmp_path / "out", row_rules={"w17": 0})


@pytest.mark.parametrize("token", ["<tool>", "new0"])
def test_a_row_that_no_rule_can_scale_is_a_warning(cli: Cli, tmp_path: Path, token: str) -> None:
    made = three_vocabularies(tmp_path)
    with pytest.raises(DoubtError, match=token):
        tuneport.transfer(*made.paths, tmp_path / "out", row_rules={token: 0.5}, strict=True)
    tuneport.transfer(*made.paths, tmp_path / "out", row_rules={token: 0.5})
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted(made, {}))
    assert any("no effect" in text and token in text for text in manifest(tmp_path / "out")["warnings"])


def test_a_tuned_model_without_a_template_has_no_templates_tokens(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, words=WORDS, added=CHAT)
    with pytest.raises(UsageError, match="no chat template"):
        tuneport.transfer(*made.paths, tmp_path / "out", row_rules={"@template": 0})


def test_models_without_a_tokenizer_have_no_tokens(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    for path in made.paths:
        (path / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match="tokenizer"):
        tuneport.transfer(*made.paths, tmp_path / "out", row_rules={"w3": 0})


@pytest.mark.parametrize(
    "value", ["w3", "=1", "w3=x", {"w3": float("inf")}, {(): 1}, {5: 1}, [("w3", True)], {("w3", 4): 1}]
)
def test_a_rule_that_is_none_is_a_fault_of_the_option(tmp_path: Path, value: Any) -> None:
    made = one_vocabulary(tmp_path)
    with pytest.raises(UsageError) as caught:
        tuneport.transfer(*made.paths, tmp_path / "out", row_rules=value)
    assert {fault.option for fault in caught.value.faults} == {"row_rules"}


def test_tokens_with_commas_are_a_list(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, words=WORDS, added=["a,b", " c"])
    tuneport.transfer(*made.paths, tmp_path / "one", row_rules={("a,b", " c"): 0})
    tuneport.transfer(*made.paths, tmp_path / "two", row_rules='["a,b", " c"]=0')
    found = tiny.read_weights(tmp_path / "one")
    tiny.assert_same(found, tiny.read_weights(tmp_path / "two"))
    assert torch.equal(found[EMBED][18:20], made.tensors["target"][EMBED][18:20])
    assert not torch.equal(found[EMBED][:18], made.tensors["target"][EMBED][:18])


def test_verify_finds_a_changed_rule(tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path)
    tuneport.transfer(*made.paths, tmp_path / "out", row_rules={"w3": 0})
    path = tmp_path / "out" / "tuneport.json"
    told = json.loads(path.read_text())
    assert told["plan"]["choices"]["row_rules"] == [{"tokens": ["w3"], "scale": 0}]
    for broken in ([{"tokens": ["w4"], "scale": 0}], [{"tokens": ["zz"], "scale": 0}], [{"tokens": 3, "scale": 0}], 7):
        told["plan"]["choices"]["row_rules"] = broken
        path.write_text(json.dumps(told))
        with pytest.raises(VerificationError):
            tuneport.verify(tmp_path / "out", *made.paths)


def test_the_roles_that_a_template_writes_are_among_its_tokens(tmp_path: Path) -> None:
    small = {
        "chat_template__jinja": "{{ bos_token }}[INST] {{ m['eos_token'] }} 'pad_token'",
        "special_tokens_map__json": json.dumps(
            {"bos_token": "<|im_start|>", "eos_token": "</s>", "pad_token": "<|im_end|>"}
        ),
    }
    made = tiny.trio(tmp_path, words=WORDS, added=CHAT, **small)
    planned = tuneport.plan(*made.paths, row_rules={"@template": 0})
    told = {entry["subject"]: entry["choice"] for entry in planned["decisions"]}
    assert told["rows.@template"] == "1 token: <|im_start|>"


def test_the_figures_of_a_scaled_matrix_are_of_what_was_added(tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path, torch.float32)
    tuneport.transfer(*made.paths, tmp_path / "out", row_rules={"@all": 0, "w3": 1})
    entry = by_name(tmp_path / "out")[EMBED]
    row = (made.tensors["tuned"][EMBED][3] - made.tensors["base"][EMBED][3]).double().numpy()
    assert entry["norms"]["diff"] == pytest.approx(float(np.linalg.norm(row)))
    assert entry["norms"]["target"] == pytest.approx(float(made.tensors["target"][EMBED].double().norm()))


def test_tied_parents_and_an_untied_target_have_the_rule_in_both_matrices(cli: Cli, tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path, tie_word_embeddings=True)
    target = {**made.tensors["target"], HEAD: tiny.llama(7)[HEAD]}
    settings = tiny.config(tie_word_embeddings=False)
    tiny.write_model(made.target, target, words=WORDS, added=CHAT, settings=settings, chat_template__jinja=TEMPLATE)
    ran = cli(*made.flags(tmp_path / "out", *CHAT_VECTOR, "--config", "tie_word_embeddings=target"))
    assert ran.status == 0, ran.err
    found, parts = tiny.read_weights(tmp_path / "out"), made.tensors
    for name in (EMBED, HEAD):
        wanted = target[name].clone()
        for row in (18, 19):
            wanted[row] = tiny.formula(parts["base"][EMBED][row], parts["tuned"][EMBED][row], target[name][row])
        tiny.assert_same({name: found[name]}, {name: wanted})


def test_rows_by_position_have_the_targets_tokens(cli: Cli, tmp_path: Path) -> None:
    made = three_vocabularies(tmp_path)
    flags = ["--vocabulary", "positions", "--row-rule", "@all=0", "--row-rule", "new1,w3=1"]
    assert (ran := cli(*made.flags(tmp_path / "out", *flags))).status == 0, ran.err
    found, parts = tiny.read_weights(tmp_path / "out")[EMBED], made.tensors
    wanted = parts["target"][EMBED].clone()
    for row in (1, 5):  # new1, and w3 behind two words in front
        wanted[row] = tiny.formula(*(parts[role][EMBED][row] for role in ("base", "tuned", "target")))
    tiny.assert_same({EMBED: found}, {EMBED: wanted})


def test_a_killed_run_goes_on_with_the_same_rules_and_not_with_others(drive: Drive, tmp_path: Path) -> None:
    made = three_vocabularies(tmp_path / "in")
    under = tmp_path / "at"
    under.mkdir()
    argv = made.flags(under / "out", *CHAT_VECTOR, "--rule", "layers=0.2..1", *SHARDS)
    number = changes(drive, argv, under)
    whole = tiny.outcome(under / "out")
    refused = 0
    for at in (number // 3, number // 2, 2 * number // 3):
        shutil.rmtree(under)
        under.mkdir()
        assert drive(argv, under=str(under), call="change", at=at, do="kill").status == KILLED
        journal = under / "out.partial" / "journal.jsonl"
        if journal.exists() and '"leaf"' in journal.read_text():  # what was done is not given up for another plan
            refused += 1
            other = drive(made.flags(under / "out", "--row-rule", "@all=0.5", *SHARDS))
            assert other.status == 1 and "row_rules" in other.err
        assert drive(argv).status == 0
        assert tiny.outcome(under / "out") == whole
    assert refused


def test_several_pairs_in_one_pass_take_the_rules_for_tokens_ramps_and_their_own_scales(tmp_path: Path) -> None:
    made = one_vocabulary(tmp_path, torch.float32)
    other = tiny.write_model(
        tmp_path / "other", tiny.moved(made.tensors["base"], 9), words=WORDS, added=CHAT,
        settings=tiny.config(torch_dtype="float32"), chat_template__jinja=TEMPLATE,
    )  # fmt: skip
    rules: dict[str, Any] = {"row_rules": {"@all": 0, "w2": "scale", "w5": 3}, "rules": {r"layers\.": "0.5..1"}}
    tuneport.transfer(
        [made.base, made.base], [made.tuned, other], made.target, tmp_path / "o", scale=[0.5, -1.0], **rules
    )
    base, tuned, target = (made.tensors[role] for role in ("base", "tuned", "target"))
    second, found = tiny.read_weights(other), tiny.read_weights(tmp_path / "o")

    def added(name: str, scales: tuple[float, float], row: Any = slice(None)) -> torch.Tensor:
        first = torch.tensor(scales[0]) * (tuned[name][row] - base[name][row])
        return target[name][row] + first + torch.tensor(scales[1]) * (second[name][row] - base[name][row])

    embed = target[EMBED].clone()
    embed[2], embed[5] = added(EMBED, (0.5, -1.0), 2), added(EMBED, (3.0, 3.0), 5)
    layer = "model.layers.0.self_attn.q_proj.weight"
    wanted = {
        EMBED: embed,
        layer: added(layer, (0.5, 0.5)),
        "model.norm.weight": added("model.norm.weight", (0.5, -1.0)),
    }
    tiny.assert_same({name: found[name] for name in wanted}, wanted)
    told = by_name(tmp_path / "o")[EMBED]["row_scales"]
    assert sorted((each["scale"], each["rows"]) for each in told if each["scale"]) == [
        (-1, 1),
        (0.5, 1),
        (3, 1),
        (3, 1),
    ]
    tuneport.verify(tmp_path / "o", [made.base, made.base], [made.tuned, other], made.target, full=True)
