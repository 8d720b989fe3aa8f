"""The family that is probed, made once for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.probed_models import Asked


@pytest.fixture(scope="session")
def asked(ends: Path, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    from support import probed_models

    return probed_models.make(tmp_path_factory.mktemp("asked"), ends)
