"""What hurt users of other tools, each as a test (DESIGN, "Known pains of others").

Numbers are issues of arcee-ai/mergekit unless said otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def output(cli: Cli, made: tiny.Trio, out: Path, *flags: str) -> tiny.Tensors:
    ran = cli(*made.flags(out, *flags))
    assert ran.status == 0, ran.err
    return tiny.read_weights(out)


def small_file(out: Path, name: str) -> dict[str, Any]:
    found = json.loads((out / name).read_text())
    assert isinstance(found, dict)
    return found


def test_target_plus_tuned_minus_base_is_one_command_and_exact(cli: Cli, tmp_path: Path) -> None:
    """#400, #438, #248, #541: the formula could not be expressed, or only through weights that are normalised."""
    made = tiny.trio(tmp_path)
    tiny.assert_same(output(cli, made, tmp_path / "out"), tiny.expected(made))


def test_vocabularies_of_different_sizes_neither_crash_nor_garble(cli: Cli, tmp_path: Path) -> None:
    """#47, #139, #342: a token more in one model crashed the merge, or shifted every row after it."""
    base = tiny.llama(1)
    tuned = tiny.moved(base, 2)
    for name in (EMBED, HEAD):
        tuned[name] = torch.cat([tuned[name], torch.full((1, 8), 7.0, dtype=torch.bfloat16)])
    made = tiny.trio(tmp_path, base=base, tuned=tuned)
    tiny.write_model(made.tuned, tuned, added=["<pad>"], settings=tiny.config(vocab_size=25))
    found = output(cli, made, tmp_path / "out")
    for name in (EMBED, HEAD):
        parts = [made.tensors[role][name][:24] for role in ("base", "tuned", "target")]
        assert tiny.bits(found[name][:24]) == tiny.bits(tiny.formula(*parts))
        assert found[name][24:].tolist() == [[7.0] * 8], "the new token's row, as the tuned model has it"
    assert small_file(tmp_path / "out", "config.json")["vocab_size"] == 25


def test_a_release_that_prepends_tokens_keeps_every_row_with_its_token(cli: Cli, tmp_path: Path) -> None:
    """#328: rows matched by position, after a release put tokens in front of all others."""
    base = tiny.llama(1)
    target = tiny.moved(base, 3)
    for name in (EMBED, HEAD):
        target[name] = torch.cat([torch.full((5, 8), 3.0, dtype=torch.bfloat16), target[name]])
    made = tiny.trio(tmp_path, base=base, target=target)
    tiny.write_model(
        made.target,
        target,
        words=[*[f"[control_{i}]" for i in range(5)], *tiny.WORDS],
        settings=tiny.config(vocab_size=29),
    )
    found = output(cli, made, tmp_path / "out")
    for name in (EMBED, HEAD):
        assert found[name][:5].tolist() == [[3.0] * 8] * 5
        wanted = tiny.formula(base[name], made.tensors["tuned"][name], target[name][5:])
        assert tiny.bits(found[name][5:]) == tiny.bits(wanted)


def test_a_padded_vocabulary_is_not_trimmed(cli: Cli, tmp_path: Path) -> None:
    """#425: Qwen's 152064 rows came out as the tokenizer's 151665."""
    padded = tiny.llama(1, rows=32)
    made = tiny.trio(tmp_path, base=padded, settings=tiny.config(vocab_size=32))
    found = output(cli, made, tmp_path / "out")
    tiny.assert_same(found, tiny.expected(made))
    assert found[EMBED].shape[0] == 32 and small_file(tmp_path / "out", "config.json")["vocab_size"] == 32


