"""target + (tuned - base) in plain numpy, without a line of tuneport: float32, then rounded once to bfloat16."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COMPARED = 6


def differing_tensors(base: Path, tuned: Path, target: Path, out: Path) -> tuple[int, list[str]]:
    """How many tensors were compared, and the names of those whose bytes differ: the largest, the smallest, some between."""
    models = [_tensors(folder) for folder in (base, tuned, target, out)]
    names = sorted(models[3], key=lambda name: (models[3][name][2], name))
    chosen = [
        names[place] for place in sorted({round(i * (len(names) - 1) / (_COMPARED - 1)) for i in range(_COMPARED)})
    ]
    wrong = []
    for name in chosen:
        b, t, o, made = (_bits(model[name]) for model in models)
        if not np.array_equal(_narrow(_wide(o) + (_wide(t) - _wide(b))), made):
            wrong.append(name)
    return len(chosen), wrong


def _tensors(folder: Path) -> dict[str, tuple[Path, int, int]]:
    """Of each tensor the file, the first byte and the number of bytes."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header: dict[str, Any] = json.loads(opened.read(length))
        for name, told in header.items():
            if name != "__metadata__":
                assert told["dtype"] == "BF16", f"{name} of {folder} is {told['dtype']}"
                begin, end = told["data_offsets"]
                found[name] = (file, 8 + length + begin, end - begin)
    return found


def _bits(place: tuple[Path, int, int]) -> NDArray[np.uint16]:
    file, begin, length = place
    return np.fromfile(file, "<u2", count=length // 2, offset=begin)


def _wide(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrow(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """To the nearest bfloat16, to even where two are as near."""
    bits = values.view(np.uint32)
    return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
