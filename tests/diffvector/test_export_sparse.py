"""`export --as sparse`: a patch that, put onto the target by a numpy loop, gives exactly the bytes of `apply`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import tiny_adapters as adapters
from support import tiny_checkpoints as tiny
from support.command_results import Cli

import tuneport
from tuneport.errors import NumericsError, PairingError
from tuneport.output.digest import LEAF_BYTES


def patches(folder: Path) -> dict[str, torch.Tensor]:
    """The patch's tensors by the official reader, in the order of its files."""
    found = {}
    for file in sorted(folder.glob("patch*.safetensors")):
        with safe_open(file, "pt") as opened:
            found.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118  (it is no mapping)
    return found


def patched(target: Path, folder: Path) -> dict[str, torch.Tensor]:
    """The target with the patch put onto it, element by element, as vLLM's contract has it."""
    weights, patch = tiny.read_weights(target), patches(folder)
    names = [name.removesuffix(".indices") for name in patch if name.endswith(".indices")]
    assert sorted(patch) == sorted(f"{name}.{part}" for name in names for part in ("indices", "values"))
    for name in names:
        indices, values = patch[f"{name}.indices"], patch[f"{name}.values"]
        assert indices.dtype == torch.int32
        assert indices.ndim == values.ndim == 1
        assert values.dtype == weights[name].dtype
        assert (indices[1:] > indices[:-1]).all()
        kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[values.element_size()]
        flat = np.frombuffer(bytearray(tiny.bits(weights[name])), kind).copy()
        new = np.frombuffer(tiny.bits(values), kind)
        for position, value in zip(indices.tolist(), new.tolist(), strict=True):
            assert flat[position] != value  # nothing is sent that stays as it is
            flat[position] = value
        weights[name] = torch.frombuffer(bytearray(flat.tobytes()), dtype=values.dtype).reshape(weights[name].shape)
    return weights


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("by", [0.02, 0.0005])
def test_the_patch_gives_the_bytes_of_apply(tmp_path: Path, dtype: torch.dtype, by: float) -> None:
    base = tiny.llama(1, dtype)
    made = tiny.trio(tmp_path, {**base, "ids": torch.arange(3)}, {**tiny.moved(base, 2, by), "ids": torch.arange(3)})
    tuneport.diff(made.base, made.tuned, tmp_path / "diff")
    tuneport.apply(tmp_path / "diff", made.target, tmp_path / "applied")
    found = tuneport.export(tmp_path / "diff", made.target, tmp_path / "patch", "sparse")
    wanted = tiny.read_weights(tmp_path / "applied")
    tiny.assert_same(patched(made.target, tmp_path / "patch"), wanted)
    target = tiny.read_weights(made.target)
    changed = sum(
        int(
            (np.frombuffer(tiny.bits(wanted[name]), np.uint8) != np.frombuffer(tiny.bits(value), np.uint8))
            .reshape(value.numel(), -1)
            .any(1)
            .sum()
        )
        for name, value in target.items()
    )  # fmt: skip  (one sum)
    assert found.manifest["exported"]["changed"] == changed
    assert found.manifest["exported"]["elements"] == sum(value.numel() for value in target.values())


