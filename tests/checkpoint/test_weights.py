"""Which weights count, and hostile indexes: no path leaves the folder, no fault but in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import tiny_checkpoints as tiny

from tuneport.checkpoint.local_folder import open_folder
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.weight_sets import INDEX, choose_weights
from tuneport.errors import CheckpointError

ONE = {"a": torch.ones(2), "b": torch.zeros(3)}


def no_index(name: str) -> bytes:
    raise AssertionError(f"{name} is read though it does not count")


def choose(names: list[str], index: Mapping[str, Any] | bytes | None = None) -> tuple[str, ...]:
    content = index if isinstance(index, bytes) else json.dumps(index).encode()
    return choose_weights(names, no_index if index is None else lambda name: content, "base m").files


def test_what_the_index_names_counts_and_nothing_else() -> None:
    names = [INDEX, "model.safetensors", "consolidated.safetensors", "m-1.safetensors", "m-2.safetensors"]
    assert choose(names, {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}) == (
        "m-1.safetensors",
        "m-2.safetensors",
    )


def test_without_an_index_the_file_called_model_counts() -> None:
    assert choose(["model.safetensors", "consolidated.safetensors", "optimizer.safetensors"]) == ("model.safetensors",)


def test_the_only_safetensors_file_counts_whatever_it_is_called() -> None:
    assert choose(["weights.safetensors", "config.json"]) == ("weights.safetensors",)


def test_several_files_without_an_index_are_listed_and_refused() -> None:
    with pytest.raises(CheckpointError, match=r"(?s)2 safetensors files.*x\.safetensors.*y\.safetensors"):
        choose(["x.safetensors", "y.safetensors"])


def test_an_empty_folder_says_what_was_looked_for() -> None:
    with pytest.raises(CheckpointError, match=r"(?s)no weights.*model\.safetensors"):
        choose([])


def test_an_adapter_is_named_as_what_it_is() -> None:
    chosen = choose_weights(["adapter_config.json", "adapter_model.safetensors"], no_index, "base m")
    assert chosen.adapter and chosen.files == ("adapter_model.safetensors",)
    with pytest.raises(CheckpointError, match=r"adapter without adapter_model\.safetensors"):
        choose(["adapter_config.json", "other.safetensors"])


@pytest.mark.parametrize(
    "file",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "..\\x.safetensors",
        ".x.safetensors",
        "x.bin",
        "",
        7,
        None,
        ["x"],
        {},
    ],
)
def test_an_index_that_leaves_its_folder_is_refused(file: object) -> None:
    with pytest.raises(CheckpointError):
        choose([INDEX, "x.safetensors", "x.bin"], {"weight_map": {"a": file}})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="no map"),
        pytest.param(b'{"weight_map": {}}', id="an empty map"),
        pytest.param(b'{"weight_map": []}', id="a list as map"),
        pytest.param(b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', id="a tensor twice"),
        pytest.param(b"[" * 200_000, id="deep"),
        pytest.param(b'{"weight_map":' * 50_000, id="deep maps"),
        pytest.param(
            b'{"metadata": {"total_size": ' + b"9" * 6000 + b'}, "weight_map": {"a": "z.safetensors"}}',
            id="6000 digits",
        ),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
    ],
)
def test_a_damaged_index_ends_in_words(content: bytes) -> None:
    with pytest.raises(CheckpointError):
        choose([INDEX, "x.safetensors", "y.safetensors"], content)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["m.safetensors", "../m.safetensors"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["weight_map", "a", "b", "metadata"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.hostile
@given(json_values)
def test_any_index_is_followed_inside_the_folder_or_refused(tmp_path: Path, value: Any) -> None:
    save_file(ONE, tmp_path / "m.safetensors")
    (tmp_path / INDEX).write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
    try:
        found = open_folder(tmp_path, "base")
    except CheckpointError:
        return
    assert value["weight_map"] == {"a": "m.safetensors", "b": "m.safetensors"}
    assert set(found.tensors) == {"a", "b"}


def test_index_and_files_must_tell_the_same_story_and_every_lie_is_listed(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "x.safetensors")
    save_file({"b": torch.ones(1), "c": torch.ones(1)}, tmp_path / "y.safetensors")
    index = {"weight_map": {"a": "y.safetensors", "b": "x.safetensors", "ghost": "x.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path, "base")
    told = str(caught.value)
    for lie in ("`b` is in x.safetensors and in y.safetensors", "`ghost`", "`a`", "`c`"):
        assert lie in told


def test_a_file_that_the_index_names_but_is_missing_is_named(tmp_path: Path) -> None:
    tiny.write_weights(tmp_path, ONE, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        open_checkpoint(tmp_path, "base")
