"""Make a PEFT adapter of a diff vector: factorise each matrix, choose ranks, write the factors, measure what is lost.

Factors are kept in DIR.partial until the adapter is written, so a killed run goes on with the next matrix. The work on
one matrix takes memory in proportion to its rows and columns, or holds it as a whole where nearly all directions are
wanted: `room_of` says how much, and --max-memory bounds how many are worked on at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneport.checkpoint.adapter_names import PREFIX
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.reading import Workspace
from tuneport.checkpoint.weights import StoredTensor
from tuneport.diffvector.exports.export_files import array_bytes, write_tensors
from tuneport.diffvector.exports.factorisation import SingularFactors, factorise, factorise_until, room_for, seed_of
from tuneport.diffvector.exports.peft_contents import AdapterContents, HeldMatrix
from tuneport.diffvector.exports.peft_files import tensor_names
from tuneport.diffvector.exports.ranks import holds_energy, rank_of_energy, ranks_of_budget
from tuneport.diffvector.exports.target_difference import PIECE, TargetDifference, difference_of
from tuneport.diffvector.exports.tensor_by_tensor import for_each_tensor
from tuneport.engine import kernel
from tuneport.engine.pieces import Readers
from tuneport.engine.plan import Plan
from tuneport.errors import NumericsError, OutputError, named
from tuneport.files.opening import opened
from tuneport.files.printable import listed_names
from tuneport.files.writing import whole
from tuneport.output.shards import Layout, lay_out

FACTORS = "factors"
STEM = "adapter_model"
_FIRST_WIDTH, _LEAST_WIDTH = 32, 8


@dataclass(frozen=True)
class RankChoice:
    """How ranks are chosen: one of the three is given."""

    rank: int | None = None
    energy: float | None = None
    budget: int | None = None

    def first_width(self, shape: tuple[int, int], average: int) -> int:
        """How many directions of a matrix are looked for at first; ``average`` is the rank that a budget pays for."""
        most = min(shape)
        if self.rank is not None:
            return min(self.rank, most)
        return min(_FIRST_WIDTH if self.budget is None else max(2 * average, _LEAST_WIDTH), most)


@dataclass(frozen=True)
class WrittenMatrix:
    """One matrix of the adapter: its rank, ‖Δ‖², ‖Δ − B·A‖² and ‖B·A‖²; ``cut``: directions beyond noise are left out."""

    matrix: HeldMatrix
    rank: int
    square: float
    error: float
    kept: float
    cut: bool


@dataclass(frozen=True)
class AdapterWork:
    """The work on one adapter in DIR.partial."""

    plan: Plan
    contents: AdapterContents
    choice: RankChoice
    folder: Path
    readers: Readers
    workers: int

    def factor_all(self) -> list[SingularFactors]:
        """The spectra of all matrices, with factors on disk that hold what the choice needs."""
        (self.folder / FACTORS).mkdir(exist_ok=True)
        average = average_rank(self.contents.held, self.choice.budget)
        widths = [self.choice.first_width(each.shape, average) for each in self.contents.held]
        self._factor(list(range(len(widths))), widths)
        while True:
            self._stop_if_not_finite()
            found = [self._spectrum(number) for number in range(len(widths))]
            if self.choice.budget is None:
                return found
            ranks = self.ranks(found)
            short = [n for n, one in enumerate(found) if ranks[n] == len(one.values) and not one.whole]
            if not short:
                return found
            for number in short:
                widths[number] = min(2 * widths[number], min(self.contents.held[number].shape))
            self._factor(short, widths)

    def ranks(self, found: Sequence[SingularFactors]) -> list[int]:
        """The rank of each matrix."""
        if self.choice.rank is not None:
            return [min(self.choice.rank, len(one.values)) for one in found]
        if self.choice.energy is not None:
            return [rank_of_energy(one.values, one.square, self.choice.energy) for one in found]
        assert self.choice.budget is not None
        return ranks_of_budget(
            [one.values for one in found], [each.cost for each in self.contents.held], self.choice.budget
        )

    def write(self, ranks: Sequence[int]) -> tuple[Layout, dict[str, str]]:
        """The adapter's file, and the digest of each of its tensors."""
        parts: dict[str, tuple[int, str]] = {}
        entries: list[tuple[str, str, tuple[int, ...]]] = []
        for number, (matrix, rank) in enumerate(zip(self.contents.held, ranks, strict=True)):
            for name, side in tensor_names(matrix) if rank else ():
                rows, columns = matrix.shape
                width = rows if side.startswith("left") else columns
                parts[name] = number, side
                entries.append((name, "F32", (rank, width) if side.endswith("turned") else (width, rank)))
        saved: dict[str, int] = {}
        for each in self.contents.saved:
            slot = self.plan.tasks[each.task].slot
            for module in each.modules:
                saved[f"{PREFIX}{module}.weight"] = each.task
                entries.append((f"{PREFIX}{module}.weight", slot.dtype, slot.shape))
        layout = lay_out(sorted(entries), 2**62, STEM)

        def content(slot: StoredTensor) -> Iterator[bytes | memoryview]:
            if slot.name in saved:
                yield from self._whole(saved[slot.name])
            else:
                number, side = parts[slot.name]
                yield from array_bytes(self._factor_of(number, side, ranks[number]))

        return layout, write_tensors(self.folder, layout, content)

    def measure(self, ranks: Sequence[int], found: Sequence[SingularFactors]) -> list[WrittenMatrix]:
        """What the written factors hold of each matrix, measured on the matrix itself."""
        errors, kept = [0.0] * len(ranks), [0.0] * len(ranks)

        def one(number: int, space: Workspace) -> None:
            matrix, rank = self.contents.held[number], ranks[number]
            left, right = (self._factor_of(number, side, rank) for side in ("left", "right"))
            turned = np.ascontiguousarray(right.T)
            for first, rows in self._difference(matrix).rows(PIECE, space):
                product = left[first : first + len(rows)] @ turned
                kept[number] += _square(product)
                product -= rows
                errors[number] += _square(product)

        for_each_tensor(self._sizes(), one, self.workers, "measuring")
        return [
            WrittenMatrix(matrix, ranks[n], found[n].square, errors[n], kept[n], _is_cut(found[n], ranks[n]))
            for n, matrix in enumerate(self.contents.held)
        ]

    def left_out_squares(self) -> list[float]:
        """‖Δ‖² of each tensor that is left out."""
        squares = [0.0] * len(self.contents.left_out)
        tasks = [self.plan.tasks[each.task] for each in self.contents.left_out]

        def one(number: int, space: Workspace) -> None:
            difference = difference_of(tasks[number], self.readers)
            squares[number] = 0.0 if difference is None else difference.square(space)

        for_each_tensor([task.nbytes for task in tasks], one, self.workers, "left out")
        return squares

    def saved_square(self) -> float:
        """‖Δ‖² of the rows that matrices with new tokens share with the target."""
        space, total = Workspace(), 0.0
        for each in self.contents.saved:
            difference = difference_of(self.plan.tasks[each.task], self.readers)
            total += 0.0 if difference is None else difference.square(space)
        return total

    def _factor(self, numbers: Sequence[int], widths: Sequence[int]) -> None:
        """Factorise some of the matrices, those of which an earlier run left enough on disk excepted."""
        held = self.contents.held

        def one(place: int, space: Workspace) -> None:
            number = numbers[place]
            matrix, width = held[number], widths[number]
            if self._is_there(number, width):
                return
            difference, seed, energy = self._difference(matrix), seed_of(matrix.name), self.choice.energy

            def strips() -> Iterator[tuple[int, Any]]:
                return difference.rows(PIECE, space)

            if energy is None:
                found = factorise(strips, matrix.shape, width, seed)
            else:

                def enough(factors: SingularFactors) -> bool:
                    assert energy is not None
                    return holds_energy(factors.values, factors.square, energy)

                found = factorise_until(strips, matrix.shape, width, seed, enough)
                found = found.first(rank_of_energy(found.values, found.square, energy))
            if self.choice.rank is not None:
                found = found.first(self.choice.rank)
            self._keep(number, found, width)

        for_each_tensor([self._sizes()[number] for number in numbers], one, self.workers, "factorising")

    def _stop_if_not_finite(self) -> None:
        bad = [each.name for n, each in enumerate(self.contents.held) if not math.isfinite(self._spectrum(n).square)]
        if bad:
            raise NumericsError(
                f"The diff vector holds NaN or infinity in these tensors:{listed_names(bad, 8)}\n"
                f"Leave them as the target has them with {named('rules', 'REGEX=0')}."
            )

    def _keep(self, number: int, found: SingularFactors, width: int) -> None:
        root = np.sqrt(found.values).astype(np.float32)
        arrays = {
            "left": found.left * root,
            "right": found.right * root,
            "values": found.values,
            "told": np.array([found.square, float(found.whole), float(width)]),
        }
        for name, array in arrays.items():
            with whole(self._file(number, name)) as file:
                np.save(file, array)

    def _is_there(self, number: int, width: int) -> bool:
        if not self._file(number, "told").exists():
            return False
        told = self._load(number, "told")
        return bool(told[1]) or int(told[2]) >= width

    def _spectrum(self, number: int) -> SingularFactors:
        told, none = self._load(number, "told"), np.empty((0, 0), np.float32)
        return SingularFactors(none, self._load(number, "values"), none, float(told[0]), bool(told[1]))

    def _factor_of(self, number: int, side: str, rank: int) -> np.ndarray[Any, Any]:
        factor = self._load(number, side.removesuffix(" turned"))[:, :rank]
        return factor.T if side.endswith("turned") else factor

    def _file(self, number: int, name: str) -> Path:
        return self.folder / FACTORS / f"{number:05d}.{name}.npy"

    def _load(self, number: int, name: str) -> np.ndarray[Any, Any]:
        try:
            with opened(self._file(number, name), self.folder) as file:
                found: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise damaged(self._file(number, name), error) from None
        return found

    def _difference(self, matrix: HeldMatrix) -> TargetDifference:
        found = difference_of(self.plan.tasks[matrix.task], self.readers)
        assert found is not None, "only matrices with a difference are held"
        return found

    def _whole(self, task: int) -> Iterator[memoryview]:
        """The output's bytes of a matrix with new rows, as `apply` gives them."""
        recipe, slot, space = self.plan.tasks[task].recipe, self.plan.tasks[task].slot, Workspace()
        for start in range(0, slot.elements, PIECE):
            stop = min(start + PIECE, slot.elements)
            yield recipe.piece(start, stop, 0, self.readers, space, kernel.no_sums())[0]

    def _sizes(self) -> list[int]:
        return [DTYPES["F32"].itemsize * each.shape[0] * each.shape[1] for each in self.contents.held]


def average_rank(held: Sequence[HeldMatrix], budget: int | None) -> int:
    """The rank that a budget pays for if all matrices have the same."""
    return 0 if budget is None or not held else budget // sum(each.cost for each in held)


def room_of(held: Sequence[HeldMatrix], choice: RankChoice) -> int:
    """The most bytes that the work on one matrix takes at first; energy and budget may need more directions."""
    average = average_rank(held, choice.budget)
    pieces = 6 * 4 * PIECE
    return pieces + max((room_for(each.shape, choice.first_width(each.shape, average)) for each in held), default=0)


def _is_cut(found: SingularFactors, rank: int) -> bool:
    return not found.whole or rank < len(found.values)


def _square(array: np.ndarray[Any, Any]) -> float:
    wide = array.reshape(-1).astype(np.float64)
    return float(wide @ wide)


def damaged(file: Path, error: Exception) -> OutputError:
    """The error for a file in DIR.partial that an earlier run did not write like this."""
    folder = file.parents[1]
    return OutputError(f"{file} is damaged ({error}). Remove {folder.name} and run again to start from the beginning.")


def root(square: float) -> float:
    """A norm of its square."""
    return math.sqrt(max(square, 0.0))
