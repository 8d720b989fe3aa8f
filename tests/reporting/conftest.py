"""A made-up study, written once, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.made_up_results import MadeUp

from tuneport.reporting.run import report
from tuneport.reporting.tables.report_tables import Findings, findings


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two families, one seed; one transfer failed, and what stands on it was not run."""
    return MadeUp(tmp_path_factory.mktemp("made-up") / "study", failed=(0, 0, "M1", "M5")).write()


@pytest.fixture(scope="session")
def found(study: Path) -> Findings:
    return findings(study)


@pytest.fixture(scope="session")
def page_file(study: Path) -> Path:
    return Path(report(study)["out"])
