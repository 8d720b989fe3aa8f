"""Adapters of every kind, each made once."""

from __future__ import annotations

import pytest
import torch
from support.tiny_adapters import KINDS, Adapter, Made, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Adapters by kind and dtype."""
    found: dict[tuple[str, torch.dtype], Adapter] = {}

    def get(kind: str, dtype: torch.dtype = torch.bfloat16) -> Adapter:
        if (kind, dtype) not in found:
            found[kind, dtype] = make(tmp_path_factory.mktemp("adapter"), KINDS[kind], dtype)
        return found[kind, dtype]

    return get
