"""One model under two spellings is one model: the output has the target's names and the bytes of a transfer in one spelling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import tiny_checkpoints as tiny
from support.command_results import Cli

Tensors = tiny.Tensors
H, WIDE, E, ROWS = 8, 12, 3, 24

LLAVA = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "text_config": {"model_type": "llama"},
}
QWEN_VL = {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]}
QWEN_VL_MOE = {"model_type": "qwen3_vl_moe", "architectures": ["Qwen3VLMoeForConditionalGeneration"]}
MIXTRAL = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "tie_word_embeddings": True}


def made(shapes: dict[str, tuple[int, ...]], seed: int = 1) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def mixtral() -> Tensors:
    """As the Hub and transformers 4 have it: experts apart."""
    experts = {
        f"model.layers.0.block_sparse_moe.experts.{number}.{part}.weight": shape
        for number in range(E)
        for part, shape in (("w1", (WIDE, H)), ("w2", (H, WIDE)), ("w3", (WIDE, H)))
    }
    return made(
        {
            "model.embed_tokens.weight": (ROWS, H),
            "model.layers.0.block_sparse_moe.gate.weight": (E, H),
            "model.layers.0.self_attn.q_proj.weight": (H, H),
            "lm_head.weight": (ROWS, H),
            **experts,
        }
    )


def fused(apart: Tensors) -> Tensors:
    """The same as transformers 5 holds it (MixtralExperts): gate above up, all experts in one."""
    old, new = "model.layers.0.block_sparse_moe.", "model.layers.0.mlp."
    found = {name.replace(old, new): tensor for name, tensor in apart.items() if ".experts." not in name}
    each = [[apart[f"{old}experts.{n}.{part}.weight"] for n in range(E)] for part in ("w1", "w3", "w2")]
    found[f"{new}experts.gate_up_proj"] = torch.cat([torch.stack(each[0]), torch.stack(each[1])], 1)
    found[f"{new}experts.down_proj"] = torch.stack(each[2])
    return found


def llava() -> Tensors:
    """As transformers saves it for all versions to read."""
    return made(
        {
            "language_model.model.embed_tokens.weight": (ROWS, H),
            "language_model.model.layers.0.self_attn.q_proj.weight": (H, H),
            "language_model.lm_head.weight": (ROWS, H),
            "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": (H, H),
            "multi_modal_projector.linear_1.weight": (H, H),
        }
    )


def as_loaded(saved: Tensors) -> Tensors:
    """The names that transformers 5 holds it by."""
    found = {}
    for name, tensor in saved.items():
        if name.startswith("language_model.lm_head"):
            name = name.removeprefix("language_model.")
        elif name.startswith("language_model.model."):
            name = "model.language_model." + name.removeprefix("language_model.model.")
        else:
            name = "model." + name.replace("vision_model.", "")
        found[name] = tensor
    return found


def qwen_vl() -> Tensors:
    return made(
        {
            "model.embed_tokens.weight": (ROWS, H),
            "model.layers.0.self_attn.q_proj.weight": (H, H),
            "lm_head.weight": (ROWS, H),
            "visual.blocks.0.attn.qkv.weight": (3 * H, H),
        }
    )


def qwen_vl_loaded(saved: Tensors) -> Tensors:
    def other(name: str) -> str:
        if name.startswith("visual."):
            return "model." + name
        return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name

    return {other(name): tensor for name, tensor in saved.items()}


def qwen_vl_moe() -> Tensors:
    """As transformers 5 has it: outputs × inputs."""
    return made(
        {
            "model.language_model.embed_tokens.weight": (ROWS, H),
            "model.language_model.layers.0.mlp.experts.gate_up_proj": (E, 2 * WIDE, H),
            "model.language_model.layers.0.mlp.experts.down_proj": (E, H, WIDE),
            "lm_head.weight": (ROWS, H),
        }
    )


def turned(tensors: Tensors) -> Tensors:
    """As the Hub has it: inputs × outputs."""
    return {
        name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor for name, tensor in tensors.items()
    }


def gpt2() -> Tensors:
    return made({"wte.weight": (ROWS, H), "h.0.attn.c_attn.weight": (H, 3 * H), "h.0.ln_1.weight": (H,)})


def wrapped(prefix: str, place: str = "") -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(place, place + prefix, 1): tensor for name, tensor in tensors.items()}


SPELLINGS: dict[str, tuple[dict[str, Any], Callable[[], Tensors], Callable[[Tensors], Tensors]]] = {
    "experts": (MIXTRAL, mixtral, fused),
    "llava": (LLAVA, llava, as_loaded),
    "qwen vl": (QWEN_VL, qwen_vl, qwen_vl_loaded),
    "turned experts": (QWEN_VL_MOE, qwen_vl_moe, turned),
    "base model": (GPT2, gpt2, wrapped("transformer.")),
    "compiled": ({}, lambda: tiny.llama(1), wrapped("_orig_mod.")),
    "data parallel": ({}, lambda: tiny.llama(1), wrapped("module.")),
    "fsdp": ({}, lambda: tiny.llama(1), wrapped("_fsdp_wrapped_module.", "model.")),
    "lightning": ({}, lambda: tiny.llama(1), wrapped("model.")),
    "peft's wrapper": ({}, lambda: tiny.llama(1), wrapped("base_model.model.")),
}


# A target in these is written without its wrappers (tests/end_to_end/test_wrapped_targets.py).
UNWRAPPED = ("compiled", "data parallel", "fsdp")


def as_it_is(tensors: Tensors) -> Tensors:
    return tensors


def models(where: Path, settings: dict[str, Any], *tensors: Tensors) -> list[str]:
    config = tiny.config(**settings)
    paths = [
        tiny.write_model(where / role, each, settings=config)
        for role, each in zip(("base", "tuned", "target"), tensors, strict=True)
    ]
    return [
        part
        for flag, path in zip(("--base", "--tuned", "--onto"), map(str, paths), strict=True)
        for part in (flag, path)
    ]


def decisions(out: Path) -> dict[str, dict[str, str]]:
    told = json.loads((out / "tuneport.json").read_text())["decisions"]
    return {entry["subject"]: entry for entry in told if entry["subject"].startswith("names.")}


@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize("kind", SPELLINGS)
def test_parents_in_one_spelling_are_carried_onto_a_target_in_the_other(
    cli: Cli, tmp_path: Path, kind: str, way: str
) -> None:
    settings, start, other = SPELLINGS[kind]
    base = start()
    tuned, target = tiny.moved(base, 2), tiny.moved(base, 3, 0.05)
    wanted = {name: tiny.formula(base[name], tuned[name], value) for name, value in target.items()}
    parents, onto = (as_it_is, other) if way == "there" else (other, as_it_is)
    flags = models(tmp_path, settings, parents(base), parents(tuned), onto(target))
    ran = cli("transfer", *flags, "--out", tmp_path / "out")
    if way == "there" and kind in UNWRAPPED:  # names that nobody loads are not written; parents then have the target's
        assert ran.status == 0 and "saved it with its own names" in ran.err
        tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted)
        return
    assert (ran.status, ran.err) == (0, ""), ran.err
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), onto(wanted))
    assert set(decisions(tmp_path / "out")) == {"names.base", "names.tuned"}
    assert cli("verify", tmp_path / "out", *flags, "--full").status == 0
    assert cli("diff", *flags[:4], "--out", tmp_path / "diff").status == 0
    applied = cli("apply", tmp_path / "diff", *flags[4:], "--out", tmp_path / "applied")
    assert applied.status == 0, applied.err
    tiny.assert_same(tiny.read_weights(tmp_path / "applied"), onto(wanted))
    assert cli("verify", tmp_path / "applied", "--diff", tmp_path / "diff", *flags[4:], "--full").status == 0


def test_three_spellings_at_once_end_in_the_targets(cli: Cli, tmp_path: Path) -> None:
    base = mixtral()
    tuned, target = tiny.moved(base, 2), tiny.moved(base, 3, 0.05)
    flags = models(tmp_path, MIXTRAL, fused(base), wrapped("module.")(tuned), target)
    ran = cli("transfer", *flags, "--out", tmp_path / "out")
    assert (ran.status, ran.err) == (0, ""), ran.err
    wanted = {name: tiny.formula(base[name], tuned[name], value) for name, value in target.items()}
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted)
    told = decisions(tmp_path / "out")
    assert "`model.layers.0.mlp.experts.down_proj` → `model.layers.0.block" in told["names.base"]["choice"]
    assert "as transformers saves MixtralForCausalLM" in told["names.base"]["reason"]
    assert told["names.tuned"]["reason"] == "without wrappers' prefixes"


def test_digests_of_inputs_are_those_of_what_is_stored(cli: Cli, tmp_path: Path) -> None:
    base = mixtral()
    flags = models(tmp_path, MIXTRAL, base, tiny.moved(base, 2), fused(tiny.moved(base, 3)))
    assert cli("transfer", *flags, "--out", tmp_path / "out", "--digest-inputs").status == 0
    inputs = {entry["role"]: entry for entry in json.loads((tmp_path / "out" / "tuneport.json").read_text())["inputs"]}
    assert set(inputs["base"]["tensors"]) == set(base) and set(inputs["target"]["tensors"]) == set(fused(base))
    assert cli("verify", tmp_path / "out", *flags, "--full").status == 0


def test_a_tensor_more_is_told_by_name_under_a_wrapper_too(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    tuned = wrapped("_orig_mod.")({**tiny.moved(base, 2), "score.weight": torch.ones(3, H).bfloat16()})
    flags = models(tmp_path, {}, base, tuned, tiny.moved(base, 3))
    refused = cli("transfer", *flags, "--out", tmp_path / "out")
    assert refused.status == 1 and "`score.weight` (3×8)" in refused.err
    assert cli("transfer", *flags, "--out", tmp_path / "out", "--drop", r"^score\.weight$").status == 0


def test_experts_of_another_number_are_refused(cli: Cli, tmp_path: Path) -> None:
    base = mixtral()
    fewer = {name: tensor for name, tensor in base.items() if ".experts.2." not in name}
    flags = models(tmp_path, MIXTRAL, fewer, tiny.moved(fewer, 2), fused(base))
    ran = cli("transfer", *flags, "--out", tmp_path / "out")
    assert ran.status == 1 and "Traceback" not in ran.err and not (tmp_path / "out").exists()


# ---- a person's own names


def other_names(tensors: Tensors) -> Tensors:
    """Names of nobody's rules: `model.layers.` is `decoder.blocks.`, and a projection has another name."""
    return {
        name.replace("model.layers.", "decoder.blocks.").replace(".mlp.up_proj.", ".ffn.wide."): tensor
        for name, tensor in tensors.items()
    }


