"""One tiny demo for all tests of the lab that start from a finished one."""

from pathlib import Path

import pytest

from lab.brief import BRIEF_DEMO
from tuneport.lab.demo import demo


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo's folder, to be read only."""
    pytest.importorskip("transformers")
    out = tmp_path_factory.mktemp("demo") / "demo"
    assert not demo(out, seed=0, recipe=BRIEF_DEMO).already_done
    return out
