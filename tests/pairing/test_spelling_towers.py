"""A fine-tuning of a language model onto a multimodal one around it: the tower stays, the rest is a transfer as any other."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.pairing.model_kinds import belong_together
from tuneport.pairing.multimodal_configs import seen_as_text, seen_as_whole
from tuneport.pairing.spelling import beside, pattern_of

Tensors = tiny.Tensors
H = 8
LLAMA = tiny.config(vocab_size=24, eos_token_id=1, num_hidden_layers=1)
TOWER = {
    "vision_tower.encoder.layers.0.self_attn.q_proj.weight": (H, H),
    "multi_modal_projector.linear_1.weight": (3 * H, H),
    "image_newline": (H,),
}
# Where the class keeps its language model and its tower: transformers 4's and 5's LLaVA, and Qwen VL's flat one.
PLACES: dict[str, tuple[dict[str, str], str]] = {
    "old llava": ({"model.": "language_model.model.", "lm_head.": "language_model.lm_head."}, ""),
    "new llava": ({"model.": "model.language_model."}, "model."),
    "flat": ({}, ""),
}


def tower(seed: int) -> Tensors:
    made = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=made).bfloat16() for name, shape in TOWER.items()}


def whole(text: Tensors, beside_it: Tensors, place: str) -> Tensors:
    """A multimodal model's tensors."""
    inside, front = PLACES[place]

    def name_of(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in inside.items() if name.startswith(old)), name)

    return {name_of(name): value for name, value in text.items()} | {front + n: t for n, t in beside_it.items()}


def llava(**text: Any) -> dict[str, Any]:
    inner = {name: value for name, value in LLAMA.items() if name not in ("architectures", "torch_dtype")} | text
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": inner,
        "vision_config": {"model_type": "clip_vision_model", "hidden_size": H},
        "image_token_index": 24,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }


def qwen_vl() -> dict[str, Any]:
    """Qwen 2 VL's config as transformers 4 wrote it: the language model's fields beside the tower's."""
    kept = {name: value for name, value in LLAMA.items() if name not in ("model_type", "architectures")}
    return {**kept, "model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {}}


def put(where: Path, text: Tensors, settings: dict[str, Any], **more: str) -> Path:
    return tiny.write_model(where, text, settings=settings, **more)


def carried(base: Tensors, tuned: Tensors, target: Tensors) -> Tensors:
    return {name: tiny.formula(base[name], tuned[name], value) for name, value in target.items()}


@pytest.mark.parametrize("place", PLACES)
def test_a_chat_vector_is_carried_onto_the_language_model_and_the_tower_stays(
    cli: Cli, tmp_path: Path, place: str
) -> None:
    base, target, eyes = tiny.llama(1), tiny.moved(tiny.llama(1), 3, 0.05), tower(5)
    tuned = tiny.moved(base, 2)
    flat = place == "flat"
    kind = tiny.config(**LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}) if flat else LLAMA
    put(tmp_path / "base", base, kind)
    put(tmp_path / "tuned", tuned, kind | {"eos_token_id": 2}, chat_template__jinja="{{ messages }}")
    put(tmp_path / "target", whole(target, eyes, place), qwen_vl() if flat else llava(), words=[*tiny.WORDS, "<image>"])
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned"]
    onto = ["--onto", tmp_path / "target"]
    ran = cli("transfer", *parents, *onto, "--out", tmp_path / "out")
    assert (ran.status, ran.err) == (0, ""), ran.err
    wanted = whole(carried(base, tuned, target), eyes, place)
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    own = config if flat else config["text_config"]
    assert own["eos_token_id"] == 2 and own["vocab_size"] == 24
    before = json.loads((tmp_path / "target" / "config.json").read_text())
    assert {k for k in config if config[k] != before.get(k)} == ({"eos_token_id"} if flat else {"text_config"})
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert "<image>" in (tmp_path / "out" / "tokenizer.json").read_text()
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    fates = {entry["name"]: entry for entry in manifest["tensors"]}
    assert {name for name, entry in fates.items() if entry["fate"] == "copied"} == set(whole({}, eyes, place))
    assert all("language model" in entry["reason"] for entry in fates.values() if entry["fate"] == "copied")
    assert "names.beside" in {entry["subject"] for entry in manifest["decisions"]}
    assert cli("verify", tmp_path / "out", *parents, *onto, "--full").status == 0
    assert cli("diff", *parents, "--out", tmp_path / "diff").status == 0
    applied = cli("apply", tmp_path / "diff", *onto, "--out", tmp_path / "applied")
    assert applied.status == 0, applied.err
    tiny.assert_same(tiny.read_weights(tmp_path / "applied"), wanted)
    assert json.loads((tmp_path / "applied" / "config.json").read_text()) == config
    assert cli("verify", tmp_path / "applied", "--diff", tmp_path / "diff", *onto, "--full").status == 0