OWN = ["--rename", r"^decoder\.blocks\.(\d+)=model.layers.\1", "--rename", r"\.ffn\.wide\.=.mlp.up_proj."]


@pytest.mark.parametrize("who", ["tuned", "both"])
def test_renames_pair_what_no_rule_pairs(cli: Cli, tmp_path: Path, who: str) -> None:
    base, target = tiny.llama(1), tiny.moved(tiny.llama(1), 3, 0.05)
    tuned = tiny.moved(base, 2)
    flags = models(tmp_path, {}, other_names(base) if who == "both" else base, other_names(tuned), target)
    out = tmp_path / "out"
    assert cli("transfer", *flags, "--out", out).status == 1
    ran = cli("transfer", *flags, "--out", out, *OWN)
    assert (ran.status, ran.err) == (0, ""), ran.err
    wanted = {name: tiny.formula(base[name], tuned[name], value) for name, value in target.items()}
    tiny.assert_same(tiny.read_weights(out), wanted)
    assert decisions(out)["names.tuned"]["reason"] == "--rename"
    assert json.loads((out / "tuneport.json").read_text())["plan"]["choices"]["renames"][0] == {
        "pattern": r"^decoder\.blocks\.(\d+)",
        "replacement": r"model.layers.\1",
    }
    assert cli("verify", out, *flags, "--full").status == 0
    if who == "both":
        assert cli("diff", *flags[:4], "--out", tmp_path / "diff").status == 0
        assert cli("apply", tmp_path / "diff", *flags[4:], "--out", tmp_path / "applied", *OWN).status == 0
    else:
        assert cli("diff", *flags[:4], "--out", tmp_path / "diff", *OWN).status == 0
        assert cli("apply", tmp_path / "diff", *flags[4:], "--out", tmp_path / "applied").status == 0
    tiny.assert_same(tiny.read_weights(tmp_path / "applied"), wanted)


