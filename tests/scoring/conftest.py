"""The models and questions of all tests of scoring."""

import pytest

pytest.importorskip("lm_eval")

from support.scored_models import models, towns

__all__ = ["models", "towns"]
