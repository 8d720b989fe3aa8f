"""Whether an output is right: torch in float32, one rounding to bfloat16, element by element.

In come a triple and an output folder, out come counts: elements compared, elements whose bits differ, the largest
difference, names that are missing or extra. Rows of the embedding are paired by token string, read from tokenizer.json
by a few lines of their own. Memory does not grow with the model.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.triple import ROLES, Triple

BLOCK = 4 * 2**20
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Comparison:
    """How an output differs from the reference. ``tensors`` counts tensors in which any element does."""

    elements: int
    different: int
    tensors: int
    largest: float
    where: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def __str__(self) -> str:
        """A cell of the table."""
        if self.missing:
            return f"{len(self.missing)} tensors missing"
        return "exact" if not self.different else f"{self.different / self.elements:.2%} differ, ≤ {self.largest:.2g}"


def compare(triple: Triple, variant: str, out: Path) -> Comparison:
    """Hold the weights in ``out`` against target + (tuned − base)."""
    inputs = [_tensors(triple.model(role, variant)) for role in ROLES]
    produced = _tensors(out)
    rows = _rows(triple, variant) if variant == "differ" else None
    different, largest, elements, where = 0, 0.0, 0, []
    for name, shape in triple.size.shapes().items():
        if name not in produced:
            continue
        wrong, width = 0, shape[-1]
        step = max(1, BLOCK // width) * width
        for start in range(0, math.prod(shape), step):
            end = min(start + step, math.prod(shape))
            base, tuned, target = (torch.from_numpy(source[name][start:end]) for source in inputs)
            if rows is not None and name == EMBEDDING:
                wanted = _by_token(inputs, name, rows, start // width, end // width, width)
            else:
                wanted = (target.view(torch.bfloat16).float() + _difference(base, tuned)).to(torch.bfloat16)
            got = torch.from_numpy(produced[name][start:end]).view(torch.bfloat16)
            unequal = got.view(torch.int16) != wanted.view(torch.int16)
            count = int(unequal.sum())
            if count:
                wrong += count
                gap = (got.float() - wanted.float()).abs().max().item()
                largest = max(largest, gap)
        elements, different = elements + math.prod(shape), different + wrong
        if wrong:
            where.append(name)
    shapes = triple.size.shapes()
    return Comparison(
        elements,
        different,
        len(where),
        largest,
        tuple(where[:3]),
        tuple(sorted(shapes.keys() - produced.keys())),
        tuple(sorted(produced.keys() - shapes.keys())),
    )


def _difference(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    return tuned.view(torch.bfloat16).float() - base.view(torch.bfloat16).float()


def _by_token(
    inputs: list[dict[str, np.ndarray]], name: str, rows: np.ndarray, first: int, last: int, width: int
) -> torch.Tensor:
    """Rows of the embedding: the target's, plus the difference of base's row of the same token where there is one."""
    base, tuned, target = (torch.from_numpy(source[name].reshape(-1, width)) for source in inputs)
    result = target[first:last].view(torch.bfloat16).float()
    partner = torch.from_numpy(rows[first:last])
    known = partner >= 0
    result[known] += _difference(base[partner[known]], tuned[partner[known]])
    return result.to(torch.bfloat16).reshape(-1)


def _rows(triple: Triple, variant: str) -> np.ndarray:
    """For each row of the target, the row of base that has the same token, or −1."""
    known, target = (_ids(triple.model(role, variant)) for role in ("base", "target"))
    rows = np.full(max(target.values()) + 1, -1)
    for token, id in target.items():
        rows[id] = known.get(token, -1)
    return rows


def _ids(model: Path) -> dict[str, int]:
    read = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    return {**read["model"]["vocab"], **{entry["content"]: entry["id"] for entry in read["added_tokens"]}}


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    """Bits of every tensor, mapped from the files."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        bits = np.memmap(file, np.uint8, "c", offset=8 + length)  # torch wants writable memory
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                assert entry["dtype"] == "BF16", f"{file}: {name} is {entry['dtype']}"
                found[name] = bits[begin:end].view(np.int16)
    return found
