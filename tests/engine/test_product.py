"""A product of factors is the same, bit for bit, however it is cut, and whichever kernel forms it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tuneport.checkpoint import floats
from tuneport.checkpoint.adapter import Alike, LowRank
from tuneport.checkpoint.reading import Workspace
from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine import arithmetic, kernel, product

Array = NDArray[Any]


class Memory:
    """A reader of tensors that lie in memory; it counts what is asked of it."""

    def __init__(self, *matrices: tuple[str, str, Array]) -> None:
        self.contents = {name: bits.tobytes() for name, _, bits in matrices}
        self.tensors = {
            name: StoredTensor(name, dtype, bits.shape, name, 0, bits.nbytes) for name, dtype, bits in matrices
        }
        self.reads = 0

    def read_into(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        self.reads += 1
        content = self.contents[tensor.name][start : start + len(buffer)]
        assert len(content) == len(buffer), "read past the end"
        buffer[:] = content

    def check_unchanged(self) -> None: ...

    def close(self) -> None: ...


def numbers(shape: tuple[int, int], dtype: str, seed: int) -> Array:
    made = np.random.default_rng(seed)
    return kernel.narrow((made.standard_normal(shape) * 10.0 ** made.integers(-3, 4, shape)).astype(np.float32), dtype)


def slow(a: Array, b: Array, scaling: float, work: Any) -> Array:
    """The definition, with numpy's scalars: float32 after float32."""
    out = np.empty((b.shape[0], a.shape[1]), work)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = b[i, 0] * a[0, j]
            for k in range(1, a.shape[0]):
                total = total + b[i, k] * a[k, j]
            out[i, j] = total * work(scaling)
    return out


cases = st.tuples(
    st.integers(1, 9), st.integers(1, 70), st.integers(1, 7),
    st.sampled_from(["BF16", "F32", "F16", "F64"]), st.sampled_from(["BF16", "F32", "F16"]),
    st.booleans(), st.integers(0, 2**32), st.sampled_from([1.0, 0.3, 16.0, 8 / 3]),
)  # fmt: skip


@settings(max_examples=150)
@given(cases, st.data())
def test_any_range_in_any_tiles_is_the_definition(case: tuple[Any, ...], data: st.DataObject) -> None:
    rows, columns, rank, dtype_a, dtype_b, transposed, seed, scaling = case
    work = "F64" if dtype_a == "F64" else "F32"
    bits_a = numbers((rank, rows if transposed else columns), dtype_a, seed)
    bits_b = numbers((columns if transposed else rows, rank), dtype_b, seed + 1)
    memory = Memory(("a", dtype_a, bits_a), ("b", dtype_b, bits_b))
    low_rank = LowRank(memory.tensors["a"], memory.tensors["b"], scaling, transposed)
    assert low_rank.shape == (rows, columns)
    a, b = floats.widen(bits_a, dtype_a, work), floats.widen(bits_b, dtype_b, work)
    whole = slow(a, b, scaling, a.dtype.type)
    whole = (whole.T if transposed else whole).reshape(-1)
    start = data.draw(st.integers(0, whole.size - 1))
    stop = data.draw(st.integers(start + 1, whole.size))
    space = Workspace()
    with pytest.MonkeyPatch.context() as patch:
        for right, left in (
            (product.RIGHT, product.LEFT),
            (data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))),
        ):
            patch.setattr(product, "RIGHT", right)
            patch.setattr(product, "LEFT", left)
            out = np.full(stop - start, np.nan, whole.dtype)
            product.fill(low_rank, start, out, memory, space)
            assert out.tobytes() == whole[start:stop].tobytes()


