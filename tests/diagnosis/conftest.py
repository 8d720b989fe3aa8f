"""Two tiny models of one architecture that know some answers by heart, and data to measure them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the models `half` and `all` (another start), and towns.jsonl and texts.jsonl."""
    pytest.importorskip("lm_eval")
    from support import tiny_scored

    folder = tmp_path_factory.mktemp("ends")
    tiny_scored.make_model(folder / "half", 6)
    tiny_scored.make_model(folder / "all", 12, seed=1)
    tiny_scored.write_rows(folder / "towns.jsonl", tiny_scored.rows())
    texts = [
        {"text": f"{name} lives in {town} . the town of {name} is {town}"} for name, town in tiny_scored.FACTS.items()
    ]
    tiny_scored.write_rows(folder / "texts.jsonl", texts)
    return folder


@pytest.fixture(scope="session")
def walked(ends: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """From `half` to `all` and beyond it, on questions."""
    import tuneport

    out = tmp_path_factory.mktemp("walked") / "path.json"
    record = tuneport.path(
        ends / "half",
        ends / "all",
        [ends / "towns.jsonl"],
        out,
        beyond=1.5,
        threshold=0.05,
        max_new_tokens=4,
        device="cpu",
    )
    return record, out
