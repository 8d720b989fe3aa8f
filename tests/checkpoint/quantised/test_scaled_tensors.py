"""Codes with scales, read as what they stand for: against torch and transformers' own dequantisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.quantised.codes import table_of
from tuneport.checkpoint.reading import reading
from tuneport.checkpoint.views import narrowed, stacked, transposed
from tuneport.errors import CheckpointError

TYPES = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize("name", TYPES)
def test_every_byte_stands_for_what_torch_says(name: str) -> None:
    expected = torch.arange(256, dtype=torch.uint8).view(TYPES[name]).float().numpy()
    np.testing.assert_array_equal(table_of(name), expected)


def stored(folder: Path, tensors: dict[str, torch.Tensor], method: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "llama", **({"quantization_config": method} if method else {})}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def read(folder: Path, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    checkpoint = open_checkpoint(folder, "base")
    tensor = checkpoint.tensors[name]
    assert tensor.dtype == "F32"
    buffer = bytearray(4 * ((tensor.elements if stop is None else stop) - start))
    with reading(checkpoint) as reader:
        assert reader.place(tensor) is None
        reader.read_into(tensor, 4 * start, memoryview(buffer))
    found = np.frombuffer(buffer, np.float32)
    return found.reshape(tensor.shape) if start == 0 and stop is None else found


def codes_of(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(8).to(dtype)


def scales_of(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 0.01 + 1e-4


def blocks(codes: torch.Tensor, scales: torch.Tensor, size: int = 128) -> np.ndarray:
    """As DeepSeek's fp8_cast_bf16.py has it: the last blocks may be cut."""
    wide = scales.repeat_interleave(size, -2).repeat_interleave(size, -1)
    return (codes.float() * wide[..., : codes.shape[-2], : codes.shape[-1]]).numpy()


