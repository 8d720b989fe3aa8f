"""Two tiny models of one architecture that know some answers by heart, and data to measure them on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the models `half` and `all` (another start), and towns.jsonl and texts.jsonl."""
    pytest.importorskip("lm_eval")
    import tiny_scored

    folder = tmp_path_factory.mktemp("ends")
    tiny_scored.make_model(folder / "half", 6)
    tiny_scored.make_model(folder / "all", 12, seed=1)
    tiny_scored.write_rows(folder / "towns.jsonl", tiny_scored.rows())
    texts = [
        {"text": f"{name} lives in {town} . the town of {name} is {town}"} for name, town in tiny_scored.FACTS.items()
    ]
    tiny_scored.write_rows(folder / "texts.jsonl", texts)
    return folder
