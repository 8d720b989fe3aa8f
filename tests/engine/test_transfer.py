"""Every output tensor is, bit for bit, what torch gives for the formula; nothing else decides its bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.written_manifests import by_name, manifest

import tuneport
from tuneport.diffvector.run import transfer
from tuneport.engine import budget as budgets
from tuneport.engine import run as running_module
from tuneport.errors import NumericsError
from tuneport.pairing.name_rules import ScaleRule

pytestmark = pytest.mark.filterwarnings("error")
FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def weights(folder: Path) -> dict[str, bytes]:
    return {name: tiny.bits(tensor) for name, tensor in tiny.read_weights(folder).items()}


# ---- the formula


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.5, 0.1, 2.75])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_output_is_what_torch_computes(tmp_path: Path, dtype: torch.dtype, scale: float) -> None:
    made = tiny.trio(tmp_path, base=tiny.llama(1, dtype))
    transfer(*made.paths, tmp_path / "out", scale=scale)
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.expected(made, scale))


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(FLOATS), min_size=18, max_size=18),
    st.sampled_from([1.0, 0.3, -2.0]),
    st.integers(0, 2**31),
)
def test_any_mixture_of_dtypes_among_the_three_is_what_torch_computes(
    tmp_path_factory: pytest.TempPathFactory, dtypes: list[torch.dtype], scale: float, seed: int
) -> None:
    where = tmp_path_factory.mktemp("mixed")
    parts = []
    for number in range(3):
        tensors = tiny.moved(tiny.llama(seed, torch.float32), seed + number)
        own = dtypes[number * 6 :]
        parts.append({name: value.to(own[place]) for place, (name, value) in enumerate(tensors.items())})
    made = tiny.trio(where, *parts)
    transfer(*made.paths, where / "out", scale=scale)
    wanted = tiny.expected(made, scale)
    found = tiny.read_weights(where / "out")
    for name, value in wanted.items():
        if torch.float64 not in (parts[0][name].dtype, parts[1][name].dtype):
            continue
        # torch rounds float64 to the half formats by way of float32, which is twice; numpy rounds to float16 once.
        if value.dtype == torch.float16:
            exact = tiny.formula(*(part[name].double() for part in parts), scale)
            wanted[name] = torch.from_numpy(exact.numpy().astype(np.float16))
        if value.dtype == torch.bfloat16:  # one rounding is at most one neighbour away
            steps = (found[name].view(torch.int16).int() - value.view(torch.int16).int()).abs()
            assert int(steps.max()) <= 1
            wanted[name] = found[name]
    tiny.assert_same(found, wanted)


def test_float64_is_rounded_to_float16_once(tmp_path: Path) -> None:
    """Between two float16 neighbours, a float64 above the middle by less than float32 can tell: rounded twice it goes down."""
    middle = 1 + 2.0**-11
    zero = {name: torch.zeros_like(value) for name, value in tiny.llama(1, torch.float16).items()}
    tuned = {name: torch.full_like(value, middle + 2.0**-40, dtype=torch.float64) for name, value in zero.items()}
    made = tiny.trio(tmp_path, zero, tuned, zero)
    transfer(*made.paths, tmp_path / "out")
    for value in tiny.read_weights(tmp_path / "out").values():
        assert value.dtype == torch.float16
        assert (value == 1 + 2.0**-10).all()


def test_base_plus_diff_restores_a_tuned_bfloat16_model(tmp_path: Path) -> None:
    base = tiny.llama(1)
    made = tiny.trio(tmp_path, base=base, tuned=tiny.moved(base, 2, by=0.3), target=base)
    transfer(*made.paths, tmp_path / "out")
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), made.tensors["tuned"])


# ---- what must not matter


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    """Odd sizes, more than one leaf, float32 beside bfloat16."""
    base = tiny.llama(1, rows=301, hidden=7)
    base["model.layers.0.mlp.down_proj.weight"] = tiny.llama(9, rows=450_001, hidden=5)["lm_head.weight"]
    base["model.layers.0.mlp.gate.weight"] = tiny.llama(8, torch.float32, rows=333, hidden=1001)["lm_head.weight"]
    return tiny.trio(tmp_path_factory.mktemp("odd"), base=base, words=[f"w{i}" for i in range(301)])


@pytest.fixture(scope="module")
def reference(odd: tiny.Trio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "out"
    transfer(*odd.paths, out, scale=0.3, workers=1)
    tiny.assert_same(tiny.read_weights(out), tiny.expected(odd, 0.3))
    return out


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_number_of_workers_does_not_matter(odd: tiny.Trio, reference: Path, tmp_path: Path, workers: int) -> None:
    transfer(*odd.paths, tmp_path / "out", scale=0.3, workers=workers, max_memory="2GiB")
    assert tiny.outcome(tmp_path / "out") == tiny.outcome(reference)


@pytest.mark.parametrize("blocks", [1, 3, 4, 16, 64])
def test_the_size_of_pieces_does_not_matter(
    odd: tiny.Trio, reference: Path, tmp_path: Path, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = blocks * budgets.BLOCK
    monkeypatch.setattr(running_module, "budget", lambda *_: budgets.Budget(2, piece, 0, 0))
    transfer(*odd.paths, tmp_path / "out", scale=0.3)
    assert tiny.outcome(tmp_path / "out") == tiny.outcome(reference)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_stochastic_rounding_too_is_the_same_for_any_pieces_and_workers_and_another_for_another_seed(
    odd: tiny.Trio, tmp_path: Path, rounding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, (workers, blocks) in enumerate([(1, 64), (3, 1), (2, 3)]):
        monkeypatch.setattr(
            running_module, "budget", lambda *_, w=workers, b=blocks: budgets.Budget(w, b * budgets.BLOCK, 0, 0)
        )
        transfer(*odd.paths, tmp_path / str(number), scale=0.3, rounding=rounding, seed=5)
        found.append(weights(tmp_path / str(number)))
    assert found[0] == found[1] == found[2]
    transfer(*odd.paths, tmp_path / "other", scale=0.3, rounding=rounding, seed=6)
    assert (weights(tmp_path / "other") == found[0]) == (rounding == "nearest")


def test_stochastic_rounding_is_near_the_sum_and_right_on_average(tmp_path: Path) -> None:
    base = {"model.norm.weight": torch.ones(60_000, dtype=torch.bfloat16)}
    tuned = {"model.norm.weight": torch.full((60_000,), 1.0 + 2**-7, dtype=torch.bfloat16)}
    made = tiny.trio(tmp_path, base=base, tuned=tuned, target={"model.norm.weight": 2 * base["model.norm.weight"]})
    transfer(*made.paths, tmp_path / "out", rounding="stochastic", scale=0.5)  # 2 + 2⁻⁸; neighbours 2, 2 + 2⁻⁶
    found = tiny.read_weights(tmp_path / "out")["model.norm.weight"].float()
    assert set(found.tolist()) == {2.0, 2 + 2**-6}
    ups = int((found > 2).sum())
    assert abs(ups - 15_000) < 6 * (60_000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("shards", [(1, 1, 1), (2, 1, 3), (3, 4, 2)])
@pytest.mark.parametrize("size", ["5GB", "3KB", "1"])
def test_neither_the_shards_of_the_inputs_nor_those_of_the_output_matter(
    tmp_path: Path, shards: tuple[int, int, int], size: str
) -> None:
    made = tiny.trio(tmp_path, shards=shards)
    transfer(*made.paths, tmp_path / "out", shard_size=size)
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.expected(made))
    digests = {name: entry["digest"] for name, entry in by_name(tmp_path / "out").items()}
    plain = tiny.trio(tmp_path / "plain")
    transfer(*plain.paths, tmp_path / "plain" / "out")
    assert digests == {name: entry["digest"] for name, entry in by_name(tmp_path / "plain" / "out").items()}


# ---- scale, rules, dtype


def test_scale_0_changes_no_byte_and_keeps_minus_zero(tmp_path: Path) -> None:
    base = tiny.llama(1)
    target = tiny.moved(base, 3)
    target["model.norm.weight"][:4] = torch.tensor([-0.0, 0.0, -0.0, 1e-40])
    made = tiny.trio(tmp_path, base=base, target=target)
    transfer(*made.paths, tmp_path / "zero", scale=0.0)
    transfer(*made.paths, tmp_path / "minus", scale=-0.0)
    tiny.assert_same(tiny.read_weights(tmp_path / "zero"), target)
    tiny.assert_same(tiny.read_weights(tmp_path / "minus"), target)


def test_the_last_rule_that_matches_wins_and_replaces_the_scale(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    rules = ["--rule", "layers=0.5", "--rule", "norm=0", "--rule", r"^model\.norm=2", "--scale", "3"]
    assert cli(*made.flags(tmp_path / "out", *rules)).status == 0
    scales = {
        "model.embed_tokens.weight": 3.0,
        "model.layers.0.self_attn.q_proj.weight": 0.5,
        "model.layers.0.mlp.up_proj.weight": 0.5,
        "model.layers.0.input_layernorm.weight": 0.0,
        "model.norm.weight": 2.0,
        "lm_head.weight": 3.0,
    }
    parts = made.tensors
    wanted = {
        name: tiny.formula(parts["base"][name], parts["tuned"][name], parts["target"][name], scale)
        for name, scale in scales.items()
    }
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted)
    assert {name: entry["scale"] for name, entry in by_name(tmp_path / "out").items()} == scales


def test_dtype_casts_the_main_dtype_and_leaves_a_float32_router_and_the_config_says_so(
    cli: Cli, tmp_path: Path
) -> None:
    base = tiny.llama(1)
    base["model.layers.0.mlp.gate.weight"] = torch.randn(2, 8)
    made = tiny.trio(tmp_path, base=base)
    assert cli(*made.flags(tmp_path / "out", "--dtype", "float16")).status == 0
    wanted = {
        name: tiny.formula(
            made.tensors["base"][name],
            made.tensors["tuned"][name],
            value,
            dtype=torch.float32 if value.dtype == torch.float32 else torch.float16,
        )
        for name, value in made.tensors["target"].items()
    }
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted)
    assert wanted["model.layers.0.mlp.gate.weight"].dtype == torch.float32
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float16"


def test_dtype_casts_what_is_copied_as_well(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, base=tiny.llama(1, torch.float32))
    transfer(*made.paths, tmp_path / "out", scale=0.0, dtype="bfloat16")
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), {k: v.bfloat16() for k, v in made.tensors["target"].items()})


def test_overflow_on_the_way_to_a_narrower_dtype_is_named(tmp_path: Path) -> None:
    base = tiny.llama(1, torch.float32)
    target = tiny.moved(base, 3)
    target["model.norm.weight"][3] = 1e6
    made = tiny.trio(tmp_path, base=base, target=target)
    with pytest.raises(NumericsError, match=r'model\.norm\.weight.*too large for float16.*\n.*dtype="bfloat16"'):
        transfer(*made.paths, tmp_path / "out", dtype="float16")
    with pytest.raises(NumericsError, match=r"model\.norm\.weight.*1 in the output"):  # what is copied is cast as well
        transfer(*made.paths, tmp_path / "out", dtype="float16", scale=0.0)
    transfer(*made.paths, tmp_path / "out", dtype="bfloat16")


def test_infinity_that_the_target_has_is_cast_and_does_not_stop_a_run(tmp_path: Path) -> None:
    target = tiny.llama(3, torch.float32)
    target["model.norm.weight"][3] = -torch.inf
    made = tiny.trio(tmp_path, base=tiny.llama(1, torch.float32), target=target)
    transfer(*made.paths, tmp_path / "out", dtype="float16", rules=(ScaleRule("norm", 0.0),))
    found = tiny.read_weights(tmp_path / "out")["model.norm.weight"]
    tiny.assert_same({"norm": found}, {"norm": target["model.norm.weight"].half()})


# ---- shapes at the edge


def test_scalars_single_elements_and_empty_tensors_come_through(cli: Cli, tmp_path: Path) -> None:
    extra = {
        "scalar": torch.tensor(1.5),
        "one": torch.ones(1, 1, 1),
        "empty": torch.zeros(0, 3),
        "hollow": torch.zeros(2, 0, 2),
    }
    base = {**tiny.llama(1), **extra}
    made = tiny.trio(tmp_path, base=base, shards=(1, 2, 3))
    assert cli(*made.flags(tmp_path / "out", "--shard-size", "100")).status == 0
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.expected(made))
    assert cli("verify", tmp_path / "out", *made.flags(tmp_path)[1:7], "--full").status == 0


def test_equal_buffers_of_integers_and_booleans_are_the_targets(tmp_path: Path) -> None:
    base = {
        **tiny.llama(1),
        "ids": torch.arange(5),
        "mask": torch.tensor([True, False]),
        "bytes": torch.zeros(3, dtype=torch.uint8),
    }
    target = {**tiny.moved(base, 3), "ids": torch.arange(5, 10)}
    made = tiny.trio(tmp_path, base=base, target=target)
    transfer(*made.paths, tmp_path / "out")
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.expected(made))
    assert by_name(tmp_path / "out")["ids"]["fate"] == "copied"


def test_buffers_that_differ_stop_the_run_and_all_are_named(cli: Cli, tmp_path: Path) -> None:
    base = {**tiny.llama(1), "ids": torch.arange(5), "mask": torch.tensor([True, False]), "same": torch.arange(2)}
    tuned = {**tiny.moved(base, 2), "ids": torch.arange(1, 6), "mask": torch.tensor([True, True])}
    ran = cli(*tiny.trio(tmp_path, base=base, tuned=tuned).flags(tmp_path / "out"))
    assert ran.status == 1
    assert "`ids`" in ran.err and "`mask`" in ran.err and "`same`" not in ran.err
    assert not (tmp_path / "out").exists()


# ---- NaN and infinity


# ---- roles and doubts


# ---- the manifest


def test_the_manifest_tells_what_was_done_and_its_norms_are_right(cli: Cli, tmp_path: Path) -> None:
    base = {**tiny.llama(1), "old.weight": torch.ones(3, dtype=torch.bfloat16)}
    tuned = {**tiny.moved(base, 2), "old.weight": torch.tensor([1.0, 3.0, 3.0], dtype=torch.bfloat16)}
    target = {name: value for name, value in tiny.moved(base, 3).items() if name != "old.weight"}
    made = tiny.trio(tmp_path, base, tuned, target)
    assert cli(*made.flags(tmp_path / "out", "--drop", "^old", "--digest-inputs")).status == 0
    found, tensors = manifest(tmp_path / "out"), by_name(tmp_path / "out")
    assert set(found) >= {
        "format",
        "operation",
        "formula",
        "inputs",
        "decisions",
        "tensors",
        "config_differences",
        "environment",
    }
    assert [entry["role"] for entry in found["inputs"]] == ["base", "tuned", "target"]
    for entry in found["inputs"]:
        assert set(entry["tensors"]) == set(made.tensors[entry["role"]])
    assert str(tmp_path) not in json.dumps(found)
    assert tensors["old.weight"]["fate"] == "dropped"
    assert tensors["old.weight"]["norms"]["diff"] == pytest.approx(8**0.5)
    for name, value in target.items():
        entry = tensors[name]
        assert (entry["fate"], entry["shape"], entry["dtype"]) == ("transferred", list(value.shape), "BF16")
        diff = (tuned[name].float() - base[name].float()).double()
        assert entry["norms"]["diff"] == pytest.approx(float(diff.norm()), rel=1e-5)
        assert entry["norms"]["target"] == pytest.approx(float(value.double().norm()), rel=1e-5)
    measures = found["measures"]

    def flat(dimensions: tuple[int, ...]) -> dict[str, torch.Tensor]:
        names = [name for name, value in target.items() if value.ndim in dimensions]
        return {part: torch.cat([made.tensors[part][n].double().flatten() for n in names]) for part in made.tensors}

    whole = flat((1, 2))
    assert measures["diff_norm"] == pytest.approx(float((whole["tuned"] - whole["base"]).norm()), rel=1e-4)
    assert measures["shift_norm"] == pytest.approx(float((whole["target"] - whole["base"]).norm()), rel=1e-4)
    matrices = flat((2,))
    diff, drift = matrices["tuned"] - matrices["base"], matrices["target"] - matrices["base"]
    assert measures["cosine"] == pytest.approx(float(diff @ drift / diff.norm() / drift.norm()), abs=1e-4)
    assert measures["base_target_cosine"] == pytest.approx(
        float(matrices["base"] @ matrices["target"] / matrices["base"].norm() / matrices["target"].norm()), abs=1e-4
    )


def test_the_python_call_is_the_same_as_the_command(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    assert cli(*made.flags(tmp_path / "a")).status == 0
    tuneport.transfer(base=made.base, tuned=made.tuned, onto=made.target, out=tmp_path / "b")
    assert tiny.outcome(tmp_path / "a") == tiny.outcome(tmp_path / "b")


@pytest.mark.parametrize("kernel", ["numpy", ""])
def test_without_the_compiled_kernel_the_bytes_are_the_same(
    command: Cli, odd: tiny.Trio, reference: Path, tmp_path: Path, kernel: str
) -> None:
    ran = command(*odd.flags(tmp_path / "out", "--scale", "0.3"), env={"TUNEPORT_KERNEL": kernel})
    assert ran.status == 0, ran.err
    assert tiny.contents(tmp_path / "out")["model.safetensors"] == tiny.contents(reference)["model.safetensors"]
    norms = [entry["norms"]["diff"] for entry in manifest(tmp_path / "out")["tensors"]]
    assert np.allclose(norms, [entry["norms"]["diff"] for entry in manifest(reference)["tensors"]], rtol=1e-5)