def test_deepseeks_blocks_with_cut_ones_at_the_edges(tmp_path: Path) -> None:
    codes, scales = codes_of(200, 300), scales_of(2, 3)
    folder = stored(tmp_path / "m", {"a.weight": codes, "a.weight_scale_inv": scales}, FP8)
    np.testing.assert_array_equal(read(folder, "a.weight"), blocks(codes, scales))
    assert set(open_checkpoint(folder, "base").tensors) == {"a.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_transformers_dequantises_to_the_same_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes, scales = codes_of(3, 256, 128), scales_of(3, 2, 1).to(dtype)
    tensors = {"experts.gate_up_proj": codes, "experts.gate_up_proj_scale_inv": scales}
    expected = Fp8Dequantize(None)._dequantize_one(codes, scales, output_dtype=torch.float32)
    np.testing.assert_array_equal(read(stored(tmp_path / "m", tensors, FP8), "experts.gate_up_proj"), expected.numpy())


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("a.weight_scale", scales_of()),
        ("a.weight_scale", scales_of(1)),
        ("a.weight_scale", scales_of(40, 1)),
        ("a.weight_scale", scales_of(40)),
        ("a.weight_scale", scales_of(5, 6)),
        ("a.scale", scales_of(1, 1)),
    ],
    ids=["one", "one in a list", "each row", "each row in a list", "blocks without a config", "DeepSeek V4's name"],
)
def test_scales_of_a_tensor_of_rows_and_of_blocks(tmp_path: Path, name: str, scales: torch.Tensor) -> None:
    codes = codes_of(40, 48, dtype=torch.float8_e5m2)
    tensors = {"a.weight": codes, name: scales, "a.input_scale": scales_of(1), "b.weight": torch.ones(2)}
    folder = stored(tmp_path / "m", tensors)
    wide = scales.reshape(-1, 1) if scales.dim() < 2 else scales
    wide = wide.repeat_interleave(40 // wide.shape[0], 0).repeat_interleave(48 // wide.shape[1], 1)
    np.testing.assert_array_equal(read(folder, "a.weight"), (codes.float() * wide).numpy())
    assert set(open_checkpoint(folder, "base").tensors) == {"a.weight", "b.weight"}


def test_mxfp4_as_transformers_unpacks_it(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(0)
    packed = torch.randint(0, 256, (2, 10, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(100, 140, (2, 10, 3), dtype=torch.uint8, generator=generator)
    tensors = {"mlp.experts.down_proj_blocks": packed, "mlp.experts.down_proj_scales": scales}
    expected = convert_moe_packed_tensors(packed, scales, dtype=torch.float32).numpy()
    found = read(stored(tmp_path / "m", tensors, {"quant_method": "mxfp4"}), "mlp.experts.down_proj")
    np.testing.assert_array_equal(found, expected)


@given(data=st.data())
def test_any_range_has_the_numbers_of_the_whole(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    high, wide = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    codes = codes_of(2, rows, columns)
    scales = scales_of(2, -(-rows // high), -(-columns // wide))
    method = {"quant_method": "fp8", "weight_block_size": [high, wide]}
    folder = stored(tmp_path_factory.mktemp("ranges"), {"a.weight": codes, "a.weight_scale_inv": scales}, method)
    expected = codes.float() * scales.repeat_interleave(high, 1).repeat_interleave(wide, 2)[:, :rows, :columns]
    flat = expected.reshape(-1).numpy()
    start = data.draw(st.integers(0, len(flat) - 1))
    stop = data.draw(st.integers(start + 1, len(flat)))
    np.testing.assert_array_equal(read(folder, "a.weight", start, stop), flat[start:stop])


def test_what_is_made_of_them_has_their_numbers(tmp_path: Path) -> None:
    """Experts joined and turned, as another spelling wants them."""
    experts = [(codes_of(6, 10, seed=seed), scales_of(2, 3, seed=seed)) for seed in range(3)]
    stores = {f"experts.{i}.weight": codes for i, (codes, _) in enumerate(experts)}
    stores |= {f"experts.{i}.weight_scale_inv": scales for i, (_, scales) in enumerate(experts)}
    folder = stored(tmp_path / "m", stores, {"quant_method": "fp8", "weight_block_size": [4, 4]})
    checkpoint = open_checkpoint(folder, "base")
    parts = [checkpoint.tensors[f"experts.{i}.weight"] for i in range(3)]
    turned = stacked([transposed(narrowed(part, 0, 1, 4), 0, 1) for part in parts])
    expected = np.stack([blocks(codes, scales, 4)[1:5].T for codes, scales in experts])
    buffer = bytearray(expected.nbytes)
    with reading(checkpoint) as reader:
        reader.read_into(turned, 0, memoryview(buffer))
    np.testing.assert_array_equal(np.frombuffer(buffer, np.float32).reshape(turned.shape), expected)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a.weight": codes_of(40, 48), "a.weight_scale_inv": scales_of(3, 7)},
        {"a.weight": codes_of(40, 48), "a.weight_scale": scales_of(7)},
        {"a.weight": codes_of(3, 8, 8), "a.weight_scale": scales_of(2, 1, 1)},
        {"a.weight": codes_of(40, 48), "a.weight_scale": torch.ones(1, dtype=torch.int64)},
        {"x_blocks": torch.zeros(2, 3, 8, dtype=torch.uint8), "x_scales": torch.zeros(2, 3, dtype=torch.uint8)},
        {"x_blocks": torch.zeros(2, 3, 16, dtype=torch.uint8), "x_scales": torch.zeros(3, 2, dtype=torch.uint8)},
    ],
)
def test_scales_that_do_not_fit_are_refused_by_name(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError) as told:
        open_checkpoint(stored(tmp_path / "m", tensors, FP8), "base")
    assert next(iter(tensors)) in str(told.value)


def test_codes_without_scales_stay_what_they_are(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(stored(tmp_path / "m", {"a.weight": codes_of(4, 4)}), "base")
    assert checkpoint.scaled is None and checkpoint.tensors["a.weight"].dtype == "F8_E4M3"
