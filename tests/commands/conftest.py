"""What the commands are called with: a made-up study, and a file of questions."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.made_up_results import MadeUp
from support.scored_models import models, towns

__all__ = ["models", "study", "towns"]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two families, one seed; one transfer failed, and what stands on it was not run."""
    return MadeUp(tmp_path_factory.mktemp("made-up") / "study", failed=(0, 0, "M1", "M5")).write()
