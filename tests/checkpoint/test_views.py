"""A view of stored tensors reads, from any element to any other, what numpy makes of the same arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tuneport.checkpoint import views
from tuneport.checkpoint.views import UnviewableError, read_view, stored_name
from tuneport.checkpoint.weights import StoredTensor

Array = NDArray[np.uint16]


@dataclass
class Shelf:
    """Tensors in one file, in memory: what is stored, and a reader of byte ranges."""

    content: bytes = b""
    reads: int = 0

    def put(self, name: str, array: Array) -> StoredTensor:
        offset = len(self.content)
        self.content += array.tobytes()
        return StoredTensor(name, "BF16", array.shape, "file", offset, array.nbytes)

    def read(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        self.reads += 1
        begin = tensor.offset + start
        assert begin + len(buffer) <= len(self.content)
        buffer[:] = self.content[begin : begin + len(buffer)]


def counted(shape: tuple[int, ...], start: int = 0) -> Array:
    return (np.arange(int(np.prod(shape)), dtype=np.uint16) + start).reshape(shape)


def elements(shelf: Shelf, tensor: StoredTensor, first: int, last: int) -> Array:
    buffer = bytearray(2 * (last - first))
    read_view(tensor, 2 * first, memoryview(buffer), shelf.read)
    return np.frombuffer(buffer, np.uint16)


@st.composite
def viewed(draw: st.DrawFn) -> tuple[Shelf, StoredTensor, Array]:
    """A tensor of up to three dimensions, cut, turned and joined at random; and the same in numpy."""
    shelf = Shelf()
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    array = counted(shape)
    tensor = shelf.put("t", array)
    for number in range(draw(st.integers(0, 4))):
        how = draw(st.sampled_from(["narrow", "turn", "join", "stack", "select", "shuffle"]))
        dim = draw(st.integers(0, array.ndim - 1)) if array.ndim else 0
        try:
            if how == "narrow" and array.ndim:
                start = draw(st.integers(0, array.shape[dim] - 1))
                length = draw(st.integers(1, array.shape[dim] - start))
                tensor = views.narrowed(tensor, dim, start, length)
                array = array.take(range(start, start + length), axis=dim)
            elif how == "turn" and array.ndim > 1:
                other = draw(st.integers(0, array.ndim - 1))
                tensor, array = views.transposed(tensor, dim, other), array.swapaxes(dim, other)
            elif how in ("join", "stack") and array.ndim:
                beside = counted(array.shape, 1000 * (number + 1))
                second = shelf.put(f"u{number}", beside)
                if how == "join":
                    tensor, array = views.joined([tensor, second], dim), np.concatenate([array, beside], dim)
                else:
                    tensor, array = views.stacked([second, tensor]), np.stack([beside, array])
            elif how == "select" and array.ndim > 1:
                place = draw(st.integers(0, array.shape[0] - 1))
                tensor, array = views.selected(tensor, place), array[place]
            elif how == "shuffle" and array.ndim and array.shape[dim] % 2 == 0:
                half = array.shape[dim] // 2
                tensor = views.shuffled(tensor, dim, (1, half, 2))
                cut = array.reshape(*array.shape[:dim], half, 2, *array.shape[dim + 1 :])
                array = cut.swapaxes(dim, dim + 1).reshape(array.shape)
        except UnviewableError:
            assert how != "join"  # what cannot be viewed is refused, not read otherwise
    return shelf, tensor, array


@settings(max_examples=100)
@given(viewed(), st.data())
def test_any_range_of_a_view_is_numpys(made: tuple[Shelf, StoredTensor, Array], data: st.DataObject) -> None:
    shelf, tensor, array = made
    assert tensor.shape == array.shape and tensor.nbytes == array.nbytes
    flat = array.reshape(-1)
    first = data.draw(st.integers(0, flat.size))
    last = data.draw(st.integers(first, flat.size))
    assert (elements(shelf, tensor, first, last) == flat[first:last]).all()
    if tensor.in_one_piece:
        begin = tensor.offset
        assert shelf.content[begin : begin + tensor.nbytes] == array.tobytes()


def test_slices_along_the_first_dimensions_stay_byte_ranges() -> None:
    shelf = Shelf()
    fused = shelf.put("experts.gate_up_proj", counted((4, 6, 5)))
    gate = views.narrowed(views.selected(fused, 2), 0, 0, 3)
    assert gate.in_one_piece and (gate.shape, gate.offset, gate.nbytes) == ((3, 5), 2 * 60, 2 * 15)
    assert stored_name(views.renamed(gate, "experts.2.gate_proj.weight")) == "experts.gate_up_proj"


def test_a_turned_tensor_is_read_in_slabs_not_element_by_element(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    turned = views.transposed(shelf.put("t", counted((2, 30, 40))), 1, 2)
    wanted = counted((2, 30, 40)).swapaxes(1, 2).reshape(-1)
    assert (elements(shelf, turned, 0, 2400) == wanted).all()
    assert shelf.reads == 2 * 30
    monkeypatch.setattr(views, "_SLAB", 2 * 30 * 7)  # seven rows at a time
    assert (elements(shelf, turned, 11, 2399) == wanted[11:2399]).all()


def test_every_nth_element_is_read_with_what_lies_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factors of one expert among those of all, which lie side by side."""
    shelf = Shelf()
    sides = views.reshaped(shelf.put("B", counted((30, 8 * 5))), (30, 8, 5))
    one = views.transposed(views.selected(views.transposed(sides, 0, 2), 3), 0, 1)
    wanted = counted((30, 8, 5))[:, :, 3].reshape(-1)
    assert (elements(shelf, one, 0, 240) == wanted).all()
    assert shelf.reads == 1
    monkeypatch.setattr(views, "_SLAB", 2 * 5 * 7)  # seven elements at a time
    assert (elements(shelf, one, 11, 239) == wanted[11:239]).all()


def test_tensors_of_other_dtypes_or_shapes_are_not_joined() -> None:
    shelf = Shelf()
    one, other = shelf.put("one", counted((2, 3))), shelf.put("other", counted((2, 4)))
    with pytest.raises(UnviewableError):
        views.joined([one, other], 0)
    assert views.joined([one, other], 1).shape == (2, 7)
    with pytest.raises(UnviewableError):
        views.narrowed(one, 0, 1, 2)


def test_gate_and_up_that_alternate_are_taken_apart_and_put_together() -> None:
    shelf = Shelf()
    gate, up = counted((3, 4, 5)), counted((3, 4, 5), 100)
    alternating = np.stack([gate, up], 2).reshape(3, 8, 5)
    halves = views.shuffled(shelf.put("w13", alternating), 1, (1, 4, 2))
    for start, wanted in ((0, gate), (4, up)):
        part = views.narrowed(halves, 1, start, 4)
        assert (elements(shelf, part, 0, 60) == wanted.reshape(-1)).all()
    with pytest.raises(UnviewableError):
        views.narrowed(halves, 1, 3, 2)
    both = views.joined([shelf.put("gate", gate), shelf.put("up", up)], 1)
    again = views.shuffled(both, 1, (1, 2, 4))
    assert again.shape == (3, 8, 5) and (elements(shelf, again, 7, 113) == alternating.reshape(-1)[7:113]).all()
