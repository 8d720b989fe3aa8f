"""A base model whose tokenizer the chat templates are tried with, and models that answer questions."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny_tuning
from support.scored_models import models, towns

__all__ = ["base", "models", "towns"]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model: a tokenizer that begins texts with a token of their own, no chat template, padded rows."""
    return tiny_tuning.base_model(tmp_path_factory.mktemp("examples") / "base")
