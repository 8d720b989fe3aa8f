"""The rope of a config: one value in every spelling, and read back as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.saved_configs import differing, saved_by_transformers

from sidecars.test_config import LLAMA3
from tuneport.errors import CheckpointError
from tuneport.sidecars.config import resolve
from tuneport.sidecars.config_kinds import entry_of
from tuneport.sidecars.rope import ROPE, computes_from_length, rope_of, spell_rope


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "mistral", "gemma3_text", "cohere", "granite", "smollm3"])
def test_scaled_rope_is_one_value_in_both_spellings(model_type: str, tmp_path: Path) -> None:
    config = {"model_type": model_type, "num_hidden_layers": 4, "rope_theta": 500000.0, "rope_scaling": LLAMA3}
    saved = saved_by_transformers(config, tmp_path)
    assert ROPE in saved and "rope_scaling" not in saved
    assert differing(config, saved) == ["transformers_version"]
    assert "rope_parameters" in differing(config, {**config, "rope_theta": 10000.0})
    assert "rope_parameters" in differing(config, {**config, "rope_scaling": None})


def test_earlier_names_of_a_rope_kind_are_the_same_kind() -> None:
    old = {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000}}
    assert differing(old, new) == []


def test_positions_are_counted_from_the_models_length_by_some_ropes_alone() -> None:
    def rope(**scaling: Any) -> Any:
        return resolve({"model_type": "llama", "rope_scaling": scaling or None}).values[ROPE]

    assert not computes_from_length(rope())
    assert not computes_from_length(rope(**LLAMA3))
    assert computes_from_length(rope(rope_type="dynamic", factor=2.0))
    assert computes_from_length(rope(rope_type="yarn", original_max_position_embeddings=2048))
    assert not computes_from_length(rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=2048))
    assert not computes_from_length(None)


ROPES = st.builds(
    lambda theta, scaling, partial: {
        "rope_theta": theta,
        "rope_scaling": scaling,
        "partial_rotary_factor": partial,
    },
    st.sampled_from([10000.0, 500000.0, 1e6]),
    st.sampled_from([None, LLAMA3, {"rope_type": "linear", "factor": 4.0}, {"type": "dynamic", "factor": 2.0}]),
    st.sampled_from([0.5, 1.0]),
)


@given(ROPES, ROPES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_rope_written_in_the_targets_spelling_reads_back_the_same(
    theirs: dict[str, Any], target: dict[str, Any], modern: bool
) -> None:
    default = entry_of("llama")["rope"]
    wanted = rope_of(theirs, default)
    here: dict[str, Any] = {ROPE: rope_of(target, default)} if modern else dict(target)
    spelled = {**here, **spell_rope(wanted, here)}
    assert ({"rope_theta", "rope_scaling"} & spelled.keys() == set()) is modern
    assert rope_of({name: value for name, value in spelled.items() if value is not None}, default) == wanted


def test_gemma_3s_two_ropes_are_spelled_the_old_way_where_the_target_is() -> None:
    default = entry_of("gemma3_text")["rope"]
    old = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    rope = rope_of(old, default)
    assert rope is not None and rope["sliding_attention"] == {"rope_theta": 1e4, "rope_type": "default"}
    assert rope["full_attention"]["factor"] == 8.0
    assert rope_of({**old, **spell_rope(rope, old)}, default) == rope


@pytest.mark.parametrize("rope", [{"rope_scaling": "yarn"}, {"rope_parameters": [1]}])
def test_a_rope_that_is_no_object_is_an_error(rope: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="must be an object or null"):
        resolve({"model_type": "llama", **rope})
