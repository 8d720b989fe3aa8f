"""Stochastic rounding: the right mean, the same numbers from kernel and numpy, a function of seed, name and index alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_checkpoints as tiny

from tuneport.checkpoint import floats
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.diffvector.run import transfer
from tuneport.engine import arithmetic, kernel
from tuneport.engine.arithmetic import Draw, draw_key

pytestmark = pytest.mark.filterwarnings("error")
KEY = draw_key(5, "x")
INFINITY = {"BF16": 0x7F80, "F16": 0x7C00}


def numbers(bits: Any, dtype: str) -> Any:
    return floats.widen(np.asarray(bits).astype("<u2").view(DTYPES[dtype].numpy), dtype, "F64")


def neighbours(value: float, dtype: str) -> tuple[float, float]:
    """The largest stored number that is not above, and the smallest that is not below; finite ones."""
    positive = numbers(np.arange(INFINITY[dtype]), dtype)
    every = np.concatenate([-positive[:0:-1], positive])
    place = int(np.searchsorted(every, value, side="right"))
    below = float(every[place - 1])
    return below, below if below == value else float(every[min(place, every.size - 1)])


# ---- the numbers


def test_the_generator_is_threefry() -> None:
    """The answer for counter 0 and key 0 that its authors publish with Random123; for others their formula, in plain integers."""
    drawn = arithmetic.uniform(Draw(bytes(16), 0), 64, np.uint32)
    assert drawn[::16].tolist() == [0x9C6CA96A, 0xE17EAE66, 0xFC10ECD4, 0x5256A7D8]
    for counter in (5, 2**32 - 16, 2**40 + 3):
        drawn = arithmetic.uniform(Draw(KEY, 64 * (counter // 16)), 64, np.uint32)
        assert drawn[counter % 16 :: 16].tolist() == threefry(counter, KEY)


def threefry(counter: int, key: bytes) -> list[int]:
    k = [int.from_bytes(key[place : place + 4], "little") for place in range(0, 16, 4)]
    k.append(0x1BD11BDA ^ k[0] ^ k[1] ^ k[2] ^ k[3])
    x = [(word + part) % 2**32 for word, part in zip((counter % 2**32, counter >> 32, 0, 0), k, strict=False)]
    turns = ((10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20))
    for number in range(20):
        for first, second, by in zip((0, 2), ((1, 3), (3, 1))[number % 2], turns[number % 8], strict=True):
            x[first] = (x[first] + x[second]) % 2**32
            x[second] = ((x[second] << by | x[second] >> (32 - by)) % 2**32) ^ x[first]
        if number % 4 == 3:
            step = number // 4 + 1
            x = [(word + k[(step + place) % 5] + (step if place == 3 else 0)) % 2**32 for place, word in enumerate(x)]
    return x


@given(st.integers(0, 1000), st.integers(0, 300), st.integers(0, 2**63), st.sampled_from([np.uint16, np.uint32]))
def test_random_bits_depend_on_seed_name_and_index_and_nothing_else(
    start: int, count: int, seed: int, dtype: Any
) -> None:
    key = draw_key(seed, "model.norm.weight")
    whole = arithmetic.uniform(Draw(key, 0), start + count, dtype)
    assert np.array_equal(arithmetic.uniform(Draw(key, start), count, dtype), whole[start:])
    if start > 8:
        for other in (draw_key(seed, "other"), draw_key(seed + 1, "model.norm.weight")):
            assert not np.array_equal(arithmetic.uniform(Draw(other, 0), start, dtype), whole[:start])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_random_bits_are_uniform_and_neighbours_have_nothing_to_do_with_each_other(dtype: Any) -> None:
    count = 2**18
    drawn = arithmetic.uniform(Draw(KEY, 3), count, dtype) / 2.0 ** (8 * np.dtype(dtype).itemsize)
    cells = np.bincount((drawn * 256).astype(np.int64), minlength=256)
    # Chi-square of 255 degrees of freedom: mean 255, standard deviation √510; six of them.
    assert abs(float(((cells - count / 256) ** 2 / (count / 256)).sum()) - 255) < 6 * math.sqrt(510)
    for lag in (1, 2, 16, 32, 128):  # neighbours, words, vectors, rows and groups of the kernel
        product = (drawn[lag:] - 0.5) @ (drawn[:-lag] - 0.5) / (count - lag)
        assert abs(product) < 6 / 12 / math.sqrt(count - lag)  # six standard deviations of a mean of products


# ---- the rounding


@given(st.sampled_from(["BF16", "F16"]), st.floats(-6e4, 6e4), st.integers(0, 2**40))
def test_it_gives_a_neighbour_and_keeps_what_is_exact(dtype: str, value: float, index: int) -> None:
    single = np.full(64, value, np.float32)
    found = kernel.narrow(single, dtype, Draw(KEY, index))
    assert set(numbers(found.view("<u2"), dtype).tolist()) <= set(neighbours(float(single[0]), dtype))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("work", [np.float32, np.float64])
@pytest.mark.parametrize("value", [1 + 2**-12, -1.7e-3, 3.1415926, 2**-25, -6.1e-5, 4321.25])
def test_it_has_the_right_mean(dtype: str, work: Any, value: float) -> None:
    count = 200_000
    values = np.full(count, value, work)
    exact = float(values[0])
    low, high = neighbours(exact, dtype)
    found = kernel.narrow(values, dtype, Draw(draw_key(5, f"{dtype}{value}"), 11))
    ups = int((numbers(found.view("<u2"), dtype) > exact).sum())
    chance = (exact - low) / (high - low) if high > low else 0.0
    # Six standard deviations of a binomial, and two counts for where the chance is nearly none.
    assert abs(ups - count * chance) <= 6 * math.sqrt(count * chance * (1 - chance)) + 2


def test_from_float32_to_bfloat16_every_chance_is_met_exactly() -> None:
    """What is cut off are sixteen bits, and so are the random ones: of all 65,536 of them as many round up as are cut off."""
    every = np.arange(65536, dtype=np.uint16)
    for cut in (0, 1, 77, 0x8000, 0xFFFF):
        values = np.full(65536, (0x3F80 << 16) + cut, np.uint32).view(np.float32)
        assert int((floats.narrow_bf16(values, every) == 0x3F81).sum()) == cut


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_nan_infinity_and_what_is_beyond_the_largest_number_are_rounded_to_nearest(dtype: str) -> None:
    largest = numbers([INFINITY[dtype] - 1], dtype)[0]
    values = np.array([np.nan, np.inf, -np.inf, largest * 1.0001, -largest * 1.003, 0.0, -0.0] * 9, np.float32)
    found = kernel.narrow(values, dtype, Draw(KEY, 0))
    assert found.tobytes() == floats.narrow(values, dtype).tobytes()


@given(
    st.integers(0, 300) | st.sampled_from([kernel.BLOCK - 1, kernel.BLOCK + 77]),
    st.sampled_from([1.0, 0.3, -1e-30]),
    st.integers(0, 2**35),
    st.integers(0, 2**32),
    st.sampled_from(["any", "calm"]),
)
def test_kernel_and_numpy_agree_to_the_last_bit(count: int, scale: float, index: int, seed: int, kind: str) -> None:
    made, draw = np.random.default_rng(seed), Draw(KEY, index)
    if kind == "any":
        base, tuned, target = made.integers(0, 65536, (3, count), dtype=np.uint16)
    else:
        base, tuned, target = (kernel.narrow(made.standard_normal(count).astype(np.float32), "BF16") for _ in range(3))
    wide = [floats.widen(part, "BF16", "F32") for part in (base, tuned, target)]
    diff = floats.difference(wide[1], wide[0])
    total = arithmetic.add(wide[2], arithmetic.scaled(diff, scale))
    wanted = arithmetic.narrow_stochastic(total, "BF16", draw)
    out, sums = np.empty_like(target), kernel.no_sums()
    views = [memoryview(part).cast("B") if count else memoryview(bytearray()) for part in (base, tuned, target, out)]
    kernel.transfer(
        *views, kernel.Dtypes("BF16", "BF16", "BF16", "BF16", "F32"), kernel.Addition(scale, 500, sums, draw)
    )
    assert out.tobytes() == wanted.tobytes()
    kernel.add(diff, *views[2:], ("BF16", "BF16"), kernel.Addition(scale, 500, sums, draw))
    assert out.tobytes() == wanted.tobytes()
    assert kernel.narrow(total, "BF16", draw).tobytes() == wanted.tobytes()


# ---- a transfer


@pytest.mark.parametrize("how", ["one dtype", "a float32 tuned model", "cast to float16"])
def test_workers_pieces_and_shards_change_no_byte_and_another_seed_does(
    tmp_path: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuneport.engine import budget

    base = tiny.llama(1, hidden=96, rows=2000)
    tuned = {name: value.float() for name, value in tiny.moved(base, 2, by=1e-3).items()} if "32" in how else None
    made = tiny.trio(tmp_path, base, tuned, words=[f"w{i}" for i in range(2000)])
    choices: dict[str, Any] = {"rounding": "stochastic", "dtype": "float16" if "16" in how else None}
    found = []
    for seed, workers, shard, piece in ((1, 1, "5GB", 8), (1, 3, "100KB", 1), (2, 1, "5GB", 8)):
        monkeypatch.setattr(budget, "PIECES", (piece * kernel.BLOCK,))
        out = tmp_path / f"out{seed}{workers}"
        transfer(*made.paths, out, seed=seed, shard_size=shard, **choices, workers=workers)
        found.append({name: tiny.bits(tensor) for name, tensor in tiny.read_weights(out).items()})
    assert found[0] == found[1] != found[2]
