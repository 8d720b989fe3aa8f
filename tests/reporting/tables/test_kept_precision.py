"""What another dtype would have lost is told beside the dtype in which the study did carry Δ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.made_up_results import MadeUp

from tuneport.reporting.run import report
from tuneport.reporting.tables.kept_precision import Rounded, rounded
from tuneport.reporting.tables.study_reading import CARRIED, read_study
from tuneport.studies.declared import Doing

pytestmark = pytest.mark.models  # plotly, of the report extra, draws the page

ROW = {
    "tuned": "FT(M1)",
    "family": 0,
    "seed": 1,
    "dtype": "bfloat16",
    "share_lost": 0.125,
    "changed": 200,
    "vanished": 3,
}


def test_a_row_holds_the_shares_of_length_and_of_elements_or_nothing_where_there_is_none() -> None:
    gone = {"tuned": "FT(M2)", "dtype": "bfloat16", "share_lost": None, "changed": 0, "vanished": 0}
    assert rounded([ROW, gone, {}]) == [
        Rounded("FT(M1)", 0, 1, "bfloat16", 0.125, 0.015),
        Rounded("FT(M2)", None, None, "bfloat16", None, None),
        Rounded("?", None, None, "?", None, None),
    ]


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ('recycle = "all"', "The study itself carried Δ in float32."),
        (
            'recycle = "all"\ncarry = "bfloat16"',
            "The study itself carried Δ in bfloat16: what it lost by that is not in these numbers.",
        ),
        ('transfer = "all"\ncarry = "bfloat16"', None),
    ],
)
def test_the_dtype_that_was_carried_is_the_one_of_the_studys_choices(
    tmp_path: Path, do: str, words: str | None
) -> None:
    root = MadeUp(tmp_path / "study", families=(0,), failed=None).write()
    (root / "study.toml").write_text((root / "study.toml").read_text() + f"\n[do]\n{do}\n")
    for format in ("page", "markdown"):
        written = Path(report(root, format=format)["out"]).read_text(encoding="utf-8")  # type: ignore[arg-type] # one of the two formats of the line above
        assert (words or "Δ taken from that.") in written and "carried it in full" not in written
        assert words is not None or "The study itself" not in written


def test_a_file_that_names_no_dtype_means_the_one_that_studies_take(tmp_path: Path) -> None:
    assert Doing().carry == CARRIED
    root = tmp_path / "study"
    root.mkdir()
    (root / "results.json").write_text(json.dumps({"results": []}))
    assert read_study(root).carried is None, "nobody says what was done"


def test_the_markdown_has_a_row_for_each_diff_vector(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), failed=None)
    written = Path(report(made.write(), format="markdown")["out"]).read_text(encoding="utf-8")
    (_, table) = written.split("## Rounding")
    assert table.count("bfloat16") == len(made.rounding) == 4 and "7.00\N{NO-BREAK SPACE}%" in table
