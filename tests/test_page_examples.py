"""The Python of the pages runs as it stands, in a folder with models of those names."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from test_pages import DOCS, ROOT, blocks, named

STUDY = """
[study]
name = "my study"
[[version]]
name = "A"
model = "v1"
tuned = "v1-tuned"
[[version]]
name = "B"
model = "v2"
target-only = true
[do]
transfer = "all"
compare = "all"
"""
PAGES = [ROOT / "README.md", DOCS / "python.md", DOCS / "how-to" / "research.md"]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.trio(tmp_path)
    for path, name in zip(made.paths, ("v1", "v1-tuned", "v2"), strict=True):
        path.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-study.toml").write_text(STUDY)
    examples = blocks(page, "python")
    assert examples
    for example in examples:
        exec(compile(example, str(page), "exec"), {})
    assert list(tmp_path.glob("v2-*/tuneport.json"))
