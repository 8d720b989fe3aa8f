"""One tiny demo for all tests that start from a finished one."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from support.brief_recipes import BRIEF_DEMO

from tuneport.families import processes
from tuneport.families.demo.demo_run import demo


@pytest.fixture(scope="package")
def workers() -> Iterator[None]:
    """The lab's two processes, started once: that each loads torch, TRL and the harness is most of a brief run's time."""
    pytest.importorskip("transformers")
    with processes.two_processes() as pool, pytest.MonkeyPatch.context() as patch:
        for place in ("processes", "demo.demo_run"):
            patch.setattr(f"tuneport.families.{place}.two_processes", lambda: nullcontext(pool))
        yield


@pytest.fixture(scope="package")
def finished_demo(workers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo's folder, to be read only."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    assert not demo(out, seed=0, recipe=BRIEF_DEMO).already_done
    return out
