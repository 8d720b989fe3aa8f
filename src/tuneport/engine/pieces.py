"""How one piece of an output tensor is computed: read, subtract, scale, add, round.

From a recipe (`Sum`: a target's tensor plus scaled differences; `DifferenceRecipe`: tuned minus base) and a range of
elements to the stored bytes of that range and its sums. A difference is tuned minus base, a stored one, or an adapter's
product. Rows matched by token are split into runs of neighbours; everything else is one run. Nothing is written here.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tuneport.checkpoint import floats
from tuneport.checkpoint.adapter import LowRank, Stacked
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Array, Floats
from tuneport.checkpoint.reading import TensorReader, Workspace
from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine import arithmetic, kernel
from tuneport.engine.arithmetic import Draw
from tuneport.engine.product import fill
from tuneport.pairing.rows import Runs


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor and the name under which its reader is found in `Readers`."""

    role: str
    tensor: StoredTensor


class Roles(NamedTuple):
    """The names under which the readers of a base and of its tuned model are found."""

    base: str
    tuned: str


PARENTS = Roles("base", "tuned")  # where there is one pair


@dataclass(frozen=True)
class Product:
    """An adapter's product, and the role whose reader has its factors."""

    role: str
    low_rank: LowRank | Stacked


@dataclass(frozen=True)
class RawRows:
    """Rows that are taken as they stand: a tensor's, with an adapter's product on top where it has one.

    What an adapter makes is rounded to ``dtype``, the tuned model's, as it would be when merged.
    """

    source: Source
    product: Product | None
    dtype: str


Readers = Mapping[str, TensorReader]


@dataclass(frozen=True)
class Term:
    """One scaled diff vector: ``plus`` minus ``minus``, or ``plus`` alone where it is a stored difference.

    An adapter's ``product`` is added to that; alone it is the difference, and neither of the two is read (``minus`` is, where it
    is given, but only to be measured). ``runs`` says
    which rows meet which: their columns are target, minus and plus, whose rows are also the product's (-1: none). ``raw``
    rows are those of tokens that only the tuned model has; they are taken from there as they stand. ``rows``: how many rows
    have this scale, where those of one tensor have different ones (each row then has its partners in one of several terms).
    ``work``: the difference's own working dtype, where it is not the sum's.
    """

    plus: Source | None
    minus: Source | None
    scale: float
    runs: Runs | None = None
    raw: RawRows | None = None
    product: Product | None = None
    rows: int | None = None
    work: str | None = None

    @property
    def vector(self) -> str:
        """The role of the input that the difference comes from; empty where there is none."""
        found = self.plus or self.product or (None if self.raw is None else self.raw.source)
        return "" if found is None else found.role