@pytest.mark.parametrize(
    "name",
    [
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
        "self_attn.v_proj.weight",
        "self_attn.v_proj.bias",
        "a.name.of.tomorrow",
    ],
)
def test_no_tensor_is_lost_because_a_list_of_names_lacks_it(cli: Cli, tmp_path: Path, name: str) -> None:
    """PR #699 (OLMo 2's q and k norms), PR #569 (Qwen 3's v_proj): names missing from a list were dropped without a word."""
    base = {
        **tiny.llama(1),
        f"model.layers.0.{name}": torch.randn(8, generator=torch.Generator().manual_seed(4)).bfloat16(),
    }
    made = tiny.trio(tmp_path, base=base)
    tiny.assert_same(output(cli, made, tmp_path / "out"), tiny.expected(made))


def test_a_tied_model_is_not_saved_larger_than_it_was_and_needs_no_head(cli: Cli, tmp_path: Path) -> None:
    """#390 (Gemma 2 saved too large), #424 (Llama 3.2: "lm_head required")."""
    base = {name: value for name, value in tiny.llama(1).items() if name != HEAD}
    made = tiny.trio(tmp_path, base=base, settings=tiny.config(tie_word_embeddings=True))
    found = output(cli, made, tmp_path / "out")
    assert HEAD not in found
    tiny.assert_same(found, tiny.expected(made))
    size = (made.target / "model.safetensors").stat().st_size
    assert abs((tmp_path / "out" / "model.safetensors").stat().st_size - size) < 100


def test_the_difference_of_a_tied_embedding_is_added_once(cli: Cli, tmp_path: Path) -> None:
    """The paper's own script walks over both names of one tied matrix, and adds its difference twice."""
    base = tiny.llama(1)
    base[HEAD] = base[EMBED].clone()
    tuned, target = tiny.moved(base, 2), tiny.moved(base, 3)
    tuned[HEAD], target[HEAD] = tuned[EMBED].clone(), target[EMBED].clone()
    made = tiny.trio(tmp_path, base, tuned, target, settings=tiny.config(tie_word_embeddings=True))
    found = output(cli, made, tmp_path / "out")
    assert tiny.bits(found[EMBED]) == tiny.bits(tiny.formula(base[EMBED], tuned[EMBED], target[EMBED]))
    assert HEAD not in found


def test_memory_does_not_grow_with_the_model_and_too_little_is_said_beforehand(cli: Cli, tmp_path: Path) -> None:
    """#549 (over 64 GB for a 7B model), #54 (killed without a word), #248 (a 70B chat vector)."""
    told = []
    for rows in (24, 2400):
        made = tiny.trio(tmp_path / str(rows), base=tiny.llama(1, rows=rows))
        told.append(
            cli(*made.flags(tmp_path / "out", "--dry-run", "--json", "--workers", "1")).json()["memory"]["bytes"]
        )
    assert abs(told[1] - told[0]) < 4 * 2**20, "what differs is what this process holds anyway"
    ran = cli(*made.flags(tmp_path / "out", "--max-memory", "2MiB"))
    assert ran.status == 1 and "needs at least" in ran.err


def test_the_rope_scaling_of_the_new_version_stays(cli: Cli, tmp_path: Path) -> None:
    """#325, #380: which model's rope scaling the output has was left to chance."""
    made = tiny.trio(tmp_path)
    for path in (made.base, made.tuned):
        (path / "config.json").write_text(json.dumps(tiny.config(max_position_embeddings=8192)))
    (made.target / "config.json").write_text(json.dumps(tiny.config(max_position_embeddings=131072, rope_scaling=ROPE)))
    output(cli, made, tmp_path / "out")
    found = small_file(tmp_path / "out", "config.json")
    assert found["rope_scaling"] == ROPE and found["max_position_embeddings"] == 131072
    differences = small_file(tmp_path / "out", "tuneport.json")["config_differences"]
    assert any("max_position_embeddings" in entry["field"] for entry in differences)


