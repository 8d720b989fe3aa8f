"""The page of a file of scores, and of a demo: the file's own numbers, the answer first."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from support.command_results import Cli

from tuneport.errors import ReportError
from tuneport.reporting.run import report
from tuneport.reporting.sections.contents import of_evaluation
from tuneport.reporting.sections.parts import Facts, Lead
from tuneport.results.evaluation_reading import read_evaluation

MODELS = ("v2", "v2-carried", "v2-tuned")


def scores(place: Path, gain: float = 0.3, significant: bool = True, roles: bool = True, tasks: int = 2) -> Path:
    """A file as `tuneport evaluate` writes it, of three models; the numbers are made up."""
    values = {"v2": 0.2, "v2-carried": 0.2 + gain, "v2-tuned": 0.6}
    names = [f"task {number}" for number in range(tasks)]

    def task(value: float) -> dict[str, Any]:
        bounds = [value - 0.05, value + 0.05]
        return {
            "metric": "exact_match",
            "value": value,
            "stderr": 0.02,
            "n": 300,
            "interval": bounds,
            "higher_is_better": True,
        }

    told = {
        "format": "tuneport.evaluation/1",
        "models": [{"model": name, "tasks": {each: task(value) for each in names}} for name, value in values.items()],
        "comparisons": [
            {
                "models": [one, other], "task": each, "difference": values[other] - values[one], "p_adjusted": 0.001 if significant else 0.6,
                "interval": [values[other] - values[one] - 0.02, values[other] - values[one] + 0.02], "n": 300, "significant": significant,
            }
            for each in names
            for one, other in combinations(MODELS, 2)
        ],
        "recovered_gain": [
            {"task": each, "target": "v2", "transferred": "v2-carried", "tuned_target": "v2-tuned", "recovered_gain": gain / 0.4, "interval": [0.1, 0.9]}
            for each in names
        ] if roles else [],
        "settings": {"seed": 0},
        "versions": {"tuneport": "0"},
    }  # fmt: skip
    place.write_text(json.dumps(told))
    return place


def lead_of(file: Path) -> Lead:
    first = of_evaluation(read_evaluation(file)).sections[0].parts[0]
    assert isinstance(first, Lead)
    return first


@pytest.mark.parametrize(
    ("gain", "significant", "answer"),
    [
        (0.3, True, "Yes."),
        (-0.1, True, "No."),
        (0.01, False, "No gain, no harm."),
        (-0.02, False, "The data do not show it."),
    ],
)
def test_the_answer_follows_the_files_own_comparisons(
    tmp_path: Path, gain: float, significant: bool, answer: str
) -> None:
    assert lead_of(scores(tmp_path / "scores.json", gain, significant)).answer == answer


def test_three_numbers_of_the_file_stand_first(tmp_path: Path) -> None:
    shown = of_evaluation(read_evaluation(scores(tmp_path / "scores.json")))
    facts = shown.sections[0].parts[1]
    assert isinstance(facts, Facts)
    assert [fact.value for fact in facts.facts] == ["+30.0 points", "0.75", "−10.0 points"]
    assert [fact.interval for fact in facts.facts] == ["[+28.0, +32.0]", "[0.10, 0.90]", "[−12.0, −8.0]"]


def test_without_roles_it_says_which_model_is_better(tmp_path: Path) -> None:
    file = scores(tmp_path / "scores.json", roles=False)
    assert "v2-carried is significantly better than v2 on task 0 and task 1" in lead_of(file).words
    assert lead_of(scores(tmp_path / "scores.json", significant=False, roles=False)).answer == "Not shown."


def test_the_command_takes_a_file_of_scores_and_writes_beside_it(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("plotly")  # of the report extra, which a page of HTML needs
    file = scores(tmp_path / "scores.json", tasks=14)
    told = cli("report", file, "--json").json()
    page = (tmp_path / "scores.html").read_text(encoding="utf-8")
    assert told["out"] == str(tmp_path / "scores.html") and page.count("task 13") >= 2
    assert cli("report", file, "--format", "markdown").status == 0
    assert "| task 13 | 300 |" in (tmp_path / "scores.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"format": "tuneport.path/1"}', '{"format": "tuneport.evaluation/1"}']
)
def test_what_is_no_file_of_scores_is_refused_in_words(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ReportError):
        report(tmp_path / "x.json", format="markdown")


def test_a_demos_folder_has_a_page_like_a_study(tmp_path: Path) -> None:
    models = {
        "v1": 0.1,
        "v2": 0.0,
        "v1-tuned": 0.8,
        "v2-tuned": 0.9,
        "v2-transferred": 0.7,
        "v2-adapted": 0.8,
        "v2-shuffled": 0.0,
    }
    (tmp_path / "scores").mkdir()
    for name, share in models.items():
        task = {"metric": "exact_match", "value": share, "n": 100, "higher_is_better": True}
        told = {"format": "tuneport.evaluation/1", "models": [{"model": name, "tasks": {"sums": task}}]}
        (tmp_path / "scores" / f"{name}.json").write_text(json.dumps(told))
        lines = [
            {"model": name, "task": "sums", "id": n, "score": float(n < 100 * share), "said": "x"} for n in range(100)
        ]
        file = tmp_path / "scores" / f"{name}.examples.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = [{"step": step, "accuracy": 0.5 + step / 1000, "interval": [0.4, 0.9]} for step in (0, 100)]
    curves = {"n": 50, "from_target": curve, "from_transferred": curve}
    (tmp_path / "summary.json").write_text(json.dumps({"format": "tuneport-demo-1", "transfer_then_tune": curves}))
    told = report(tmp_path, format="markdown")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        told["out"] == str(tmp_path / "report.md")
        and "**Yes.** v2 + Δ(v1) is significantly better than v2 on sums." in text
    )
    assert "+ Δ(v1) → adapted" in text
    assert "shuffled" in text and str(tmp_path) not in text
