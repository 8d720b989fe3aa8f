"""A loaded model moved along a line holds, at every point, what a transfer of that scale would write."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_checkpoints as tiny

pytest.importorskip("transformers")

from support.tiny_lines import renumber, rewrite
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import tuneport
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.diagnosis.line import LineBetween, joined, laid, opened
from tuneport.errors import CheckpointError, PairingError


def make(folder: Path, seed: int, **settings: Any) -> Path:
    """A tiny real Llama with random weights, grouped heads and a bias, in several shards."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": 24,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
            **settings,
        }
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder, max_shard_size="8KB")
    (folder / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(tiny.WORDS)))
    return folder


@contextmanager
def line_of(a: Path, b: Path) -> Iterator[LineBetween]:
    one, other = open_checkpoint(a, "A"), open_checkpoint(b, "B")
    shared, _ = joined(one, other)
    with opened(one, other) as readers:
        yield laid(AutoModelForCausalLM.from_pretrained(b, dtype=torch.float32), "B", shared, readers)


def held(line: LineBetween) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in line.model.state_dict().items()}


@pytest.mark.parametrize("tied", [False, True])
def test_at_every_point_stand_the_bits_that_a_transfer_would_write(tmp_path: Path, tied: bool) -> None:
    a, b = (make(tmp_path / name, seed, tie_word_embeddings=tied) for seed, name in enumerate("ab"))
    with line_of(a, b) as line:
        for alpha in (0.5, 1.5, 0.1, -0.25):
            out = tmp_path / f"at-{alpha}"
            tuneport.transfer(a, b, a, out, scale=alpha, dtype="float32")
            wanted = tiny.read_weights(out)
            line.put(alpha)
            found = {name: value for name, value in held(line).items() if name in wanted}
            assert len(wanted) == len(found) == len(list(line.model.parameters()))
            tiny.assert_same(found, wanted)
            if tied:
                assert line.model.lm_head.weight is line.model.model.embed_tokens.weight


def test_the_ends_are_the_models_themselves_however_often_it_moved(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 0), make(tmp_path / "b", 1)
    with line_of(a, b) as line:
        for alpha, end in ((1, b), (0.3, None), (0, a), (0.7, None), (1, b), (0, a)):
            line.put(alpha)
            if end is not None:
                wanted = {name: tensor.float() for name, tensor in tiny.read_weights(end).items()}
                tiny.assert_same({name: value for name, value in held(line).items() if name in wanted}, wanted)


def test_rows_follow_their_tokens_and_those_that_only_b_has_stay(ends: Path, tmp_path: Path) -> None:
    a = ends / "all"
    b = renumber(a, tmp_path / "renumbered", 5, inserted=3)
    weights = tiny.read_weights(b)
    with line_of(a, b) as line:
        for alpha in (0.0, 0.5, 1.0):
            line.put(alpha)
            found = held(line)
            for name, tensor in weights.items():
                # The same numbers on both sides, each token's at its own row: they are the same all along.
                assert torch.allclose(found[name], tensor.float(), atol=1e-7), (alpha, name)


def test_models_that_compute_otherwise_have_no_line_and_every_reason_is_told(tmp_path: Path) -> None:
    a = make(tmp_path / "a", 0)
    b = make(tmp_path / "b", 1, rope_parameters={"rope_type": "default", "rope_theta": 5e5}, rms_norm_eps=1e-3)
    with pytest.raises(
        PairingError, match=r"(?s)a line from A a to B b.*`rms_norm_eps` is 1e-06 in A and 0\.001"
    ) as told:
        joined(open_checkpoint(a, "A"), open_checkpoint(b, "B"))
    assert "rope" in str(told.value) and "allow_config" in str(told.value)
    _, otherwise = joined(open_checkpoint(a, "A"), open_checkpoint(b, "B"), allow_config=True)
    assert [reason.split("`")[1] for reason in otherwise] == ["rms_norm_eps", "rope_parameters"]
    tied = make(tmp_path / "tied", 1, tie_word_embeddings=True)
    with pytest.raises(PairingError, match=r"tie_word_embeddings"):
        joined(open_checkpoint(a, "A"), open_checkpoint(tied, "B"), allow_config=True)


def test_a_model_that_holds_other_weights_than_its_files_is_refused_by_name(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 0), make(tmp_path / "b", 1)
    one, other = open_checkpoint(a, "A"), open_checkpoint(b, "B")
    shared, _ = joined(one, other)
    model = AutoModelForCausalLM.from_pretrained(b, dtype=torch.float32)
    with opened(one, other) as readers:
        with torch.no_grad():
            model.model.norm.weight[2] += 1
        with pytest.raises(CheckpointError, match=r"`model\.norm\.weight` differs from the checkpoint's"):
            laid(model, "B", shared, readers)
        model.model.extra = torch.nn.Linear(2, 2)
        with pytest.raises(CheckpointError, match=r"the model's `model\.extra\.weight` is not in the checkpoint"):
            laid(model, "B", shared, readers)


def test_a_checkpoint_that_changes_while_it_is_measured_stops_the_run(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 0), make(tmp_path / "b", 1)
    with line_of(a, b) as line:
        line.put(0.5)
        weights = tiny.read_weights(a)
        kept = shutil.copytree(a, tmp_path / "kept")
        file = next(a.glob("*.safetensors"))
        file.write_bytes((kept / file.name).read_bytes())
        with pytest.raises(CheckpointError, match="changed while it was read"):
            line.put(0.25)
    rewrite(a, a, weights)


def test_names_that_lack_the_models_prefix_find_their_place(tmp_path: Path) -> None:
    # As the Hub has GPT-2: without the prefix under which transformers holds and saves it.
    from transformers import GPT2Config, GPT2LMHeadModel

    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=8, n_layer=1, n_head=2, n_positions=16))
        model.save_pretrained(tmp_path / str(seed))
        short = {n.removeprefix("transformer."): t for n, t in tiny.read_weights(tmp_path / str(seed)).items()}
        tiny.write_weights(tmp_path / str(seed), short)
        (tmp_path / str(seed) / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(tiny.WORDS)))
        paths.append(tmp_path / str(seed))
    with line_of(*paths) as line:
        line.put(0)
        wanted = tiny.read_weights(paths[0])
        assert all(torch.equal(line.model.state_dict()[f"transformer.{name}"], t) for name, t in wanted.items())


def test_moving_a_model_takes_memory_for_pieces_only(tmp_path: Path) -> None:
    rows = 40_000
    words = [f"w{place}" for place in range(rows)]
    paths = [make(tmp_path / name, seed, vocab_size=rows, hidden_size=64) for seed, name in enumerate("ab")]
    for path in paths:
        (path / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(words)))
    with line_of(*paths) as line:
        tracemalloc.start()
        line.put(0.5)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert line.model.num_parameters() * 4 > 20_000_000
    assert peak < 3_000_000