@dataclass(frozen=True)
class Sum:
    """Recipe of a tensor: ``target`` plus each of ``terms`` in turn, stored as ``dtype``. No terms: a copy.

    ``seed`` is that of stochastic rounding; without one a result is rounded to the nearest.
    """

    name: str
    target: Source
    terms: tuple[Term, ...]
    dtype: str
    work: str
    seed: int | None = None

    @property
    def adds(self) -> bool:
        """Whether a difference is added to any row."""
        return any(term.scale != 0 for term in self.terms)

    def piece(
        self, start: int, stop: int, origin: int, readers: Readers, space: Workspace, sums: Array
    ) -> tuple[memoryview, int]:
        """Stored bytes of the elements from ``start`` to ``stop``, and how many of them are NaN or infinite.

        ``origin`` is the first element of the leaf; ``sums`` (see `arithmetic.SUMS`) are added to.
        """
        itemsize = DTYPES[self.dtype].itemsize
        out = space.buffer("out", (stop - start) * itemsize)
        if DTYPES[self.dtype].kind != "float":
            readers[self.target.role].read_into(self.target.tensor, start * itemsize, out)
            return out, 0
        bad = 0
        for begin, end in self.cuts(start, stop):
            view = out[(begin - start) * itemsize : (end - start) * itemsize]
            bad += self._run(begin, end, origin, view, readers, space, sums)
        return out, bad

    def measure(
        self, start: int, stop: int, origin: int, readers: Readers, space: Workspace, sums: Array
    ) -> tuple[int, int]:
        """As `piece`, of those elements alone that meet in target and a term: how many they are, and how many are not finite.

        Nothing is returned of what was computed but ``sums``.
        """
        itemsize, met, bad = DTYPES[self.dtype].itemsize, 0, 0
        out = space.buffer("out", (stop - start) * itemsize)
        for begin, end in self.cuts(start, stop):
            at_target = self.terms[0].runs.target(begin) if self.terms[0].runs else begin
            if at_target < 0 or all(_partners(term, begin) is None for term in self.terms):
                continue
            view = out[(begin - start) * itemsize : (end - start) * itemsize]
            bad += self._run(begin, end, origin, view, readers, space, sums)
            met += end - begin
        return met, bad

    def cuts(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Ranges of elements within which every row meets its partners at the same distance."""
        cuts = {start, stop}
        for term in self.terms:
            if term.runs is not None:
                cuts.update(term.runs.cuts(start, stop))
        ordered = sorted(cuts)
        yield from itertools.pairwise(ordered)

    def _run(
        self, start: int, stop: int, origin: int, out: memoryview, readers: Readers, space: Workspace, sums: Array
    ) -> int:
        """One run: every row in it meets its partners at the same distance."""
        here = _Reading(start, stop, readers, space)
        target_at = self.terms[0].runs.target(start) if self.terms and self.terms[0].runs else start
        if target_at < 0:
            return self._raw(here, out)
        live = [(term, at) for term in self.terms if (at := _partners(term, start)) is not None]
        if not live and self.target.tensor.dtype == self.dtype:
            here.copy(self.target, target_at, out, start - origin, sums)
            return 0  # what is only copied from the target never stops a run
        stored = self.target.tensor.dtype
        if len(live) == 1 and live[0][0].work is None:
            term, (minus_at, plus_at) = live[0]
            step = kernel.Addition(term.scale, start - origin, sums, self._draw(start))
            if term.minus is not None and term.plus is not None and term.product is None:
                dtypes = kernel.Dtypes(term.minus.tensor.dtype, term.plus.tensor.dtype, stored, self.dtype, self.work)
                sources = ((term.minus, minus_at), (term.plus, plus_at), (self.target, target_at))
                counted = here.transfer(sources, out, dtypes, step)
                if counted is not None:
                    return counted
                base, tuned = here.bytes(term.minus, minus_at, "base"), here.bytes(term.plus, plus_at, "tuned")
                target = here.bytes(self.target, target_at, "target")
                return kernel.transfer(base, tuned, target, out, dtypes, step)
            if term.minus is None:
                diff, _ = here.difference(term, minus_at, plus_at, stop - start, self.work, 0)
                target = here.bytes(self.target, target_at, "target")
                return kernel.add(diff, target, out, (stored, self.dtype), step)
        target_bits = floats.as_bits(here.bytes(self.target, target_at, "target"), stored)
        out_bits, bad = floats.as_bits(out, self.dtype), 0
        for begin, end in kernel.blocks(start - origin, stop - start):
            wide = kernel.widen(target_bits[begin:end], stored, self.work)
            if not live:
                sums[1] += floats.square(wide)
                out_bits[begin:end] = self._round(wide, start + begin)
                continue
            result, added = wide, None
            for number, (term, (minus_at, plus_at)) in enumerate(live):
                diff, wide_base = here.difference(
                    term, minus_at + begin, plus_at + begin, end - begin, self.work, number
                )
                if added is None:
                    measured = arithmetic.measure(diff, wide, wide if wide_base is None else wide_base)
                    sums[: arithmetic.ROUNDING.start] += measured
                else:
                    sums[0] += floats.square(diff)
                scaled = arithmetic.scaled(diff, term.scale)
                result = arithmetic.add(result, scaled)
                added = scaled if added is None else arithmetic.add(added, scaled)
            assert added is not None
            draw = self._draw(start + begin)
            bad += kernel.settle(result, added, wide, out_bits[begin:end], (stored, self.dtype), sums, draw)
        if not live:  # cast, and told only where the cast made it so
            bad = floats.count_nonfinite(out_bits, self.dtype) - floats.count_nonfinite(target_bits, stored)
        return bad

    def _raw(self, here: _Reading, out: memoryview) -> int:
        """Rows of new tokens: the tuned model's as they stand; scale and rules do not touch them."""
        for term in self.terms:
            at = term.runs.raw(here.start) if term.runs else -1
            if at >= 0:
                raw = term.raw or _as_it_stands(term.plus)
                bits, dtype = here.raw(raw, at), raw.dtype
                out_bits = floats.as_bits(out, self.dtype)
                if dtype == self.dtype:
                    out_bits[:] = bits
                else:
                    out_bits[:] = self._round(kernel.widen(bits, dtype, self.work), here.start)
                return floats.count_nonfinite(out_bits, self.dtype)
        raise AssertionError(f"{self.name}: row of element {here.start} has no source")

    def _round(self, values: Floats, index: int) -> Array:
        return kernel.narrow(values, self.dtype, self._draw(index))

    def _draw(self, index: int) -> Draw | None:
        return Draw(self._key, index) if self.seed is not None else None

    @functools.cached_property
    def _key(self) -> bytes:
        assert self.seed is not None
        return arithmetic.draw_key(self.seed, self.name)


@dataclass(frozen=True)
class DifferenceRecipe:
    """Recipe of a stored diff vector, in W: the difference that ``terms`` describe, unscaled.

    A row is that of the one term in which it has partners, and zero where it has none.
    """

    name: str
    terms: tuple[Term, ...]
    dtype: str

    def piece(
        self, start: int, stop: int, origin: int, readers: Readers, space: Workspace, sums: Array
    ) -> tuple[memoryview, int]:
        """Stored bytes of the elements from ``start`` to ``stop``, and how many of them are NaN or infinite."""
        out = space.buffer("out", (stop - start) * DTYPES[self.dtype].itemsize)
        values = floats.as_bits(out, self.dtype)
        runs = [term.runs for term in self.terms if term.runs is not None]
        cuts = sorted({start, stop, *(cut for each in runs for cut in each.cuts(start, stop))})
        for begin, end in itertools.pairwise(cuts):
            here = _Reading(begin, end, readers, space)
            live = [(term, at) for term in self.terms if (at := _partners(term, begin)) is not None]
            if not live:
                values[begin - start : end - start] = 0
                continue
            assert len(live) == 1, f"{self.name}: element {begin} has several differences"
            term, (minus_at, plus_at) = live[0]
            for first, last in kernel.blocks(begin - origin, end - begin):
                diff, base = here.difference(term, minus_at + first, plus_at + first, last - first, self.dtype, 0)
                values[begin - start + first : begin - start + last] = kernel.narrow(diff, self.dtype)
                sums[0] += floats.square(diff)
                if base is not None:
                    sums[2] += floats.square(base)
        return out, floats.count_nonfinite(values, self.dtype)


@dataclass(frozen=True)
class Rows:
    """Recipe of rows of the tuned model kept as they stand, one after another: where each is, and which row it is there."""

    name: str
    rows: tuple[tuple[RawRows, int], ...]
    columns: int
    dtype: str

    def piece(
        self, start: int, stop: int, origin: int, readers: Readers, space: Workspace, sums: Array
    ) -> tuple[memoryview, int]:
        """Stored bytes of the elements from ``start`` to ``stop``."""
        columns = self.columns
        out = space.buffer("out", (stop - start) * DTYPES[self.dtype].itemsize)
        values = floats.as_bits(out, self.dtype)
        position = start
        while position < stop:
            row, column = divmod(position, columns)
            count = min(columns - column, stop - position)
            here = _Reading(position, position + count, readers, space)
            raw, place = self.rows[row]
            values[position - start : position - start + count] = here.raw(raw, place * columns + column)
            position += count
        return out, floats.count_nonfinite(values, self.dtype)


Recipe = Sum | DifferenceRecipe | Rows


@dataclass(frozen=True)
class _Reading:
    """Reads of one run into a worker's buffers."""

    start: int
    stop: int
    readers: Readers
    space: Workspace

    def bytes(self, source: Source, at: int, buffer: str, count: int | None = None) -> memoryview:
        itemsize = DTYPES[source.tensor.dtype].itemsize
        view = self.space.buffer(buffer, (self.stop - self.start if count is None else count) * itemsize)
        self.readers[source.role].read_into(source.tensor, at * itemsize, view)
        return view

    def copy(self, source: Source, at: int, out: memoryview, start: int, sums: Array) -> None:
        """Elements as they stand; adds their norm as a target's."""
        dtype = source.tensor.dtype
        self.readers[source.role].read_into(source.tensor, at * DTYPES[dtype].itemsize, out)
        kernel.square(out, dtype, start, sums)

    def transfer(
        self, sources: Sequence[tuple[Source, int]], out: memoryview, dtypes: kernel.Dtypes, step: kernel.Addition
    ) -> int | None:
        """Base, tuned and target (each with its first element) read and computed in one go; None where that cannot be."""
        files, places = [], []
        with contextlib.ExitStack() as open_meanwhile:
            for source, at in sources:
                place = self.readers[source.role].place(source.tensor)
                if place is None:
                    return None
                descriptor, first = open_meanwhile.enter_context(place)
                files.append(descriptor)
                places.append(first + at * DTYPES[source.tensor.dtype].itemsize)
            room = functools.partial(self.space.buffer, "inputs")
            return kernel.transfer_files(files, places, room, out, dtypes, step)

    def difference(
        self, term: Term, minus_at: int, plus_at: int, count: int, work: str, number: int
    ) -> tuple[Floats, Floats | None]:
        """The diff vector of a block, in the working dtype, and the base where it was read."""
        if term.work is not None and term.work != work:
            diff, minus = self.difference(replace(term, work=None), minus_at, plus_at, count, term.work, number)
            wide = DTYPES[work].numpy
            return diff.astype(wide), None if minus is None else minus.astype(wide)
        product = None if term.product is None else self.product(term.product, plus_at, count, work)
        if term.plus is None:
            assert product is not None, "a term without plus and product has no partners"
            return product, None if term.minus is None else self.wide(
                term.minus, minus_at, f"base{number}", count, work
            )
        diff, minus = self.wide(term.plus, plus_at, f"tuned{number}", count, work), None
        if term.minus is not None:
            minus = self.wide(term.minus, minus_at, f"base{number}", count, work)
            diff = floats.difference(diff, minus)
        return (diff if product is None else arithmetic.add(diff, product)), minus

    def wide(self, source: Source, at: int, buffer: str, count: int, work: str) -> Floats:
        """Elements of a tensor in the working dtype."""
        return kernel.widen(
            floats.as_bits(self.bytes(source, at, buffer, count), source.tensor.dtype), source.tensor.dtype, work
        )

    def product(self, product: Product, at: int, count: int, work: str) -> Floats:
        """So many elements of an adapter's product, from ``at`` on."""
        dtype = DTYPES[work].numpy
        values: Floats = np.frombuffer(self.space.buffer("product", count * DTYPES[work].itemsize), dtype)
        fill(product.low_rank, at, values, self.readers[product.role], self.space)
        return values

    def raw(self, raw: RawRows, at: int) -> Array:
        """The run's elements as stored in the tuned model, from ``at`` on, in its dtype."""
        dtype = raw.source.tensor.dtype
        bits = floats.as_bits(self.bytes(raw.source, at, "tuned"), dtype)
        if raw.product is None and dtype == raw.dtype:
            return bits
        work = floats.working_dtype(dtype, raw.dtype)
        values = kernel.widen(bits, dtype, work)
        if raw.product is not None:
            values = arithmetic.add(values, self.product(raw.product, at, self.stop - self.start, work))
        return kernel.narrow(values, raw.dtype)


@dataclass(frozen=True)
class Met:
    """The elements of one run that meet each other, in the working dtype; None: the recipe does not read it. The difference is
    not multiplied by its ``scale`` yet.
    """

    diff: Floats
    base: Floats | None
    target: Floats | None
    scale: float


def meet(recipe: Sum | DifferenceRecipe, start: int, stop: int, readers: Readers, space: Workspace) -> Met | None:
    """What the run of ``start`` holds up to ``stop`` at most; None where an element has no partner, or takes no difference.

    Of several differences the first that is there.
    """
    for term in recipe.terms:
        at = _partners(term, start)
        target = recipe.target if isinstance(recipe, Sum) else None
        target_at = term.runs.target(start) if term.runs is not None else start
        if at is None or target_at < 0:
            continue
        end = min([stop, *(term.runs.cuts(start, stop) if term.runs is not None else ())])
        here = _Reading(start, end, readers, space)
        work = recipe.work if isinstance(recipe, Sum) else recipe.dtype
        diff, base = here.difference(term, *at, end - start, work, 0)
        if target is None:
            return Met(diff, base, None, term.scale)
        bits = floats.as_bits(here.bytes(target, target_at, "target"), target.tensor.dtype)
        return Met(diff, base, kernel.widen(bits, target.tensor.dtype, work), term.scale)
    return None


def _as_it_stands(source: Source | None) -> RawRows:
    assert source is not None
    return RawRows(source, None, source.tensor.dtype)


def _partners(term: Term, start: int) -> tuple[int, int] | None:
    """Where base and tuned elements of a run begin, or None where it takes no difference (scale 0, or unmatched)."""
    if term.scale == 0 or (term.plus is None and term.product is None):
        return None
    if term.runs is None:
        return start, start
    minus, plus = term.runs.base(start), term.runs.tuned(start)
    return None if minus < 0 or plus < 0 else (minus, plus)


def equal(one: Source, other: Source, readers: Readers, space: Workspace, piece_bytes: int) -> bool:
    """Whether two tensors hold the same bytes."""
    for start in range(0, one.tensor.nbytes, piece_bytes):
        size = min(piece_bytes, one.tensor.nbytes - start)
        left, right = space.buffer("base", size), space.buffer("tuned", size)
        readers[one.role].read_into(one.tensor, start, left)
        readers[other.role].read_into(other.tensor, start, right)
        if left != right:
            return False
    return True


def nonfinite_in(source: Source, readers: Readers, space: Workspace, piece: int) -> int:
    """How many elements of a tensor are NaN or infinite."""
    itemsize, count = DTYPES[source.tensor.dtype].itemsize, 0
    for start in range(0, source.tensor.elements, piece):
        size = min(piece, source.tensor.elements - start)
        view = space.buffer("target", size * itemsize)
        readers[source.role].read_into(source.tensor, start * itemsize, view)
        count += floats.count_nonfinite(floats.as_bits(view, source.tensor.dtype), source.tensor.dtype)
    return count
