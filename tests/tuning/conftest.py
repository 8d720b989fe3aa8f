"""Models and data that the tests of fine-tuning share; nobody writes into them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny_tuning
from support.quick_tuning import QUICK

from tuneport.tuning.recipes import Lora
from tuneport.tuning.run import tune


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model: a tokenizer that begins texts with a token of their own, no chat template, padded rows."""
    return tiny_tuning.base_model(tmp_path_factory.mktemp("tuning") / "base")


@pytest.fixture(scope="session")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts and completions."""
    return tiny_tuning.write_rows(tmp_path_factory.mktemp("tuning") / "sums.jsonl", tiny_tuning.sums())


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of two turns."""
    return tiny_tuning.write_rows(tmp_path_factory.mktemp("tuning") / "chats.jsonl", tiny_tuning.chats())


@pytest.fixture(scope="session")
def full(base: Path, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parameters, fine-tuned."""
    return tune(base, [sums], QUICK, out=tmp_path_factory.mktemp("run") / "full").out


@pytest.fixture(scope="session")
def adapter(base: Path, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter, on the same examples."""
    return tune(base, [sums], QUICK, out=tmp_path_factory.mktemp("run") / "lora", lora=Lora(rank=4)).out
