"""The kernel that reads what it adds gives what the kernel on buffers gives, and says when it cannot read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.reading import Workspace
from tuneport.engine import kernel
from tuneport.engine.arithmetic import Draw, draw_key

pytestmark = pytest.mark.skipif(kernel.NAME != "compiled", reason="no compiler was at hand when tuneport was installed")


@contextmanager
def opened(*contents: bytes) -> Iterator[list[int]]:
    """Descriptors of files that hold these, for as long as they are needed."""
    with ExitStack() as files:
        made = [files.enter_context(tempfile.TemporaryFile(buffering=0)) for _ in contents]
        for file, content in zip(made, contents, strict=True):
            file.write(content)
        yield [file.fileno() for file in made]


def alike(dtype: str) -> kernel.Dtypes:
    return kernel.Dtypes(dtype, dtype, dtype, dtype, "F32")


def stored(dtype: str, count: int, seed: int) -> bytes:
    drawn = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    drawn[::97] = np.inf  # so that there is something to count
    return bytes(kernel.narrow(drawn, dtype).tobytes())


@given(
    st.sampled_from(["BF16", "F32"]),
    st.integers(1, 3 * kernel.BLOCK),
    st.integers(0, 2 * kernel.BLOCK),
    st.sampled_from([1.0, 0.25]),
    st.sampled_from([None, Draw(draw_key(7, "x"), 0), Draw(draw_key(7, "x"), 2**33 + 77)]),
    st.lists(st.integers(0, 50), min_size=3, max_size=3),
)
def test_reading_on_the_way_changes_no_bit_and_no_sum(
    dtype: str, count: int, start: int, scale: float, draw: Draw | None, places: list[int]
) -> None:
    parts = [stored(dtype, count, seed) for seed in range(3)]
    size = count * DTYPES[dtype].itemsize
    whole, read = memoryview(bytearray(size)), memoryview(bytearray(size))
    sums, sums_read = kernel.no_sums(), kernel.no_sums()
    bad = kernel.transfer(*map(memoryview, parts), whole, alike(dtype), kernel.Addition(scale, start, sums, draw))
    room = lambda nbytes: Workspace().buffer("inputs", nbytes)  # noqa: E731 (a name for what the stream passes)
    with opened(*(b"x" * place + part for part, place in zip(parts, places, strict=True))) as files:
        found = kernel.transfer_files(
            files, places, room, read, alike(dtype), kernel.Addition(scale, start, sums_read, draw)
        )
    assert found == bad > 0
    assert read == whole
    assert np.array_equal(sums, sums_read, equal_nan=True)


@pytest.mark.parametrize("short", [0, 1, 2])
def test_a_file_that_ends_too_soon_gives_nothing_and_adds_nothing(short: int) -> None:
    count = 2 * kernel.BLOCK + 5
    parts = [stored("BF16", count, seed) for seed in range(3)]
    parts[short] = parts[short][:-1]
    sums = kernel.no_sums()
    out, room = memoryview(bytearray(2 * count)), Workspace()
    with opened(*parts) as files:
        found = kernel.transfer_files(
            files, [0, 0, 0], lambda n: room.buffer("inputs", n), out, alike("BF16"), kernel.Addition(1, 0, sums)
        )
    assert found is None
    assert not sums.any()


def test_a_dtype_that_no_kernel_serves_is_left_to_the_caller() -> None:
    room = Workspace()
    out = memoryview(bytearray(16))
    assert (
        kernel.transfer_files(
            [9, 9, 9],
            [0, 0, 0],
            lambda n: room.buffer("x", n),
            out,
            alike("F16"),
            kernel.Addition(1, 0, kernel.no_sums()),
        )
        is None
    )


@pytest.fixture
def widths() -> Iterator[list[int]]:
    """The vectors that this machine has, in lanes; afterwards the widest serve again."""
    found = [lanes for lanes in (4, 8, 16) if kernel._compiled.use(lanes)]
    yield found
    kernel._compiled.use(found[-1])


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("draw", [None, Draw(draw_key(1, "x"), 2**32 - 100)])
@pytest.mark.parametrize("scale", [1.0, -0.3])
def test_vectors_of_any_width_give_the_same_bits_and_the_same_sums(
    widths: list[int], dtype: str, draw: Draw | None, scale: float
) -> None:
    count = kernel.BLOCK + 12_345
    parts = [stored(dtype, count, seed) for seed in range(3)]
    diff = np.random.default_rng(4).standard_normal(count).astype(np.float32)
    left = diff[: 37 * 19].reshape(37, 19)
    found = []
    for lanes in widths:
        assert kernel._compiled.use(lanes)
        out, sums, product = bytearray(len(parts[0])), kernel.no_sums(), np.empty((37, 53), np.float32)
        bad = kernel.transfer(
            *map(memoryview, parts), memoryview(out), alike(dtype), kernel.Addition(scale, 777, sums, draw)
        )
        added = bytearray(len(out))
        bad += kernel.add(
            diff, memoryview(parts[2]), memoryview(added), (dtype, dtype), kernel.Addition(scale, 777, sums, draw)
        )
        kernel.square(memoryview(parts[1]), dtype, 777, sums)
        kernel.accumulate(left, diff[: 19 * 53].reshape(19, 53), product, True)
        narrowed = kernel.narrow(diff, "BF16", draw)
        wide = kernel.widen(np.frombuffer(parts[0], np.uint16), "BF16", "F32")
        found.append(
            (bytes(out), bytes(added), bad, sums.tobytes(), product.tobytes(), narrowed.tobytes(), wide.tobytes())
        )
    assert widths[0] == 4 and all(one == found[0] for one in found[1:])
