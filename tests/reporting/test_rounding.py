"""What another dtype would have lost is told beside the dtype in which the study did carry Δ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.made_up_results import MadeUp

from tuneport.reporting.run import report

pytestmark = pytest.mark.models  # plotly and Jinja2, of the report extra, make the page


def table_of(made: MadeUp) -> list[list[str]]:
    written = Path(report(made.write(), format="markdown")["out"]).read_text(encoding="utf-8")
    (_, section) = written.split("### Rounding")
    lines = [line for line in section.split("\n\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_the_markdown_has_a_row_for_each_diff_vector(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), failed=None)
    rows = table_of(made)
    assert [row[0] for row in rows] == [f"FT({name})" for name in ("M1", "M2", "M3", "M4")] and len(made.rounding) == 4
    assert rows[0][1:] == ["0", "0", "bfloat16", "7.00\N{NO-BREAK SPACE}%", "4.50\N{NO-BREAK SPACE}%"]


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), failed=None)
    made.rounding += [{"tuned": "FT(M9)", "dtype": "bfloat16", "share_lost": None, "changed": 0, "vanished": 0}, {}]
    assert table_of(made)[:2] == [["FT(M9)", "–", "–", "bfloat16", "–", "–"], ["?", "–", "–", "?", "–", "–"]]


@pytest.mark.parametrize(
    ("carried", "words"),
    [
        ("float32", "The study itself kept Δ in float32."),
        ("bfloat16", "The study itself kept Δ in bfloat16: its own loss is not in these numbers."),
        (None, None),
    ],
)
def test_the_dtype_that_was_carried_is_told(tmp_path: Path, carried: str | None, words: str | None) -> None:
    root = MadeUp(tmp_path / "study", families=(0,), failed=None).write()
    told = json.loads((root / "results.json").read_text())
    told["study"]["carried"] = carried
    (root / "results.json").write_text(json.dumps(told))
    for format in ("page", "markdown"):
        written = Path(report(root, format=format)["out"]).read_text(encoding="utf-8")  # type: ignore[arg-type] # one of the two formats of the line above
        assert (words or "Δ is computed from that.") in written
        assert words is not None or "The study itself" not in written