@pytest.mark.parametrize(
    ("rename", "told"),
    [
        ("nothing=x", "matches no tensor of base and tuned"),
        (r"\.layers\.0\..*=.same.weight", "the same name, `model.same.weight`"),
        ("(=x", "is not a valid regular expression"),
        (r"model=\3", "is not a valid replacement"),
        ("model", "REGEX=REPLACEMENT"),
    ],
)
def test_a_rename_that_cannot_be_meant_is_wrong_usage(cli: Cli, tmp_path: Path, rename: str, told: str) -> None:
    made_ = tiny.trio(tmp_path)
    ran = cli(*made_.flags(tmp_path / "out", "--rename", rename))
    assert ran.status == 2 and told in ran.err and len(ran.err.splitlines()) == 1


def flags_of(message: str) -> list[str]:
    """The flags that a message advises, as a shell would read them."""
    import shlex

    words = shlex.split(message[message.index("--rename") : message.index(" (checked")])
    assert words[::2] == ["--rename"] * (len(words) // 2)
    return words


@pytest.mark.parametrize(
    "other",
    [
        other_names,
        wrapped("net."),
        lambda tensors: {n.replace("model.", "deep.model.", 1): t for n, t in tensors.items()},
        lambda tensors: {n.replace(".weight", ".kernel") if "proj" in n else n: t for n, t in tensors.items()},
        lambda tensors: {n.replace("input_layernorm", "ln_1"): t for n, t in tensors.items()},
        lambda tensors: {n.replace("model.", "", 1).replace("layers.", "block", 1): t for n, t in tensors.items()},
    ],
)
@pytest.mark.parametrize("who", ["tuned", "both"])
def test_the_advised_rename_works_to_the_letter(
    cli: Cli, tmp_path: Path, other: Callable[[Tensors], Tensors], who: str
) -> None:
    base, target = tiny.llama(1), tiny.moved(tiny.llama(1), 3, 0.05)
    tuned = tiny.moved(base, 2)
    flags = models(tmp_path, {}, other(base) if who == "both" else base, other(tuned), target)
    refused = cli("transfer", *flags, "--out", tmp_path / "out")
    assert refused.status == 1 and "Names differ: the " in refused.err
    if "--rename" not in refused.err:
        assert "save_pretrained" in refused.err and "block0" in refused.err
        return
    ran = cli("transfer", *flags, "--out", tmp_path / "out", *flags_of(refused.err))
    assert (ran.status, ran.err) == (0, ""), ran.err
    wanted = {name: tiny.formula(base[name], tuned[name], value) for name, value in target.items()}
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted)