def test_a_stranger_is_told_by_what_the_vector_remembers_under_other_names(cli: Cli, tmp_path: Path) -> None:
    base, shapes = tiny.llama(1, hidden=64), {"hidden_size": 64}
    put(tmp_path / "base", base, LLAMA | shapes)
    put(tmp_path / "tuned", tiny.moved(base, 2), LLAMA | shapes)
    for name, text in (("near", tiny.moved(base, 3)), ("stranger", tiny.llama(9, hidden=64))):
        put(tmp_path / name, whole(text, {}, "old llava"), llava(**shapes))  # where every name is another
    assert (
        cli("diff", "--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--out", tmp_path / "diff").status == 0
    )
    for name, told in (("near", ""), ("stranger", "look unrelated")):
        ran = cli("apply", tmp_path / "diff", "--onto", tmp_path / name, "--out", tmp_path / f"on {name}")
        assert ran.status == 0 and (told in ran.err if told else not ran.err), ran.err


def test_a_tensor_that_the_language_model_lacks_is_not_taken_for_the_tower(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    target = {**tiny.moved(base, 3), "model.layers.0.self_attn.q_norm.weight": torch.ones(H).bfloat16()}
    put(tmp_path / "base", base, LLAMA)
    put(tmp_path / "tuned", tiny.moved(base, 2), LLAMA)
    put(tmp_path / "target", whole(target, tower(5), "new llava"), llava())
    flags = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]
    ran = cli("transfer", *flags, "--out", tmp_path / "out")
    assert ran.status == 1 and "`model.language_model.layers.0.self_attn.q_norm.weight`" in ran.err


def test_a_fine_tuning_saved_as_the_text_class_pairs_with_the_whole(cli: Cli, tmp_path: Path) -> None:
    # AutoModelForCausalLM of Gemma 3 or Qwen 3.5 loads the language model, and saves it alone.
    base, eyes = tiny.llama(1), tower(4)
    tuned, target, other_eyes = tiny.moved(base, 2), tiny.moved(base, 3, 0.05), tower(5)
    put(tmp_path / "base", whole(base, eyes, "old llava"), llava())
    put(tmp_path / "tuned", tuned, LLAMA | {"eos_token_id": 3})
    put(tmp_path / "target", whole(target, other_eyes, "new llava"), llava(rms_norm_eps=1e-5))
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned"]
    onto = ["--onto", tmp_path / "target"]
    ran = cli("transfer", *parents, *onto, "--out", tmp_path / "out")
    assert (ran.status, ran.err) == (0, ""), ran.err
    wanted = whole(carried(base, tuned, target), other_eyes, "new llava")
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted)
    text = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert (text["eos_token_id"], text["rms_norm_eps"]) == (3, 1e-5)
    assert cli("verify", tmp_path / "out", *parents, *onto, "--full").status == 0
    assert cli("diff", *parents, "--out", tmp_path / "diff").status == 0
    applied = cli("apply", tmp_path / "diff", *onto, "--out", tmp_path / "applied")
    assert applied.status == 0, applied.err
    tiny.assert_same(tiny.read_weights(tmp_path / "applied"), wanted)
    put(tmp_path / "text", target, LLAMA)  # and onto a text model, nothing of the base's tower is asked for
    ran = cli("transfer", *parents, "--onto", tmp_path / "text", "--out", tmp_path / "text-out")
    assert (ran.status, ran.err) == (0, ""), ran.err
    tiny.assert_same(tiny.read_weights(tmp_path / "text-out"), carried(base, tuned, target))