@given(
    st.integers(1, 11), st.integers(1, 100), st.integers(1, 20), st.booleans(), st.booleans(), st.booleans(),
    st.integers(0, 2**32),
)  # fmt: skip
def test_the_kernel_multiplies_as_numpy_does_bit_for_bit(
    rows: int, columns: int, depth: int, turned_left: bool, turned_right: bool, begin: bool, seed: int
) -> None:
    made = np.random.default_rng(seed)

    def matrix(height: int, width: int, turned: bool) -> Array:
        values = made.standard_normal((width, height) if turned else (height, width)).astype(np.float32)
        values[made.random(values.shape) < 0.05] = made.choice(np.float32([0, -0.0, 1e38, 1e-40, np.inf]))
        return values.T if turned else values

    left, right = matrix(rows, depth, turned_left), matrix(depth, columns, turned_right)
    one = made.standard_normal((rows, columns + 9)).astype(np.float32)
    other = one.copy()
    with np.errstate(all="raise"):  # nothing may warn
        kernel.accumulate(left, right, one[:, 4 : 4 + columns], begin)
        arithmetic.accumulate(left, right, other[:, 4 : 4 + columns], begin)
    assert np.array_equal(np.isnan(one), np.isnan(other))
    assert np.array_equal(one.view(np.uint32)[~np.isnan(one)], other.view(np.uint32)[~np.isnan(other)])


@given(
    st.sampled_from(["BF16", "F32", "F16"]),
    st.integers(0, 3000),
    st.sampled_from([1.0, 0.3, -7.0]),
    st.integers(0, 2**32),
)
def test_a_difference_at_hand_is_added_as_arithmetic_defines_it(
    dtype: str, count: int, scale: float, seed: int
) -> None:
    made = np.random.default_rng(seed)
    diff, target = made.standard_normal(count).astype(np.float32), numbers((1, count), dtype, seed)[0]
    out, sums = np.empty_like(target), kernel.no_sums()
    views = [memoryview(part).cast("B") if count else memoryview(bytearray()) for part in (target, out)]
    bad = kernel.add(diff, *views, (dtype, dtype), kernel.Addition(scale, 7000, sums))
    wide = floats.widen(target, dtype, "F32")
    wanted = floats.narrow(arithmetic.add(wide, arithmetic.scaled(diff, scale)), dtype)
    assert out.tobytes() == wanted.tobytes() and bad == floats.count_nonfinite(wanted, dtype)
    assert np.allclose(sums[:5], [floats.square(diff), floats.square(wide), 0, 0, 0], rtol=2e-6)


def test_sums_of_an_added_difference_do_not_depend_on_how_a_leaf_is_cut() -> None:
    count = 3 * kernel.BLOCK + 1234
    diff, target = numbers((1, count), "F32", 1)[0], numbers((1, count), "BF16", 2)[0]
    found = []
    for piece in (count, kernel.BLOCK, 2 * kernel.BLOCK):
        sums, out = kernel.no_sums(), np.empty_like(target)
        for start in range(0, count, piece):
            part = slice(start, start + piece)
            views = [memoryview(array[part]).cast("B") for array in (target, out)]
            kernel.add(diff[part], *views, ("BF16", "BF16"), kernel.Addition(0.5, start, sums))
        found.append((sums.tobytes(), out.tobytes()))
    assert len(set(found)) == 1


def test_the_factor_of_all_rows_is_read_once_for_all_pieces() -> None:
    memory = Memory(("a", "BF16", numbers((8, 64), "BF16", 1)), ("b", "BF16", numbers((100, 8), "BF16", 2)))
    low_rank, space = LowRank(memory.tensors["a"], memory.tensors["b"], 2.0), Workspace()
    for start in range(0, 6400, 640):
        product.fill(low_rank, start, np.empty(640, np.float32), memory, space)
    assert memory.reads == 1 + 10, "A once, ten rows of B for each piece"


@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 2**32), st.integers(1, 30))
def test_tied_factors_are_alike_or_not(rows: int, columns: int, transposed: bool, seed: int, tile: int) -> None:
    one = numbers((rows, columns), "BF16", seed)
    other = one.T.copy() if transposed else one.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "RIGHT", tile)
        for differ in (False, True):
            if differ:
                other.reshape(-1)[seed % other.size] ^= 0x40
            memory = Memory(("one", "BF16", one), ("other", "BF16", other))
            alike = Alike(memory.tensors["one"], memory.tensors["other"], transposed)
            assert alike.fits
            assert product.are_alike(alike, memory, Workspace()) is not differ