def test_it_is_bound_to_the_target_and_to_the_result_by_their_digests(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    tuneport.diff(made.base, made.tuned, tmp_path / "diff")
    tuneport.apply(tmp_path / "diff", made.target, tmp_path / "applied", digest_inputs=True)
    found = tuneport.export(tmp_path / "diff", made.target, tmp_path / "patch", "sparse")
    manifest = json.loads((tmp_path / "applied/tuneport.json").read_text())
    before = next(each["tensors"] for each in manifest["inputs"] if each["role"] == "target")
    after = {each["name"]: each["digest"] for each in manifest["tensors"]}
    assert found.manifest["exported"]["tensors"]
    for name, each in found.manifest["exported"]["tensors"].items():
        assert each["target_digest"] == before[name]
        assert each["digest"] == after[name]


def test_tensors_of_many_leaves_and_several_files(tmp_path: Path) -> None:
    rows = LEAF_BYTES // 2 // 64 + 1000
    base = {"wide.weight": torch.randn(rows, 64).bfloat16(), **tiny.llama(1)}
    tuned = {name: value.clone() for name, value in base.items()}
    tuned["wide.weight"][::7, 3] += 1
    tuned["wide.weight"][-1, -1] += 1
    made = tiny.trio(tmp_path, base, tuned)
    tuneport.diff(made.base, made.tuned, tmp_path / "diff")
    tuneport.apply(tmp_path / "diff", made.target, tmp_path / "applied")
    files = []
    for workers, size in ((1, "5GB"), (3, "5GB"), (2, "20KB")):
        out = tmp_path / f"{workers}-{size}"
        tuneport.export(tmp_path / "diff", made.target, out, "sparse", workers=workers, shard_size=size)
        tiny.assert_same(patched(made.target, out), tiny.read_weights(tmp_path / "applied"))
        files.append(sorted(out.glob("patch*")))
    assert files[0][0].read_bytes() == files[1][0].read_bytes()
    assert len(files[2]) > 2
    assert (tmp_path / "2-20KB/patch.safetensors.index.json").exists()


def test_tied_weights_scales_rules_and_an_adapter(tmp_path: Path) -> None:
    made = adapters.make(tmp_path, adapters.KINDS["embedding of a tied model"])
    tuneport.diff(made.base, made.adapter, tmp_path / "diff")
    options = {"scale": 0.7, "rules": {"q_proj": 0}}
    tuneport.apply(tmp_path / "diff", made.target, tmp_path / "applied", **options)
    tuneport.export(tmp_path / "diff", made.target, tmp_path / "patch", "sparse", **options)
    tiny.assert_same(patched(made.target, tmp_path / "patch"), tiny.read_weights(tmp_path / "applied"))
    assert [name for name in patches(tmp_path / "patch") if "q_proj" in name] == []


def test_rows_with_scales_of_their_own_and_a_ramp(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    tuneport.diff(made.base, made.tuned, tmp_path / "diff")
    word, other = tiny.WORDS[3], tiny.WORDS[7]
    options = {"row_rules": {"@all": 0, word: 0.5, other: "scale"}, "rules": {r"layers\.": "0.2..1.0"}}
    tuneport.apply(tmp_path / "diff", made.target, tmp_path / "applied", **options)
    tuneport.export(tmp_path / "diff", made.target, tmp_path / "patch", "sparse", **options)
    wanted = tiny.read_weights(tmp_path / "applied")
    tiny.assert_same(patched(made.target, tmp_path / "patch"), wanted)
    tuneport.export(tmp_path / "diff", made.target, tmp_path / "lora", "peft", **options)
    factors = load_file(tmp_path / "lora/adapter_model.safetensors")
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    product = (factors[f"{name}B"] @ factors[f"{name}A"]).T
    base, tuned = (made.tensors[role]["model.embed_tokens.weight"].float() for role in ("base", "tuned"))
    for row in range(len(base)):
        scale = {3: 0.5, 7: 1.0}.get(row, 0.0)
        assert (product[row] - scale * (tuned - base)[row]).abs().max() < 1e-6


def test_a_preset_and_a_patch_that_is_larger_than_the_model(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    tuneport.diff(made.base, made.tuned, tmp_path / "diff")
    tuneport.apply(tmp_path / "diff", made.target, tmp_path / "applied", preset="instruct-residual")
    command = ["export", tmp_path / "diff", "--as", "sparse", "--onto", made.target, "--preset", "instruct-residual"]
    ran = cli(*command, "--out", tmp_path / "patch", "--json")
    assert ran.status == 0, ran.err
    assert any("apply" in warning for warning in ran.json()["warnings"])
    tiny.assert_same(patched(made.target, tmp_path / "patch"), tiny.read_weights(tmp_path / "applied"))
    assert cli(*command, "--out", tmp_path / "strict", "--strict").status == 1
    assert not (tmp_path / "strict").exists()


def test_a_target_in_float8_takes_an_adapter_and_no_patch(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    tuneport.diff(made.base, made.tuned, tmp_path / "diff")
    tensors: dict[str, torch.Tensor] = {}
    for name, value in made.tensors["target"].items():
        tensors[name] = value
        if name.endswith("_proj.weight"):
            scales = value.float().abs().amax(1, keepdim=True) / 448
            tensors[name], tensors[f"{name}_scale"] = (value.float() / scales).to(torch.float8_e4m3fn), scales
    save_file(tensors, made.target / "model.safetensors", {"format": "pt"})
    config = json.loads((made.target / "config.json").read_text())
    method = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    (made.target / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
    with pytest.raises(PairingError):
        tuneport.export(tmp_path / "diff", made.target, tmp_path / "patch", "sparse")
    found = tuneport.export(tmp_path / "diff", made.target, tmp_path / "lora", "peft", rules={"norm": 0})
    assert found.manifest["exported"]["error"] < 1e-6


def test_new_tokens_have_no_room_in_a_running_server(tmp_path: Path) -> None:
    made = adapters.make(tmp_path, adapters.KINDS["resized, trained tokens"])
    tuneport.diff(made.base, made.adapter, tmp_path / "diff")
    with pytest.raises(PairingError):
        tuneport.export(tmp_path / "diff", made.target, tmp_path / "patch", "sparse")
    assert not (tmp_path / "patch").exists()
    tuneport.apply(tmp_path / "diff", made.target, tmp_path / "applied", new_tokens="drop")
    tuneport.export(tmp_path / "diff", made.target, tmp_path / "patch", "sparse", new_tokens="drop")
    tiny.assert_same(patched(made.target, tmp_path / "patch"), tiny.read_weights(tmp_path / "applied"))


def test_what_is_not_finite_and_what_changes_nothing_is_refused(tmp_path: Path) -> None:
    base = tiny.llama(1)
    tuned = tiny.moved(base, 2)
    tuned["model.norm.weight"][0] = float("inf")
    made = tiny.trio(tmp_path, base, tuned)
    tuneport.diff(made.base, made.tuned, tmp_path / "diff", allow_nonfinite=True)
    with pytest.raises(NumericsError):
        tuneport.export(tmp_path / "diff", made.target, tmp_path / "patch", "sparse")
    tuneport.export(tmp_path / "diff", made.target, tmp_path / "patch", "sparse", allow_nonfinite=True)
    with pytest.raises(NumericsError):
        tuneport.export(tmp_path / "diff", made.target, tmp_path / "none", "sparse", scale=0)


def test_files_that_apply_would_write_otherwise_are_named(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    (made.tuned / "chat_template.jinja").write_text("{{ messages }}")
    assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", tmp_path / "diff").status == 0
    ran = cli(
        "export", tmp_path / "diff", "--as", "sparse", "--onto", made.target, "--out", tmp_path / "patch", "--json"
    )
    assert ran.status == 0, ran.err
    assert any("chat_template.jinja" in warning for warning in ran.json()["warnings"])
    assert cli("inspect", tmp_path / "patch", "--json").json()["kind"] == "sparse patch"
    assert cli("verify", tmp_path / "patch").status == 0
    content = bytearray((tmp_path / "patch/patch.safetensors").read_bytes())
    content[-3] ^= 4
    (tmp_path / "patch/patch.safetensors").write_bytes(content)
    assert cli("verify", tmp_path / "patch").status == 1


KILLED = """
import os, signal, sys
import tuneport
from tuneport.diffvector.exports import sparse_patch
made, first = [], sparse_patch.PatchWork._compute
def compute(self, *given):
    first(self, *given)
    made.append(given)
    if len(made) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
sparse_patch.PatchWork._compute = compute
tuneport.export(sys.argv[1], sys.argv[2], sys.argv[3], "sparse", workers=1)
"""


def test_a_killed_export_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    tuneport.diff(made.base, made.tuned, tmp_path / "diff")
    tuneport.export(tmp_path / "diff", made.target, tmp_path / "whole", "sparse")
    arguments = [str(tmp_path / "diff"), str(made.target), str(tmp_path / "again")]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list((tmp_path / "again.partial/parts").glob("*.json"))) == 4
    tuneport.export(*arguments, "sparse")
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in (tmp_path / "again").iterdir()} == names
    assert (tmp_path / "again/patch.safetensors").read_bytes() == (tmp_path / "whole/patch.safetensors").read_bytes()