def test_a_fine_tuned_tower_has_nowhere_to_go_on_a_text_model_unless_it_is_dropped(cli: Cli, tmp_path: Path) -> None:
    base, eyes, target = tiny.llama(1), tower(4), tiny.moved(tiny.llama(1), 3, 0.05)
    tuned = tiny.moved(base, 2)
    put(tmp_path / "base", whole(base, eyes, "new llava"), llava())
    put(tmp_path / "tuned", whole(tuned, tiny.moved(eyes, 2), "old llava"), llava(eos_token_id=3))
    put(tmp_path / "target", target, LLAMA)
    flags = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned"]
    onto = ["--onto", tmp_path / "target"]
    refused = cli("transfer", *flags, *onto, "--out", tmp_path / "out")
    assert refused.status == 1 and "is multimodal" in refused.err and len(refused.err.splitlines()) == 1
    drop = shlex.split(refused.err[refused.err.index("--drop") :].rstrip(".\n"))
    ran = cli("transfer", *flags, *onto, "--out", tmp_path / "out", *drop)
    assert (ran.status, ran.err) == (0, ""), ran.err
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), carried(base, tuned, target))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == LLAMA | {"eos_token_id": 3}
    dropped = [
        e for e in json.loads((tmp_path / "out" / "tuneport.json").read_text())["tensors"] if e["fate"] == "dropped"
    ]
    assert len(dropped) == len(TOWER) and all(entry["norms"]["diff"] > 0 for entry in dropped)
    assert cli("diff", *flags, "--out", tmp_path / "diff").status == 0
    assert cli("apply", tmp_path / "diff", *onto, "--out", tmp_path / "applied").status == 1
    again = cli("apply", tmp_path / "diff", *onto, "--out", tmp_path / "applied", *drop)
    assert again.status == 0, again.err
    tiny.assert_same(tiny.read_weights(tmp_path / "applied"), carried(base, tuned, target))


def test_falcon_and_what_it_was_called_are_one_kind() -> None:
    kinds: list[dict[str, Any]] = [
        {"model_type": kind} for kind in ("RefinedWeb", "RefinedWebModel", "falcon", "llama")
    ]
    assert all(belong_together(one, kinds[2]) and belong_together(kinds[2], one) for one in kinds[:3])
    assert not belong_together(kinds[0], kinds[3])


def test_another_language_model_inside_is_another_architecture(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, settings=tiny.config(model_type="mistral"))
    put(made.target, whole(tiny.llama(1), tower(5), "new llava"), llava())
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 1 and "`mistral`" in ran.err and "`llava`" in ran.err and "llama" in ran.err
    assert len(ran.err.splitlines()) == 1


# Kinds of custom code: where each keeps its language model, and what it calls the part of its config that is about it.
SEEN = LLAMA | {"vocab_size": 30}
CUSTOM: dict[str, tuple[str, str, dict[str, tuple[int, ...]]]] = {
    "minicpmv": ("llm.", "", {"vpm.encoder.layers.0.self_attn.q_proj.weight": (H, H), "resampler.query": (4, H)}),
    "llava_custom": ("", "", {"model.vision_tower.layers.0.q.weight": (H, H), "model.mm_projector.0.weight": (H, H)}),
    "internvl_chat": (
        "language_model.",
        "llm_config",
        {"vision_model.encoder.layers.0.ls1": (H,), "mlp1.0.bias": (H,)},
    ),
}


def custom(kind: str, text: Tensors) -> tuple[Tensors, dict[str, Any]]:
    """Weights and config of a multimodal model whose code stands beside it."""
    place, part, shapes = CUSTOM[kind]
    made = torch.Generator().manual_seed(6)
    eyes = {name: torch.randn(shape, generator=made).bfloat16() for name, shape in shapes.items()}
    inner = {name: value for name, value in SEEN.items() if name not in ("architectures", "torch_dtype")}
    own = {part: inner} if part else {name: value for name, value in inner.items() if name != "model_type"}
    settings = {
        **own,
        "model_type": kind,
        "architectures": ["Seeing"],
        "auto_map": {"AutoModel": "modeling_seeing.Seeing", "AutoConfig": "configuration_seeing.SeeingConfig"},
        "vision_config": {"hidden_size": H, "num_hidden_layers": 1},
        "torch_dtype": "bfloat16",
    }
    return {place + name: value for name, value in text.items()} | eyes, settings