def test_the_generation_config_and_the_end_of_turn_token_of_the_tuned_model_come_along(
    cli: Cli, tmp_path: Path
) -> None:
    """#275: the generation config was dropped; without its end-of-turn token a chat model generates without end."""
    made = tiny.trio(tmp_path)
    for path in made.paths:
        (path / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}))
    (made.tuned / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": [1, 9]}))
    output(cli, made, tmp_path / "out")
    assert small_file(tmp_path / "out", "generation_config.json")["eos_token_id"] == [1, 9]


def test_the_dtype_is_the_targets_and_config_and_weights_agree(cli: Cli, tmp_path: Path) -> None:
    """#604, #609, #316: outputs in another dtype than asked for, or than their config says."""
    base = tiny.llama(1)
    tuned = {name: value.float() for name, value in tiny.moved(base, 2).items()}
    made = tiny.trio(tmp_path, base=base, tuned=tuned)
    (made.tuned / "config.json").write_text(json.dumps(tiny.config(torch_dtype="float32")))
    found = output(cli, made, tmp_path / "out")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert small_file(tmp_path / "out", "config.json")["torch_dtype"] == "bfloat16"
    wide = output(cli, made, tmp_path / "wide", "--dtype", "float32")
    assert {value.dtype for value in wide.values()} == {torch.float32}
    assert small_file(tmp_path / "wide", "config.json")["torch_dtype"] == "float32"


def test_nothing_is_normalised_unless_asked_for(cli: Cli, tmp_path: Path) -> None:
    """#214, #213: weights were divided by their sum by default, so that a scale of 2 was none."""
    made = tiny.trio(tmp_path)
    tiny.assert_same(output(cli, made, tmp_path / "out", "--scale", "2"), tiny.expected(made, 2.0))


def test_all_usable_cpus_work_and_every_byte_is_read_once(cli: Cli, tmp_path: Path) -> None:
    """#329 (8 hours on one core, 30 minutes on all), #388 (bound by reading): what a plan says of a run's work."""
    made = tiny.trio(tmp_path)
    told = cli(*made.flags(tmp_path / "out", "--dry-run", "--json", "--max-memory", "4GiB")).json()
    assert told["memory"]["workers"] == len(os.sched_getaffinity(0))
    weights = sum(
        value.numel() * value.element_size() for tensors in made.tensors.values() for value in tensors.values()
    )
    assert told["bytes"]["read"] == weights


def test_a_result_that_will_be_gibberish_is_told_from_the_norms(cli: Cli, tmp_path: Path) -> None:
    """#671: a merge of unrelated models gave gibberish, and nothing said why."""
    made = tiny.trio(tmp_path, base=tiny.llama(1), target=tiny.llama(99))
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 0 and "unrelated" in ran.err
    measures = small_file(tmp_path / "out", "tuneport.json")["measures"]
    assert abs(measures["base_target_cosine"]) < 0.1
    assert cli(*made.flags(tmp_path / "strict", "--strict")).status == 1


def test_a_shape_that_does_not_fit_is_told_before_anything_is_read_or_written(tmp_path: Path) -> None:
    """#328 of LoRA extraction: it failed after three hours on a shape that the headers had shown."""
    made = tiny.trio(tmp_path, target={**tiny.moved(tiny.llama(1), 3), "model.norm.weight": torch.ones(9).bfloat16()})
    driver = Path(__file__).parent / "support" / "fault_driver.py"
    job = {"argv": made.flags(tmp_path / "out"), "under": str(tmp_path), "counts": str(tmp_path / "counts.json")}
    done = subprocess.run([sys.executable, str(driver), json.dumps(job)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "`model.norm.weight`" in done.stderr
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts == {"change": 0, "pwrite": 0, "write": 0, "preadv": 0}


def test_norms_are_carried_like_every_other_tensor(cli: Cli, tmp_path: Path) -> None:
    """#521 of LoRA extraction: the one-dimensional weights of norms were skipped."""
    made = tiny.trio(tmp_path)
    found = output(cli, made, tmp_path / "out")
    for name in ("model.norm.weight", "model.layers.0.input_layernorm.weight"):
        parts = [made.tensors[role][name] for role in ("base", "tuned", "target")]
        assert tiny.bits(found[name]) == tiny.bits(tiny.formula(*parts)) != tiny.bits(parts[2])
