"""Distances, cosines and what rounding loses, against the same sums in torch on whole tensors in float64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from support import tiny_checkpoints as tiny

from tuneport.comparison.distances import distances, lost_by_rounding
from tuneport.errors import NumericsError, PairingError, UsageError


def flat(tensors: tiny.Tensors) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_norms_and_cosines_are_those_of_whole_vectors(tmp_path: Path, dtype: torch.dtype) -> None:
    versions = {f"M{i}": tiny.moved(tiny.llama(0, dtype, hidden=96), i, by=0.1) for i in range(3)}
    tuned = {name: tiny.moved(tensors, 7 + i) for i, (name, tensors) in enumerate(list(versions.items())[:2])}
    found = distances(
        {name: tiny.write_model(tmp_path / name, t, shards=1 + i) for i, (name, t) in enumerate(versions.items())},
        {name: tiny.write_model(tmp_path / f"tuned-{name}", tensors) for name, tensors in tuned.items()},
    )
    vectors = {name: flat(tensors) for name, tensors in versions.items()}
    diffs = {name: flat(tuned[name]) - vectors[name] for name in tuned}
    for name, told in found["versions"].items():
        assert told["norm"] == pytest.approx(float(vectors[name].norm()), rel=1e-6)
        wanted = pytest.approx(float(diffs[name].norm()), rel=1e-6) if name in diffs else None
        assert told["diff_norm"] == wanted
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("M0", "M1"), ("M0", "M2"), ("M1", "M2")]
    for pair in found["pairs"]:
        a, b = pair["a"], pair["b"]
        assert pair["distance"] == pytest.approx(float((vectors[a] - vectors[b]).norm()), rel=1e-6)
        if pair["cosine"] is not None:
            assert pair["cosine"] == pytest.approx(float(torch.cosine_similarity(diffs[a], diffs[b], dim=0)), abs=1e-6)
    assert [pair["cosine"] is None for pair in found["pairs"]] == [False, True, True]
    assert (found["parameters"], found["alone"], found["tokens"]) == (len(vectors["M0"]), [], None)


@settings(max_examples=20)
@given(some.permutations([*tiny.WORDS, "inserted"]))
def test_a_renumbered_vocabulary_changes_no_distance(tmp_path: Path, words: list[str]) -> None:
    base, other = tiny.llama(0), tiny.llama(1)
    renumbered = dict(other)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = [other[name][tiny.WORDS.index(word)] if word in tiny.WORDS else torch.zeros(8) for word in words]
        renumbered[name] = torch.stack(rows).bfloat16()
    found = distances(
        {"a": tiny.write_model(tmp_path / "a", base), "b": tiny.write_model(tmp_path / "b", renumbered, words=words)}
    )
    assert found["pairs"][0]["distance"] == pytest.approx(float((flat(base) - flat(other)).norm()), rel=1e-6)
    assert found["tokens"] == {"shared": 24, "others": [0, 1]}


def test_a_model_is_no_distance_from_itself_and_no_diff_has_no_angle(tmp_path: Path) -> None:
    path = tiny.write_model(tmp_path / "a", tiny.llama(0))
    found = distances({"a": path, "b": path}, {"a": path, "b": path})
    assert found["pairs"] == [{"a": "a", "b": "b", "distance": 0.0, "cosine": None}]


def test_rounding_a_small_change_loses_what_torch_says_it_loses(tmp_path: Path) -> None:
    base = tiny.llama(0, torch.float32, hidden=64)
    tuned = tiny.moved(base, 5, by=1e-3)
    paths = tiny.write_model(tmp_path / "base", base), tiny.write_model(tmp_path / "tuned", tuned)
    found = lost_by_rounding(*paths, "bfloat16")
    before, after = flat(base), flat(tuned)
    kept = flat({name: tensor.bfloat16() for name, tensor in tuned.items()})
    assert found["diff_norm"] == pytest.approx(float((after - before).norm()), rel=1e-9)
    assert found["lost_norm"] == pytest.approx(float((kept - after).norm()), rel=1e-9)
    assert found["share_lost"] == pytest.approx(found["lost_norm"] / found["diff_norm"])
    assert found["share_lost"] > 0.5
    assert found["changed"] == int((after != before).sum())
    nothing = lost_by_rounding(*paths, "float32")
    assert (nothing["lost_norm"], nothing["vanished"]) == (0.0, 0)


def test_elements_that_round_back_to_a_bfloat16_base_are_counted(tmp_path: Path) -> None:
    base = {name: tensor.bfloat16().float() for name, tensor in tiny.llama(0, torch.float32).items()}
    tuned = tiny.moved(base, 5, by=1e-3)
    found = lost_by_rounding(
        tiny.write_model(tmp_path / "base", base), tiny.write_model(tmp_path / "tuned", tuned), "bfloat16"
    )
    before, after = flat(base), flat(tuned)
    kept = flat({name: tensor.bfloat16() for name, tensor in tuned.items()})
    assert found["vanished"] == int(((after != before) & (kept == before)).sum())
    assert 0 < found["vanished"] < found["changed"]


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    good = tiny.llama(0)
    bad = tiny.llama(1)
    bad["model.norm.weight"][3] = float("nan")
    a, b = tiny.write_model(tmp_path / "a", good), tiny.write_model(tmp_path / "b", bad)
    with pytest.raises(NumericsError, match="NaN or infinity"):
        distances({"a": a, "b": b})
    with pytest.raises(NumericsError, match="NaN"):
        lost_by_rounding(a, b, "bfloat16")
    with pytest.raises(UsageError, match="int8"):
        lost_by_rounding(a, a, "int8")
    with pytest.raises(UsageError, match="M9"):
        distances({"a": a}, {"M9": a})
    with pytest.raises(PairingError, match="adapter"):
        distances({"a": a, "l": tiny.write_lora(tmp_path / "l", good, 2)})


def test_it_takes_no_torch(tmp_path: Path) -> None:
    a, b = (str(tiny.write_model(tmp_path / str(seed), tiny.llama(seed))) for seed in range(2))
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from tuneport.comparison.distances import distances, lost_by_rounding\n"
        f"distances({{'a': {a!r}, 'b': {b!r}}}, {{'a': {b!r}}}); lost_by_rounding({a!r}, {b!r}, 'bf16')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
