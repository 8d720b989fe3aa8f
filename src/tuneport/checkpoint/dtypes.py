"""The number formats of safetensors: their sizes, and which of them tuneport computes with.

numpy has no bfloat16, so its bits are kept as uint16 and widened by `tuneport.engine.arithmetic`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["float", "exact", "quantised", "complex"]


@dataclass(frozen=True)
class DType:
    """One number format: its safetensors name, bytes per element, what it is, and numpy's type for its bits."""

    name: str
    itemsize: int
    kind: Kind
    numpy: str
    torch: str


# Sub-byte formats (F4, F6_*) are known to the official reader and refused here: no byte range of a row exists.
DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType("F64", 8, "float", "<f8", "float64"),
        DType("F32", 4, "float", "<f4", "float32"),
        DType("F16", 2, "float", "<f2", "float16"),
        DType("BF16", 2, "float", "<u2", "bfloat16"),
        DType("I64", 8, "exact", "<i8", "int64"),
        DType("I32", 4, "exact", "<i4", "int32"),
        DType("I16", 2, "exact", "<i2", "int16"),
        DType("I8", 1, "exact", "|i1", "int8"),
        DType("U64", 8, "exact", "<u8", "uint64"),
        DType("U32", 4, "exact", "<u4", "uint32"),
        DType("U16", 2, "exact", "<u2", "uint16"),
        DType("U8", 1, "exact", "|u1", "uint8"),
        DType("BOOL", 1, "exact", "|b1", "bool"),
        DType("F8_E4M3", 1, "quantised", "|u1", "float8_e4m3fn"),
        DType("F8_E5M2", 1, "quantised", "|u1", "float8_e5m2"),
        DType("F8_E8M0", 1, "quantised", "|u1", "float8_e8m0fnu"),
        DType("F8_E4M3FNUZ", 1, "quantised", "|u1", "float8_e4m3fnuz"),
        DType("F8_E5M2FNUZ", 1, "quantised", "|u1", "float8_e5m2fnuz"),
        DType("C64", 8, "complex", "<c8", "complex64"),
    )
}

# How a person may spell a float dtype on the command line, or a config in `dtype` / `torch_dtype`.
FLOAT_SPELLINGS: dict[str, str] = {
    "float64": "F64",
    "double": "F64",
    "f64": "F64",
    "fp64": "F64",
    "float32": "F32",
    "float": "F32",
    "f32": "F32",
    "fp32": "F32",
    "float16": "F16",
    "half": "F16",
    "f16": "F16",
    "fp16": "F16",
    "bfloat16": "BF16",
    "bf16": "BF16",
}  # fmt: skip  (one format a line reads as a table)