# ---- adapters


def lora(where: Path, modules: dict[str, tuple[int, int]]) -> Path:
    where.mkdir()
    generator, factors = torch.Generator().manual_seed(4), {}
    for name, (outputs, inputs) in modules.items():
        factors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, inputs, generator=generator)
        factors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outputs, 2, generator=generator)
    save_file(factors, where / "adapter_model.safetensors")
    (where / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    return where


@pytest.mark.parametrize("base_is", ["saved", "loaded"])
@pytest.mark.parametrize("target_is", ["saved", "loaded"])
@pytest.mark.parametrize(
    "module",
    [
        "model.language_model.layers.0.self_attn.q_proj",  # of the class with eyes, in transformers 5
        "language_model.model.layers.0.self_attn.q_proj",  # in transformers 4
        "model.layers.0.self_attn.q_proj",  # of the text class
    ],
)
def test_an_adapter_finds_its_modules_under_any_spelling(
    cli: Cli, tmp_path: Path, module: str, base_is: str, target_is: str
) -> None:
    base, target = llava(), tiny.moved(llava(), 3, 0.05)
    spelled = {"saved": as_it_is, "loaded": as_loaded}
    models(tmp_path, LLAVA, spelled[base_is](base), {"x": torch.ones(1)}, spelled[target_is](target))
    adapter = lora(tmp_path / "adapter", {module: (H, H)})
    parents = ["--base", tmp_path / "base", "--tuned", adapter]
    ran = cli("transfer", *parents, "--onto", tmp_path / "target", "--out", tmp_path / "out")
    assert (ran.status, ran.err) == (0, ""), ran.err
    found = tiny.read_weights(tmp_path / "out")
    wanted = spelled[target_is](target)
    assert sorted(found) == sorted(wanted)
    changed = [name for name in wanted if not torch.equal(found[name], wanted[name])]
    assert changed == list(spelled[target_is]({"language_model.model.layers.0.self_attn.q_proj.weight": base}))
    assert cli("diff", *parents, "--out", tmp_path / "diff").status == 0
    assert cli("apply", tmp_path / "diff", "--onto", tmp_path / "target", "--out", tmp_path / "applied").status == 0
    tiny.assert_same(tiny.read_weights(tmp_path / "applied"), found)


def test_renames_reach_the_weights_of_an_adapter(cli: Cli, tmp_path: Path) -> None:
    made_ = tiny.trio(tmp_path / "models")
    adapter = lora(tmp_path / "adapter", {"net.model.layers.0.mlp.up": (3 * H, H)})
    flags = ["transfer", "--base", made_.base, "--tuned", adapter, "--onto", made_.target, "--out", tmp_path / "out"]
    assert cli(*flags).status == 1
    ran = cli(*flags, "--rename", r"^net\.=", "--rename", r"\.up\.weight$=.up_proj.weight")
    assert (ran.status, ran.err) == (0, ""), ran.err
    assert cli(*flags, "--rename", "lora=x").status == 2, "names of weights, not peft's"


def test_names_that_nobody_knows_are_told_before_tokens_are(cli: Cli, tmp_path: Path) -> None:
    # Without its embedding's name a model has no vocabulary that could be told; that is not what is wrong with it.
    base = tiny.llama(1)
    strange = {name.replace("embed_tokens", "lookup").replace("lm_head", "out"): t for name, t in base.items()}
    flags = models(tmp_path, {}, strange, tiny.moved(strange, 2), tiny.moved(base, 3))
    for role in ("base", "tuned", "target"):
        (tmp_path / role / "tokenizer.json").unlink()
    refused = cli("transfer", *flags, "--out", tmp_path / "out")
    assert refused.status == 1 and "Names differ" in refused.err and "tokenizer" not in refused.err
    assert cli("transfer", *flags, "--out", tmp_path / "out", *flags_of(refused.err)).status == 0
