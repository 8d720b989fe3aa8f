"""The family that the ladder is climbed for, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.adapted_models import Family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    from support import adapted_models

    return adapted_models.make(tmp_path_factory.mktemp("adapted"))
