"""Shards, headers and index are as the official library and transformers expect them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.output.shards import lay_out

tensors = st.lists(
    st.tuples(
        st.text("ab.é", min_size=1, max_size=6),
        st.sampled_from(sorted(DTYPES)),
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
    ),
    max_size=8,
    unique_by=lambda tensor: tensor[0],
)


@given(tensors, st.integers(1, 200))
def test_every_file_of_a_layout_is_read_by_the_official_reader(
    made: list[tuple[str, str, tuple[int, ...]]], limit: int
) -> None:
    layout = lay_out(made, limit)
    found = {}
    for file, header in layout.headers.items():
        content = header + bytes(layout.sizes[file] - len(header))
        for name, info in deserialize(content):
            found[name] = (info["dtype"], tuple(info["shape"]))
            slot = layout.slots[name]
            assert slot.file == file
            assert slot.offset % DTYPES[slot.dtype].itemsize == 0, "a tensor begins at a multiple of its element size"
    assert found == {name: (dtype, shape) for name, dtype, shape in made}


@given(tensors, st.integers(1, 200))
def test_a_shard_keeps_to_the_limit_unless_one_tensor_alone_is_larger(
    made: list[tuple[str, str, tuple[int, ...]]], limit: int
) -> None:
    layout = lay_out(made, limit)
    for file in layout.sizes:
        inside = [slot for slot in layout.slots.values() if slot.file == file]
        if sum(slot.nbytes for slot in inside) > limit:
            assert sum(slot.nbytes > 0 for slot in inside) == 1


def test_one_shard_is_called_model_and_has_no_index() -> None:
    layout = lay_out([("a", "F32", (2,))], 100)
    assert list(layout.sizes) == ["model.safetensors"]
    assert layout.index is None


def test_several_shards_are_numbered_and_the_index_names_every_tensor() -> None:
    layout = lay_out([("a", "F32", (2,)), ("b", "BF16", (3,)), ("c", "F32", (1,))], 8)
    assert list(layout.sizes) == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert layout.index_name == "model.safetensors.index.json"
    index = json.loads(layout.index or b"")
    assert index["metadata"] == {"total_size": 8 + 6 + 4}
    assert index["weight_map"] == {name: slot.file for name, slot in layout.slots.items()}
