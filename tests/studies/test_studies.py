"""The studies that come along: each reads, plans without network, and holds the paper's numbers and settings.

The numbers were typed from the paper's text and then compared, cell by cell, by a script that parses that text. What the
script found, how many numbers each table has and their sum, stands below: a number that is mistyped later moves a sum.
"""

import importlib.util
import json
import socket
import time
from math import fsum
from pathlib import Path

import pytest

from tuneport.scoring.question_tasks import judge
from tuneport.studies.declared import Study
from tuneport.studies.file.study_file import read_study
from tuneport.studies.run.describe import rehearse

FOLDER = Path(__file__).parents[2] / "studies"
FILES = sorted(FOLDER.glob("*.toml"))
PAPERS = ("llama", "multilingual", "olmo2", "stages")

# By table: how many numbers it has, and their sum, as a script reads them from the paper's text (rows that stand twice, once).
TABLES = {
    "1": (30, 1807.4),
    "2": (12, 376.3),
    "3": (30, 1134.6),
    "4": (30, 1792.3),
    "5": (9, 388.9),
    "6": (12, 805.4),
    "7": (72, 4345.3),
    "8": (96, 3834.3),
    "11": (30, 479.0),
    "12": (30, 693.0),
    "13": (30, 775.5),
}
# Typed a second time, by hand: file, table, task, kind, source, target, tuning, value.
SECOND_TYPING = (
    ("llama", "1", "IFEval", "transfer", "Llama 3.0 8B", "Llama 3.1 8B", "instruct", 83.3),
    ("llama", "1", "GPQA", "transfer", "Llama 3.1 8B", "Llama 3.0 8B", "instruct", 25.9),
    ("llama", "1", "GSM8K", "base", None, "Llama 3.1 8B", "instruct", 56.6),
    ("multilingual", "2", "Global MMLU (tr)", "transfer", "Llama 3.0 8B Instruct", "Llama 3.1 8B Instruct", "turkish", 43.2),
    ("multilingual", "2", "Global MMLU (si)", "base", None, "Llama 3.1 8B Instruct", "sinhala", 33.0),
    ("olmo2", "3", "GSM8K", "transfer", "M4", "M5", "sft", 77.1),
    ("olmo2", "3", "GSM8K", "transfer", "M1", "M5", "sft", 19.6),
    ("olmo2", "4", "GSM8K", "transfer-then-tune", "M3", "M1", "sft", 48.5),
    ("olmo2", "5", "ASDiv", "transfer-then-tune", "M4", "M5", "sft", 82.1),
    ("olmo2", "6", "GSM8K", "recycle-iterative", "M2", "M3", "sft", 67.0),
    ("olmo2", "6", "GSM8K", "recycle-direct", "M3", "M4", "sft", 77.6),
    ("olmo2", "11", "MATH500", "transfer", "M2", "M1", "sft", 7.6),
    ("olmo2", "12", "MATH500", "tuned", None, "M5", "sft", 33.0),
    ("olmo2", "13", "GPQA-Diamond", "transfer-then-tune", "M1", "M4", "sft", 33.3),
    ("stages", "7", "GSM8K", "transfer", "Llama 3.1 8B", "Llama 3.0 8B", "grpo", 85.8),
    ("stages", "8", "MMLU", "transfer", "OLMo 2 7B", "M0", "dpo", 1.3),
    ("stages", "8", "MATH", "transfer", "OLMo 2 7B", "M4'", "rlvr", 27.7),
)  # fmt: skip


def paper(name: str) -> Study:
    return read_study(FOLDER / f"{name}.toml")


