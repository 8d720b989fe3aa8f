"""Transfers from and onto models that are stored in float8: added in float32, written as bfloat16."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_checkpoints as tiny

import tuneport
from tuneport.errors import TuneportError

BLOCK = 5  # does not divide 8
ROLES = ("base", "tuned", "target")


def quantised(source: Path, out: Path, scheme: str) -> Path:
    """The same model with its inner matrices in float8, as DeepSeek ("blocks") or compressed-tensors ("rows") store them."""
    shutil.copytree(source, out)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if ".layers." not in name or tensor.dim() < 2:
            tensors[name] = tensor
            continue
        high, wide = (BLOCK, BLOCK) if scheme == "blocks" else (1, tensor.shape[1])
        rows, columns = -(-tensor.shape[0] // high), -(-tensor.shape[1] // wide)
        scales = (
            torch.stack(
                [
                    torch.stack([part.abs().max() for part in band.float().split(wide, 1)])
                    for band in tensor.split(high, 0)
                ]
            )
            / 448
        )
        codes = (tensor.float() / grown(scales, high, wide, tensor.shape)).to(torch.float8_e4m3fn)
        assert scales.shape == (rows, columns)
        tensors[name] = codes
        tensors[f"{name}_scale{'_inv' if scheme == 'blocks' else ''}"] = scales
        tensors[f"{name.removesuffix('weight')}input_scale"] = torch.ones(1)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    method = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]} if scheme == "blocks" else {
        "quant_method": "compressed-tensors", "format": "float-quantized"
    }  # fmt: skip
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
    return out


def grown(scales: torch.Tensor, high: int, wide: int, shape: torch.Size) -> torch.Tensor:
    return scales.repeat_interleave(high, 0).repeat_interleave(wide, 1)[: shape[0], : shape[1]]


def numbers(folder: Path) -> Mapping[str, torch.Tensor]:
    """What the model's tensors stand for, in float32."""
    found = load_file(folder / "model.safetensors")
    block = json.loads((folder / "config.json").read_text()).get("quantization_config", {}).get("weight_block_size")
    wide: dict[str, torch.Tensor] = {}
    for name, tensor in found.items():
        if name.endswith(("_scale", "_scale_inv")):
            continue
        scales = next((found[name + end] for end in ("_scale", "_scale_inv") if name + end in found), None)
        high, across = block or (1, tensor.shape[-1])
        wide[name] = tensor.float() if scales is None else tensor.float() * grown(scales, high, across, tensor.shape)
    return wide


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("family")
    models = dict(zip(ROLES, tiny.trio(place / "plain").paths, strict=True))
    for scheme in ("blocks", "rows"):
        models |= {f"{role} in {scheme}": quantised(models[role], place / scheme / role, scheme) for role in ROLES}
    return models


@pytest.mark.parametrize(
    "names",
    [
        ("base", "tuned", "target in blocks"),
        ("base in blocks", "tuned in blocks", "target in blocks"),
        ("base in rows", "tuned", "target in blocks"),
        ("base in rows", "tuned in rows", "target"),
    ],
)
def test_what_is_written_is_the_sum_in_float32_rounded_once(
    family: dict[str, Path], tmp_path: Path, names: tuple[str, str, str]
) -> None:
    places = [family[name] for name in names]
    tuneport.transfer(*places, tmp_path / "out", strict=not any("base in" in name for name in names))
    written = load_file(tmp_path / "out" / "model.safetensors")
    base, tuned, target = map(numbers, places)
    assert written.keys() == target.keys()
    for name, tensor in written.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, (target[name] + (tuned[name] - base[name])).to(torch.bfloat16)), name
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    proof = tuneport.verify(tmp_path / "out", *places, full=True)
    assert proof.kind == "full"


def test_diff_and_apply_write_the_bytes_of_transfer(family: dict[str, Path], tmp_path: Path) -> None:
    places = [family[f"{role} in blocks"] for role in ROLES]
    tuneport.transfer(*places, tmp_path / "out")
    tuneport.diff(*places[:2], tmp_path / "diff")
    tuneport.apply(tmp_path / "diff", places[2], tmp_path / "applied")
    one, other = (tmp_path / name / "model.safetensors" for name in ("out", "applied"))
    assert one.read_bytes() == other.read_bytes()


def test_another_dtype_is_that_of_all_that_was_float8_and_of_the_rest(family: dict[str, Path], tmp_path: Path) -> None:
    places = [family["base"], family["tuned"], family["target in blocks"]]
    tuneport.transfer(*places, tmp_path / "out", dtype="float32")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float32}


def test_the_manifest_says_how_the_weights_were_read(family: dict[str, Path], tmp_path: Path) -> None:
    places = [family["base in rows"], family["tuned"], family["target in blocks"]]
    tuneport.transfer(*places, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    told: dict[str, Any] = {each["subject"]: each for each in manifest["decisions"]}
    assert {"weights.base", "weights.target"} <= told.keys() and "weights.tuned" not in told


def test_what_the_codes_of_base_and_tuned_rounded_away_is_a_warning_and_that_of_the_target_is_not(
    family: dict[str, Path], tmp_path: Path
) -> None:
    onto = tuneport.transfer(family["base"], family["tuned"], family["target in blocks"], tmp_path / "one")
    assert not any("codes with scales" in each for each in onto.manifest["warnings"])
    both = tuneport.transfer(family["base in rows"], family["tuned in rows"], family["target"], tmp_path / "two")
    (told,) = (each for each in both.manifest["warnings"] if "codes with scales" in each)
    assert told.startswith("base and tuned") and "F8_E4M3 about 2.6%" in told


def test_codes_without_scales_are_refused(family: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(family["target in blocks"], broken)
    tensors = load_file(broken / "model.safetensors")
    save_file({name: each for name, each in tensors.items() if "scale" not in name}, broken / "model.safetensors")
    with pytest.raises(TuneportError, match="quantised"):
        tuneport.transfer(family["base"], family["tuned"], broken, tmp_path / "out")
