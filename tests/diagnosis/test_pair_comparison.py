"""A comparison's figures are those of whole tensors in float64; gates name what is wrong, and files of others stay."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from support import tiny_checkpoints as tiny
from support.command_results import Cli

import tuneport
from tuneport.comparison.measures import FIGURES, kind_of
from tuneport.diagnosis.pair_comparison import PairComparison, Ranking
from tuneport.errors import OutputError, TakenError, UsageError

FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def one(*given: Any, **more: Any) -> PairComparison:
    found = tuneport.compare(*given, **more)
    assert isinstance(found, PairComparison)
    return found


def gate(found: PairComparison, name: str) -> dict[str, Any]:
    gates = {each["name"]: each for each in found["gates"]}
    return dict(gates[name])


def figures(base: tiny.Tensors, tuned: tiny.Tensors, target: tiny.Tensors, names: list[str]) -> dict[str, float]:
    """The figures once more, slowly: whole vectors in float64, differences and sums rounded as a transfer rounds them."""
    work = torch.float64 if any(base[name].dtype == torch.float64 for name in names) else torch.float32
    a, b = (torch.cat([side[name].to(work).flatten() for name in names]) for side in (base, target))
    d = torch.cat([(tuned[name].to(work) - base[name].to(work)).flatten() for name in names])
    out = torch.cat(
        [
            (target[n].to(work) + (tuned[n].to(work) - base[n].to(work))).to(target[n].dtype).to(work).flatten()
            for n in names
        ]
    )
    g, error = b - a, (out - b) - d
    moves = d != 0
    a, b, d, g, error = (vector.double() for vector in (a, b, d, g, error))
    return {
        "norm_base": float(a.norm()),
        "norm_diff": float(d.norm()),
        "norm_shift": float(g.norm()),
        "relative_diff": float(d.norm() / a.norm()),
        "relative_shift": float(g.norm() / a.norm()),
        "diff_over_shift": float(d.norm() / g.norm()),
        "cosine_base_target": float(torch.cosine_similarity(a, b, dim=0)),
        "cosine_diff_shift": float(torch.cosine_similarity(d, g, dim=0)),
        "changed_share": float(moves.double().mean()),
        "opposed_share": float((d * g < 0).double().sum() / moves.sum()),
        "rounding_loss": float(error.norm() / d.norm()),
        "unchanged_share": float((moves & (out == b)).double().sum() / moves.sum()),
    }


@settings(max_examples=25)
@given(some.sampled_from(FLOATS), some.integers(0, 1000), some.integers(1, 3), some.sampled_from([0.003, 0.02, 0.3]))
def test_every_figure_is_that_of_whole_vectors(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, seed: int, shards: int, by: float
) -> None:
    base = tiny.llama(seed, dtype, hidden=24)
    made = tiny.trio(
        tmp_path_factory.mktemp("pair"), base, tiny.moved(base, seed + 1, by=by), tiny.moved(base, seed + 2, by=0.05),
        shards=(1, shards, 1),
    )  # fmt: skip
    found = one(*made.paths)
    parts = [made.tensors[role] for role in ("base", "tuned", "target")]
    vectors = [name for name, tensor in base.items() if tensor.dim() == 1]
    matrices = [name for name in base if name not in vectors]
    measures = found["measures"]
    inner = [name for name in matrices if ".layers." in name]
    assert 0 < len(inner) < len(matrices)
    named = {"matrices": matrices, "vectors": vectors, "inner": inner}
    for told, names in ((measures, list(base)), *((measures[part], of_part) for part, of_part in named.items())):
        wanted = figures(*parts, names)
        assert tuple(wanted) == FIGURES
        for name, value in wanted.items():
            assert told[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name
    for tensor in found["tensors"]:
        wanted = figures(*parts, [tensor["name"]])
        assert {name: tensor[name] for name in FIGURES} == pytest.approx(wanted, rel=2e-5, abs=2e-6)
    assert sum(tensor["parameters"] for tensor in found["tensors"]) == measures["parameters"]


def test_layers_and_kinds_are_told_apart(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    found = one(*made.paths)
    assert [(row["layer"], row["kind"]) for row in found["layers"]] == [
        (None, "lm_head.weight"),
        (None, "model.embed_tokens.weight"),
        (None, "model.norm.weight"),
        (0, "model.layers.#.input_layernorm.weight"),
        (0, "model.layers.#.mlp.up_proj.weight"),
        (0, "model.layers.#.self_attn.q_proj.weight"),
    ]
    squares = [row["norm_diff"] ** 2 for row in found["layers"]]
    assert math.sqrt(sum(squares)) == pytest.approx(found["measures"]["norm_diff"])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("model.layers.12.mlp.experts.7.up_proj.weight", (12, "model.layers.#.mlp.experts.#.up_proj.weight")),
        ("h.0.attn.c_attn.weight", (0, "h.#.attn.c_attn.weight")),
        ("conv1.weight", (None, "conv1.weight")),
        ("lm_head.weight", (None, "lm_head.weight")),
    ],
)
def test_a_layer_is_the_first_number_that_stands_alone(name: str, wanted: tuple[int | None, str]) -> None:
    assert kind_of(name) == wanted


def test_a_comparison_agrees_with_the_manifest_of_the_transfer(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, shards=(2, 1, 3))
    measures = one(*made.paths)["measures"]
    told = tuneport.transfer(*made.paths, tmp_path / "out").manifest["measures"]
    assert measures["norm_diff"] == pytest.approx(told["diff_norm"], rel=1e-12)
    assert measures["norm_shift"] == pytest.approx(told["shift_norm"], rel=1e-12)
    assert measures["rounding_loss"] == pytest.approx(told["rounding"]["error"], rel=1e-12)
    assert measures["matrices"]["cosine_diff_shift"] == pytest.approx(told["cosine"], rel=1e-9)
    assert measures["matrices"]["cosine_base_target"] == pytest.approx(told["base_target_cosine"], rel=1e-9)


def test_workers_and_memory_change_no_figure(tmp_path: Path) -> None:
    base = tiny.llama(1, hidden=300)
    made = tiny.trio(tmp_path, base)
    found = [one(*made.paths, workers=workers).to_dict() for workers in (1, 4)]
    assert found[0]["measures"] == found[1]["measures"]


def test_an_adapter_is_measured_as_the_model_that_it_makes(tmp_path: Path) -> None:
    base = tiny.llama(1, torch.float32)
    target = tiny.moved(base, 3, by=0.05)
    paths = tiny.write_model(tmp_path / "base", base), tiny.write_model(tmp_path / "target", target)
    adapter = tiny.write_lora(tmp_path / "adapter", base, rank=2)
    tuneport.transfer(paths[0], adapter, paths[0], tmp_path / "whole")
    by_adapter, by_whole = one(paths[0], adapter, paths[1]), one(paths[0], tmp_path / "whole", paths[1])
    for name in ("norm_base", "norm_diff", "norm_shift", "cosine_diff_shift", "cosine_base_target", "opposed_share"):
        assert by_adapter["measures"][name] == pytest.approx(by_whole["measures"][name], rel=1e-4), name


def test_rows_meet_by_token_and_lost_tokens_are_a_gate(tmp_path: Path) -> None:
    base, words = tiny.llama(1), [f"w{index}" for index in range(24)]
    tuned, target = tiny.moved(base, 2), tiny.moved(base, 3, by=0.05)
    there = [word for word in reversed(words) if word not in ("w3", "w4")] + ["n0", "n1"]
    order = [words.index(word) if word in words else None for word in there]
    renumbered = {
        name: torch.stack([tensor[place] if place is not None else torch.ones(8).bfloat16() for place in order])
        if len(tensor) == 24 and tensor.dim() == 2 and "proj" not in name
        else tensor
        for name, tensor in target.items()
    }
    found = one(
        tiny.write_model(tmp_path / "base", base),
        tiny.write_model(tmp_path / "tuned", tuned),
        tiny.write_model(tmp_path / "target", renumbered, words=there),
    )
    embedding = next(t for t in found["tensors"] if t["name"] == "model.embed_tokens.weight")
    kept = [place for place, word in enumerate(words) if word not in ("w3", "w4")]
    cut = [{"e": side["model.embed_tokens.weight"][kept]} for side in (base, tuned, target)]
    wanted = figures(*cut, ["e"])
    assert {name: embedding[name] for name in FIGURES} == pytest.approx(wanted, rel=2e-5, abs=2e-6)
    told = gate(found, "tokens")
    assert told["status"] == "warn"
    lost = [
        side[name][[3, 4]].double()
        for name in ("model.embed_tokens.weight", "lm_head.weight")
        for side in (base, tuned)
    ]
    norm = math.hypot(*(float((after - before).norm()) for before, after in (lost[:2], lost[2:])))
    assert told["value"] == pytest.approx(norm / math.hypot(norm, found["measures"]["norm_diff"]), rel=1e-3)


def test_a_stored_diff_vector_has_no_base_beside_it(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    tuneport.diff(made.base, made.tuned, tmp_path / "diff")
    stored, taken = one(onto=made.target, diffs=tmp_path / "diff"), one(*made.paths)
    assert stored["measures"]["norm_diff"] == pytest.approx(taken["measures"]["norm_diff"], rel=1e-6)
    assert stored["measures"]["rounding_loss"] == pytest.approx(taken["measures"]["rounding_loss"], rel=1e-6)
    assert stored["measures"]["norm_base"] is None
    assert stored["measures"]["relative_shift"] is None
    assert gate(stored, "strangers")["status"] == "pass"


# ---- gates, ranking


def test_a_stranger_is_unlikely_and_the_gate_says_so(tmp_path: Path) -> None:
    base = tiny.llama(1, hidden=48)
    made = tiny.trio(tmp_path, base, target=tiny.llama(9, hidden=48))
    found = one(*made.paths)
    assert gate(found, "strangers")["status"] == "fail"
    assert found["verdict"]["word"] == "unlikely"
    assert found["verdict"]["reasons"][0].startswith("strangers:")


def test_swapped_roles_fail_their_gate(tmp_path: Path) -> None:
    base = tiny.llama(1, torch.float32, hidden=48)
    made = tiny.trio(tmp_path, base, tiny.moved(base, 2, by=0.1), tiny.moved(base, 3, by=0.1))
    found = one(made.tuned, made.base, made.target)
    assert gate(found, "roles")["status"] == "fail"
    assert found["verdict"]["word"] == "unlikely"


def test_a_difference_that_rounding_takes_fails_its_gate_and_names_the_remedy(tmp_path: Path) -> None:
    base = tiny.llama(1, torch.float32, hidden=48)
    target = {name: tensor.bfloat16() for name, tensor in tiny.moved(base, 3, by=0.05).items()}
    made = tiny.trio(tmp_path, base, tiny.moved(base, 2, by=1e-4), target)
    told = gate(one(*made.paths), "rounding")
    assert told["status"] == "fail"
    assert told["value"] > told["threshold"]
    assert "--dtype float32" in told["reason"] or "dtype" in told["reason"]
    assert gate(one(*made.paths, dtype="float32"), "rounding")["status"] == "pass"


def test_what_a_transfer_would_refuse_fails_a_gate_and_the_weights_are_measured_all_the_same(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    tuned = json.loads((made.tuned / "config.json").read_text())
    (made.tuned / "config.json").write_text(json.dumps({**tuned, "rms_norm_eps": 0.5}))
    found = one(*made.paths)
    assert gate(found, "files")["status"] == "fail"
    assert "rms_norm_eps" in gate(found, "files")["reason"]
    assert found["measures"]["norm_diff"] > 0


def test_no_difference_at_all_fails_its_gate(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, tuned=tiny.llama(1))
    assert gate(one(*made.paths), "difference")["status"] == "fail"


def test_several_targets_are_ranked_the_nearest_first_and_strangers_last(tmp_path: Path) -> None:
    base = tiny.llama(1, hidden=48)
    made = tiny.trio(tmp_path, base, target=tiny.moved(base, 3, by=0.2))
    near = tiny.write_model(tmp_path / "near", tiny.moved(base, 4, by=0.03))
    stranger = tiny.write_model(tmp_path / "stranger", tiny.llama(9, hidden=48))
    found = tuneport.compare(made.base, made.tuned, [stranger, made.target, near])
    assert isinstance(found, Ranking)
    assert [each["inputs"][-1]["name"] for each in found] == ["near", "target", "stranger"]


def test_the_targets_own_fine_tuning_is_compared_entry_by_entry(tmp_path: Path) -> None:
    base = tiny.llama(1, torch.float32)
    made = tiny.trio(tmp_path, base)
    own = tiny.moved(made.tensors["target"], 5, by=0.03)
    found = one(*made.paths, tuned_target=tiny.write_model(tmp_path / "own", own))["tuned_target"]
    parts = made.tensors
    d = torch.cat([(parts["tuned"][name] - base[name]).flatten() for name in base]).double()
    other = torch.cat([(own[name] - parts["target"][name]).flatten() for name in base]).double()
    assert found["cosine_diffs"] == pytest.approx(float(torch.cosine_similarity(d, other, dim=0)), abs=1e-5)
    assert found["sign_agreement"] == pytest.approx(float((d * other > 0).double().mean()), abs=1e-3)


def test_spectra_are_those_of_numpy_on_whole_matrices(tmp_path: Path) -> None:
    base = tiny.llama(1, torch.float32, hidden=40)
    made = tiny.trio(tmp_path, base)
    found = one(*made.paths, spectrum=True)
    name = "model.layers.0.mlp.up_proj.weight"
    told = next(t for t in found["tensors"] if t["name"] == name)["spectrum"]
    values = torch.linalg.svdvals((made.tensors["tuned"][name] - base[name]).double())
    assert told["singular_values"] == pytest.approx(values[:8].tolist(), rel=0.08)
    assert told["effective_rank"] == pytest.approx(float((values**2).sum() ** 2 / (values**4).sum()), rel=0.15)


# ---- the command, its file, wrong calls


def test_the_file_is_what_is_returned_and_a_second_run_needs_leave_to_replace_it(tmp_path: Path, cli: Cli) -> None:
    made = tiny.trio(tmp_path)
    flags = ["compare", *made.flags(tmp_path / "x")[1:-2], "--out", str(tmp_path / "found.json")]
    ran = cli(*flags)
    assert ran.status == 0
    assert "verdict: uncertain" in ran.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["format"] == "tuneport.compare/1"
    assert found["measures"] == json.loads(json.dumps(one(*made.paths)["measures"]))
    assert cli(*flags).status == 1
    assert cli(*flags, "--overwrite").status == 0


@pytest.mark.parametrize("content", ["mine", "[]", '{"format": "another/1"}'])
def test_a_file_of_others_is_never_replaced(tmp_path: Path, content: str) -> None:
    made = tiny.trio(tmp_path)
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(TakenError):
        tuneport.compare(*made.paths, tmp_path / "mine.json", overwrite=True)
    assert (tmp_path / "mine.json").read_text() == content


def test_a_missing_folder_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        tuneport.compare("a", "b", "c", tmp_path / "none" / "found.json")


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"base": "a", "tuned": "b"}, "onto"),
        ({"base": "a", "onto": "c"}, "tuned"),
        ({"base": "a", "onto": "c", "diffs": "d"}, "diffs"),
        ({"onto": "c", "diffs": "d", "tuned_target": "e"}, "tuned_target"),
        ({"onto": {"a": 1}, "base": "a", "tuned": "b"}, "onto"),
    ],
)
def test_options_that_do_not_go_together_are_named(given: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as raised:
        tuneport.compare(**given)
    assert option in [fault.option for fault in raised.value.faults]