@pytest.mark.parametrize("kind", CUSTOM)
def test_the_way_that_is_advised_leads_into_a_multimodal_model_of_custom_code(
    cli: Cli, tmp_path: Path, kind: str
) -> None:
    base, words = tiny.llama(1, rows=30), [*tiny.WORDS, *(f"n{number}" for number in range(6))]
    tuned, target = tiny.moved(base, 2), tiny.moved(base, 3, 0.05)
    put(tmp_path / "base", base, SEEN, words=words)
    put(tmp_path / "tuned", tuned, SEEN | {"eos_token_id": 3}, words=words, chat_template__jinja="{{ messages }}")
    weights, settings = custom(kind, target)
    code, others = "class Seeing: ...", [*words[:5], words[6], words[5], *words[7:]]
    put(tmp_path / "target", weights, settings, words=others, modeling_seeing__py=code)
    parents = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned"]
    onto = ["--onto", tmp_path / "target"]
    ran = cli("transfer", *parents, *onto, "--out", tmp_path / "out")
    rename: list[str] = []
    if kind != "internvl_chat":  # whose config tells what is inside
        assert ran.status == 1 and f"`{kind}`" in ran.err and len(ran.err.splitlines()) == 1
        rename = shlex.split(ran.err[ran.err.index("--rename") : ran.err.index(": the difference is then added")])
        ran = cli("transfer", *parents, *onto, "--out", tmp_path / "out", *rename)
    assert (ran.status, ran.err) == (0, ""), ran.err
    place = CUSTOM[kind][0]
    swapped = [0, 1, 2, 3, 4, 6, 5, *range(7, 30)]
    rows = {name for name in base if "embed" in name or "head" in name}
    wanted = dict(weights)
    for name, value in target.items():
        parts = [part[name][swapped] if name in rows else part[name] for part in (base, tuned)]
        wanted[place + name] = tiny.formula(*parts, value)
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted)
    assert (tmp_path / "out" / "modeling_seeing.py").read_text() == code
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads(json.dumps(settings).replace('"eos_token_id": 1', '"eos_token_id": 3'))
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    copied = {entry["name"] for entry in manifest["tensors"] if entry["fate"] == "copied"}
    assert copied == set(CUSTOM[kind][2]) and "names.beside" in {each["subject"] for each in manifest["decisions"]}
    assert cli("verify", tmp_path / "out", *parents, *onto, "--full").status == 0
    assert cli("diff", *parents, "--out", tmp_path / "diff").status == 0
    applied = cli("apply", tmp_path / "diff", *onto, "--out", tmp_path / "applied", *rename)
    assert (applied.status, applied.err) == (0, ""), applied.err
    tiny.assert_same(tiny.read_weights(tmp_path / "applied"), wanted)
    assert json.loads((tmp_path / "applied" / "config.json").read_text()) == config
    assert cli("verify", tmp_path / "applied", "--diff", tmp_path / "diff", *onto, "--full").status == 0


def test_an_adapter_is_carried_into_a_model_of_custom_code(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    put(tmp_path / "base", base, LLAMA)
    adapter = tiny.write_lora(tmp_path / "adapter", base, rank=2)
    put(tmp_path / "target", *custom("minicpmv", tiny.moved(base, 3)))
    flags = ["--base", tmp_path / "base", "--tuned", adapter, "--onto", tmp_path / "target"]
    assert cli("transfer", *flags, "--out", tmp_path / "out").status == 1
    ran = cli("transfer", *flags, "--rename", "^=llm.", "--out", tmp_path / "out")
    assert (ran.status, ran.err) == (0, ""), ran.err
    before, after = tiny.read_weights(tmp_path / "target"), tiny.read_weights(tmp_path / "out")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"llm." + name for name in base if "_proj" in name}


def test_a_rename_does_not_make_another_model_the_one_inside(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    put(tmp_path / "base", base, LLAMA)
    put(tmp_path / "tuned", tiny.moved(base, 2), LLAMA)
    inside = {name: value[..., :4] if value.dim() == 2 else value for name, value in base.items()}  # other widths
    put(tmp_path / "other", *custom("minicpmv", inside))
    put(tmp_path / "known", whole(base, tower(5), "flat"), qwen_vl())  # transformers knows what is inside: no llama
    for target in ("other", "known"):
        flags = ["--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / target]
        ran = cli("transfer", *flags, "--rename", "^=llm." if target == "other" else "^=", "--out", tmp_path / "out")
        assert ran.status == 1 and "different architectures" in ran.err and "--rename" not in ran.err


# ---- the parts


def test_what_lies_beside_is_told_by_places() -> None:
    language = ["model.layers.0.q.weight", "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"]
    eyes = ["model.mm_projector.0.weight", "model.mm_projector.2.weight", "visual.blocks.0.q.weight", "newline"]
    inside = ["model.layers.7.extra.weight"]
    assert beside(language, [*language, *eyes, *inside]) == set(eyes)
    pattern = pattern_of(beside(language, eyes), [*language, *eyes, *inside])
    assert pattern == r"^(model\.mm_projector\.|newline$|visual\.)"


def test_configs_of_a_class_and_its_whole_are_seen_as_each_other() -> None:
    text = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "eos_token_id": 7, "hidden_size": 8}
    around = {"model_type": "llava", "eos_token_id": 2, "text_config": {"model_type": "llama", "hidden_size": 9}}
    seen = seen_as_whole(text, around)
    assert seen["text_config"]["hidden_size"] == 8 and seen["text_config"]["eos_token_id"] == 7
    assert seen["eos_token_id"] == 7 and seen["model_type"] == "llava" and "architectures" not in seen["text_config"]
    assert around["text_config"] == {"model_type": "llama", "hidden_size": 9}
    back = seen_as_text(around, text)
    assert back == {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 9, "eos_token_id": 2}
