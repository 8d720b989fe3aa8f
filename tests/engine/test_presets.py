"""Each preset gives the bits of the recipe that it is named after, written down once more in numpy."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.written_manifests import manifest

import tuneport
from tuneport.engine.choices import Choices
from tuneport.engine.scaling.presets import PRESETS
from tuneport.errors import UsageError

Arrays = dict[str, NDArray[np.float32]]
WORDS = tiny.WORDS[:12]
CHAT = ["<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}{{ eos_token }}"
SPECIAL = json.dumps({"eos_token": "</s>"})


def arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: value.numpy().copy() for name, value in tensors.items()}


def assert_bits(found: Path, wanted: Arrays) -> None:
    tiny.assert_same(tiny.read_weights(found), {name: torch.from_numpy(value) for name, value in wanted.items()})


def chat_family(where: Path, target_words: list[str]) -> tiny.Trio:
    """A base, a chat model with two tokens more, and a target whose vocabulary was extended for a language."""
    whole = tiny.llama(1, torch.float32, rows=40)
    vocabularies: dict[str, tuple[list[str], list[str]]] = {
        "base": (WORDS, ["</s>"]),
        "tuned": (WORDS, ["</s>", *CHAT]),
        "target": ([*WORDS, *target_words], ["</s>"]),
    }
    tensors, paths = {}, {}
    for place, (role, (words, added)) in enumerate(vocabularies.items()):
        rows = len(words) + len(added)
        moved = tiny.moved(whole, place + 2, by=0.05 * place)
        tensors[role] = {name: value[:rows].clone() if value.shape[0] == 40 else value for name, value in moved.items()}
        small = {"chat_template__jinja": TEMPLATE, "special_tokens_map__json": SPECIAL} if role == "tuned" else {}
        settings = tiny.config(vocab_size=rows, torch_dtype="float32")
        paths[role] = tiny.write_model(
            where / role, tensors[role], words=words, added=added, settings=settings, **small
        )
    return tiny.Trio(paths["base"], paths["tuned"], paths["target"], tensors)


def chat_vector(made: tiny.Trio, target_words: list[str], ratio: float) -> Arrays:
    """The authors' `add_chat_vector` with skip_embed: p += ratio · Δ but for embedding and head, and these by special_tokens_map.

    A token of the template that the target lacks gets the chat model's row; one that all have (here the end token, by its
    role) gets its difference.
    """
    base, chat, model = (arrays(made.tensors[role]) for role in ("base", "tuned", "target"))
    extended = len(WORDS) + len(target_words)
    for name, value in model.items():
        if re.search("embed_tokens|lm_head", name):
            value[extended] += np.float32(ratio) * (chat[name][len(WORDS)] - base[name][len(WORDS)])  # </s>
            model[name] = np.concatenate([value, chat[name][len(WORDS) + 1 :]])
        else:
            value += np.float32(ratio) * (chat[name] - base[name])
    return model


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("words", [[], ["neu0", "neu1", "neu2"]], ids=["same", "extended"])
def test_chat_vector(cli: Cli, tmp_path: Path, words: list[str], ratio: float) -> None:
    made = chat_family(tmp_path, words)
    ran = cli(*made.flags(tmp_path / "out", "--preset", "chat-vector", "--scale", str(ratio)))
    assert ran.status == 0, ran.err
    assert_bits(tmp_path / "out", chat_vector(made, words, ratio))
    assert "--row-rule @all=0 --row-rule @template=scale" in ran.err
    told = next(entry for entry in manifest(tmp_path / "out")["decisions"] if entry["subject"] == "preset")
    assert told["choice"] == "chat-vector" and "--row-rule @all=0 --row-rule @template=scale" in told["reason"]
    parents = ["--base", made.base, "--tuned", made.tuned, "--onto", made.target]
    assert (ran := cli("verify", tmp_path / "out", *parents, "--full")).status == 0, ran.err


def test_chat_vector_applied(cli: Cli, tmp_path: Path) -> None:
    made = chat_family(tmp_path, ["neu0"])
    assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", tmp_path / "d").status == 0
    ran = cli(
        "apply", f"{tmp_path / 'd'}=0.5", "--onto", made.target, "--out", tmp_path / "o", "--preset", "chat-vector"
    )
    assert ran.status == 0, ran.err
    assert_bits(tmp_path / "o", chat_vector(made, ["neu0"], 0.5))
    assert cli("verify", tmp_path / "o", "--diff", tmp_path / "d", "--onto", made.target, "--full").status == 0


def test_instruct_residual(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, base=tiny.llama(1, torch.float32), settings=tiny.config(torch_dtype="float32"))
    tuneport.transfer(*made.paths, tmp_path / "out", preset="instruct-residual")
    old_base, old_instruct, new_base = (arrays(made.tensors[role]) for role in ("base", "tuned", "target"))
    wanted = {name: new_base[name] + (old_instruct[name] - old_base[name]) for name in new_base}
    assert_bits(tmp_path / "out", wanted)


def shadow_family(where: Path, **small: str) -> tiny.Trio:
    base = tiny.llama(1, torch.float32)
    for name in ("k_proj", "v_proj", "o_proj", "qkv_proj"):
        base[f"model.layers.0.self_attn.{name}.weight"] = torch.randn(8, 8)
    base["model.layers.0.self_attn.q_proj.bias"] = torch.randn(8)
    return tiny.trio(where, base=base, settings=tiny.config(torch_dtype="float32"), **small)


def shadow(made: tiny.Trio) -> Arrays:
    """The authors' `apply_diff`: (tuned − base) + instruct where a name holds a projection's, else the instruct model's."""
    base, tuned, instruct = (arrays(made.tensors[role]) for role in ("base", "tuned", "target"))
    patterns = ["k_proj", "q_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
    return {
        name: value + (tuned[name] - base[name]) if any(pattern in name for pattern in patterns) else value
        for name, value in instruct.items()
    }


def test_shadow(cli: Cli, tmp_path: Path) -> None:
    made = shadow_family(tmp_path)
    (made.tuned / "chat_template.jinja").write_text("tuned")
    (made.target / "chat_template.jinja").write_text("instruct")
    (made.tuned / "generation_config.json").write_text('{"temperature": 0.1}')
    (made.target / "generation_config.json").write_text('{"temperature": 0.7}')
    ran = cli(*made.flags(tmp_path / "out", "--preset", "shadow"))
    assert ran.status == 0, ran.err
    assert_bits(tmp_path / "out", shadow(made))
    for name in ("chat_template.jinja", "generation_config.json", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (made.target / name).read_bytes()
    parents = ["--base", made.base, "--tuned", made.tuned, "--onto", made.target]
    assert (ran := cli("verify", tmp_path / "out", *parents, "--full")).status == 0, ran.err


def test_shadow_needs_projections_by_these_names(tmp_path: Path) -> None:
    base = {f"transformer.h.{layer}.attn.c_attn.weight": torch.randn(8, 8) for layer in range(2)}
    made = tiny.trio(tmp_path, base=base)
    with pytest.raises(UsageError, match="matches no tensor"):
        tuneport.transfer(*made.paths, tmp_path / "out", preset="shadow")


def test_the_users_own_options_win(tmp_path: Path) -> None:
    made = shadow_family(tmp_path)
    (made.tuned / "chat_template.jinja").write_text("tuned")
    options: dict[str, Any] = {"rules": {"embed": 0.5, "q_proj": 0}, "sidecar": {"chat_template": "tuned"}}
    tuneport.transfer(*made.paths, tmp_path / "out", preset="shadow", **options)
    base, tuned, instruct = (arrays(made.tensors[role]) for role in ("base", "tuned", "target"))
    wanted = shadow(made)
    for name in wanted:
        if "q_proj" in name:
            wanted[name] = instruct[name]
        if "embed" in name:
            wanted[name] = instruct[name] + np.float32(0.5) * (tuned[name] - base[name])
    assert_bits(tmp_path / "out", wanted)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "tuned"


def test_a_choice_of_the_users_for_a_file_that_no_model_has_is_still_refused(cli: Cli, tmp_path: Path) -> None:
    made = shadow_family(tmp_path)
    ran = cli(*made.flags(tmp_path / "out", "--preset", "shadow", "--sidecar", "generation_config.json=tuned"))
    assert ran.status == 1
    assert "generation_config.json" in ran.err


@pytest.mark.parametrize("name", PRESETS)
def test_the_flags_of_a_preset_are_the_preset(name: Any) -> None:
    """What is printed can be typed instead."""
    import shlex

    given: dict[str, list[str]] = {}
    words = shlex.split(PRESETS[name].flags)
    for flag, value in zip(words[::2], words[1::2], strict=True):
        given.setdefault({"--rule": "rules", "--row-rule": "row_rules"}.get(flag, flag[2:]), []).append(value)
    typed = Choices(**{key: value if key != "scale" else 1.0 for key, value in given.items()})  # type: ignore[arg-type]  # texts
    preset = Choices(preset=name)
    assert {**preset.record(), "preset": None} == typed.record()
    assert Choices(preset=name, rules=preset.rules, row_rules=preset.row_rules, sidecar=preset.sidecar) == preset


def test_an_unknown_preset_is_a_fault(cli: Cli, tmp_path: Path) -> None:
    made = shadow_family(tmp_path)
    assert cli(*made.flags(tmp_path / "out", "--preset", "chat")).status == 2
    with pytest.raises(UsageError, match="chat-vector"):
        tuneport.transfer(*made.paths, tmp_path / "out", preset="chat")  # type: ignore[arg-type]  # is what is tried
