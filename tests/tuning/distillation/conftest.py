"""Prompts without answers, and a teacher that has learned to answer them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny_tuning

from tuneport.tuning.recipes import SftRecipe
from tuneport.tuning.run import tune


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten prompts."""
    rows = [{"prompt": row["prompt"]} for row in tiny_tuning.sums(10)]
    return tiny_tuning.write_rows(tmp_path_factory.mktemp("distillation") / "prompts.jsonl", rows)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts to keep."""
    rows = [{"text": f"the quick brown fox {number}"} for number in range(6)]
    return tiny_tuning.write_rows(tmp_path_factory.mktemp("distillation") / "texts.jsonl", rows)


@pytest.fixture(scope="session")
def teacher(base: Path, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, fine-tuned until it answers in a token or two."""
    recipe = SftRecipe(steps=40, learning_rate=3e-2, batch_size=8)
    return tune(base, [sums], recipe, out=tmp_path_factory.mktemp("run") / "teacher").out