@pytest.fixture
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a plan asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_each_study_of_the_paper_has_a_twin_in_the_lab() -> None:
    twins = {name for paper in PAPERS for name in (paper, f"lab-{paper}")}
    assert {file.stem for file in FILES} == twins | {"lab-olmo2-large", "lab-verdict", "lab-verdict-large"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_study_is_planned_without_network(file: Path, tmp_path: Path, without_network: None) -> None:
    told = rehearse(file, tmp_path / "out")
    assert told["steps"]
    assert not (tmp_path / "out").exists()


def test_planning_the_largest_takes_seconds_at_most(tmp_path: Path) -> None:
    started = time.process_time()
    rehearse(FOLDER / "olmo2.toml", tmp_path / "out")
    assert time.process_time() - started < 5


def test_the_papers_numbers_are_all_there() -> None:
    found: dict[str, dict[tuple[object, ...], float]] = {}
    for name in PAPERS:
        for number in paper(name).expected:
            # Llama 3.0's base stands in two studies; what the text says twice counts once.
            source = (number.kind, number.source, number.target, number.task)
            if number.kind == "transfer" or number.table in ("2", "7", "8"):
                source = (*source, number.tuning if number.kind != "base" or number.table == "2" else "")
            found.setdefault(number.table, {})[source] = number.value
    assert {table: (len(cells), round(fsum(cells.values()), 1)) for table, cells in found.items()} == TABLES


@pytest.mark.parametrize("row", SECOND_TYPING, ids=lambda row: " ".join(map(str, row)))
def test_numbers_typed_a_second_time_are_the_same(row: tuple[object, ...]) -> None:
    name, *told = row
    numbers = [[n.table, n.task, n.kind, n.source, n.target, n.tuning, n.value] for n in paper(str(name)).expected]
    assert told in numbers


def test_gains_that_tables_4_and_13_print_follow_from_their_numbers() -> None:
    values = {(n.table, n.kind, n.source, n.target): n.value for n in paper("olmo2").expected}
    printed = {("M1", "M5"): 59.0, ("M2", "M4"): 52.7, ("M4", "M5"): 0.1, ("M5", "M1"): 36.2}  # Table 4: from M_i + Δ_j
    for (source, target), gain in printed.items():
        after, before = values["4", "transfer-then-tune", source, target], values["3", "transfer", source, target]
        assert after - before == pytest.approx(gain)
    printed = {("M1", "M4"): 7.1, ("M3", "M4"): -2.5, ("M5", "M2"): 2.5}  # Table 13: from M_i
    for (source, target), gain in printed.items():
        after, before = values["13", "transfer-then-tune", source, target], values["13", "base", None, target]
        assert after - before == pytest.approx(gain)


@pytest.mark.parametrize("name", ["olmo2", "multilingual"])
def test_fine_tunings_have_the_settings_of_section_3_1(name: str) -> None:
    study = paper(name)
    assert study.tunings
    for tuning in study.tunings:
        assert dict(tuning.settings) == {
            "steps": 30_000,
            "learning_rate": 5e-6,
            "batch_size": 8,
            "lr_scheduler_type": "linear",
            "warmup_ratio": 0.03,
            "max_length": 2048,
        }


def test_the_languages_are_told_apart_by_their_data() -> None:
    data = [tuning.data for tuning in paper("multilingual").tunings]
    assert len({tuple(one) for one in data}) == 3


def test_the_curves_of_figures_2_to_4_are_read_on_the_problems_that_the_script_draws() -> None:
    script = FOLDER / "grade_school.py"
    spec = importlib.util.spec_from_file_location("grade_school", script)
    assert spec is not None and spec.loader is not None
    grade_school = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(grade_school)
    rows = list(grade_school.problems())
    assert [json.loads(line) for line in (FOLDER / "grade-school.jsonl").read_text().splitlines()] == rows
    assert len({row["messages"][0]["content"] for row in rows}) == len(rows) == 160
    study = paper("olmo2")
    evaluation = study.evaluation("sft")
    assert evaluation is not None and evaluation.validation == ("grade-school.jsonl",)
    assert all(1 <= int(row["answer"]) < 1000 for row in rows)
    right = judge(evaluation.settings["match"])
    for said in ("So 3 * 4 = 12. The final answer is 12.", "1. First 5.\n2. The final answer is: $\\boxed{12}$", "12"):
        assert right(said, "12") and not right(said, "2")


def test_known_inconsistencies_are_stated() -> None:
    notes = {name: " ".join(paper(name).notes) for name in PAPERS}
    assert "19.6" in notes["olmo2"] and "10.6" in notes["olmo2"]
    assert "75.5" in notes["olmo2"] and "75.6" in notes["olmo2"]
    assert "stage2-ingredient1-step7000-tokens30B" in notes["stages"]
    assert "stage1-step150-tokens1B" in notes["stages"]
    assert "16,700" in notes["multilingual"]


def test_every_version_of_the_papers_studies_names_a_revision() -> None:
    for name in PAPERS:
        for version in paper(name).versions:
            assert "@" in version.model
            assert all("@" in model for model in version.tuned.values())
