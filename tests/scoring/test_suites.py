"""The suites are the paper's tables, can be shown without network or harness, and every task runs on local rows."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
from support import tiny_scored

import tuneport
from tuneport.errors import ScoringError, UsageError
from tuneport.scoring import suites
from tuneport.scoring.named import NamedTask, load_named, load_suite
from tuneport.scoring.suites import LLAMA3, TULU3, VARIANTS, find_suite

# Tables 9 and 10 of the paper, typed once more: task, shots, CoT, metric.
TABLE_9 = [
    ("GSM8K", 8, True, "exact match acc."),
    ("MATH", 4, True, "exact match acc."),
    ("ARC-C", 0, False, "acc."),
    ("GPQA", 0, True, "exact match acc."),
    ("MMLU", 0, True, "exact match acc."),
    ("IFEval", 0, False, "avg. acc. (strict & loose)"),
]
TABLE_10 = [
    ("GSM8K", 8, True, "exact match acc."),
    ("MATH", 4, True, "flex exact match acc."),
    ("ARC-C", 5, False, "acc."),
    ("GPQA", 0, True, "exact match acc."),
    ("MMLU", 0, True, "exact match acc."),
    ("IFEval", 0, False, "prompt-level loose acc."),
    ("MATH500", 0, True, "exact match acc."),
    ("GPQA-Diamond", 0, True, "exact match acc."),
    ("TabMWP", 0, True, "exact match acc."),
    ("ASDiv", 0, True, "exact match acc."),
]
# Scores as the tables print them, a row a line.
TABLES_1_AND_7 = """
Llama 3.0 8B            55.6 17.3 79.7 22.3 66.7 34.5
Llama 3.0 8B Instruct   81.1 28.8 82.4 31.5 64.9 76.6
Llama 3.0 8B + Δ3.1     82.8 44.7 83.0 25.9 70.0 76.6
Llama 3.1 8B            56.6 19.3 79.2 21.9 66.8 36.4
Llama 3.1 8B Instruct   86.5 50.3 83.8 31.3 72.9 80.5
Llama 3.1 8B + Δ3.0     79.8 29.9 82.9 32.6 65.1 83.3
"""
TABLES_7_AND_8 = """
Tülu 3 8B SFT           76.2 31.6 79.1 31.0 65.1 72.0
Tülu 3 8B DPO           84.1 42.4 79.6 33.3 68.4 81.7
Tülu 3 8B               87.9 43.4 79.4 34.4 67.9 81.5
Llama 3.0 8B + ΔSFT     71.8 26.3 77.9 32.1 63.5 69.1
Llama 3.0 8B + ΔDPO     81.1 38.1 78.6 31.9 67.5 82.9
Llama 3.0 8B + ΔRLVR    85.1 37.6 79.1 32.4 66.2 82.4
Tülu 3.1 8B             89.9 43.3 79.0 31.4 67.6 84.1
Llama 3.0 8B + ΔGRPO    85.8 39.5 78.2 29.4 65.0 82.6
OLMo 2 7B               67.2 19.2 79.9 20.5 63.6 23.0
OLMo 2 7B SFT           71.7 25.2 79.7 27.9 61.2 67.7
OLMo 2 7B DPO           82.5 31.3 80.5 30.6 62.1 73.2
OLMo 2 7B Instruct      85.3 29.7 80.6 29.7 63.3 75.6
"""

SUBJECTS = sorted(
    path.stem.removeprefix("global_mmlu_full_tr_")
    for path in (Path(lm_eval.__file__).parent / "tasks" / "global_mmlu" / "full" / "tr").glob("global_*.yaml")
)
assert len(SUBJECTS) == 57

# A few rows in each data set's own schema, by the path the tasks name.
ARC = [
    {"id": f"q{n}", "question": f"Which is {word}?", "answerKey": key, "choices": {"text": ["a", "b", "c", "d"], "label": list(labels)}}
    for n, (word, key, labels) in enumerate([("wet", "B", "ABCD"), ("dry", "3", "1234"), *[("old", "A", "ABCD")] * 4])
]  # fmt: skip
MATH = [
    {"problem": f"What is $1 + {n}$?", "level": "Level 1", "type": "Algebra", "solution": f"It is $\\boxed{{{n + 1}}}$."}
    for n in range(3)
]  # fmt: skip
MMLU = [
    {"question": f"How many are {n}?", "subject": "s", "choices": ["0", "1", "2", "3"], "answer": n} for n in range(3)
]
GPQA = [
    {"Question": f"Why {n}?", "Correct Answer": "so", "Incorrect Answer 1": "x", "Incorrect Answer 2": "y", "Incorrect Answer 3": "z"}
    for n in range(3)
]  # fmt: skip
IFEVAL = [
    {"key": 1, "prompt": "Write without commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {
        "key": 2,
        "prompt": "Say nothing in capitals, without commas.",
        "instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase"],
        "kwargs": [{}, {}],
    },
]
ROWS: dict[str, list[dict[str, Any]]] = {
    "openai/gsm8k": [{"question": f"What is 1 + {n}?", "answer": f"<<1+{n}={n + 1}>>\n#### {n + 1}"} for n in range(9)],
    "EleutherAI/hendrycks_math": MATH,
    "HuggingFaceH4/MATH-500": [row | {"answer": "1", "subject": "Algebra", "unique_id": "u"} for row in MATH],
    "allenai/ai2_arc": ARC,
    "Idavidrein/gpqa": GPQA,
    "cais/mmlu": MMLU,
    "hails/mmlu_no_train": MMLU,
    "google/IFEval": IFEVAL,
    "EleutherAI/asdiv": [
        {"body": "Two pens.", "question": "How many?", "solution_type": "Sum", "answer": "2 (pens)", "formula": "2=2"}
    ],
    "CohereForAI/Global-MMLU": [
        {"sample_id": f"{subject}/{n}", "subject": subject, "question": "Kaç?", "answer": "B"}
        | {f"option_{letter}": letter for letter in "abcd"}
        for n, subject in enumerate(SUBJECTS)
    ],
}
TABMWP = {
    "8": {
        "question": "How many pens?", "choices": None, "answer": "1,240", "unit": "pens", "table_title": "Pens",
        "table": "Ann | 1,000\nBen | 240", "row_num": 2, "column_num": 2, "solution": "Add.", "ques_type": "free_text",
        "ans_type": "integer_number", "grade": 3, "split": "test",
    },
    "9": {
        "question": "Who has more?", "choices": ["Ann", "Ben"], "answer": "Ann", "unit": None, "table_title": None,
        "table": "Ann | 1,000\nBen | 240", "row_num": 2, "column_num": 2, "solution": "See.", "ques_type": "multi_choice",
        "ans_type": "other_text", "grade": 1, "split": "test",
    },
}  # fmt: skip


@pytest.fixture
def local_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data sets' paths lead to files of a few rows; the loader stays the library's own."""
    real = datasets.load_dataset
    loaded: dict[str, Any] = {}
    for path, rows in ROWS.items():
        tiny_scored.write_rows(tmp_path / f"{path.replace('/', '--')}.jsonl", rows)
    (tmp_path / "tabmwp.json").write_text(json.dumps(TABMWP))

    def load(path: str, name: str | None = None, **_: Any) -> Any:
        if path not in ROWS:
            raise ConnectionError(f"Couldn't reach {path}")
        if path not in loaded:
            file = str(tmp_path / f"{path.replace('/', '--')}.jsonl")
            splits = dict.fromkeys(("train", "validation", "test", "dev"), file)
            loaded[path] = real("json", data_files=splits, cache_dir=str(tmp_path / "cache"))
        return loaded[path]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("tuneport.scoring.tasks.TABMWP", str(tmp_path / "tabmwp.json"))
    # NLTK's file of sentence ends, of which no row here has need: it has to be there, and may be empty.
    folder = tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (folder / name).write_text("")
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])
    return tmp_path


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base model and a tuned one that end at once."""
    folder = tmp_path_factory.mktemp("silent")
    return tiny_scored.make_silent(folder / "bare", template=None), tiny_scored.make_silent(folder / "chatty")


@pytest.mark.parametrize(("suite", "table"), [(LLAMA3, TABLE_9), (TULU3, TABLE_10)])
def test_a_suite_is_its_table_cell_by_cell(suite: suites.Suite, table: list[Any]) -> None:
    assert [(task.title, task.shots, task.cot, task.metric) for task in suite.tasks] == table
    for task in suite.tasks:
        assert {task.recipe(variant).shots for variant in VARIANTS} == {task.shots}


@pytest.mark.parametrize(("suite", "text"), [(LLAMA3, TABLES_1_AND_7), (TULU3, TABLES_7_AND_8)])
def test_published_scores_are_those_of_the_tables(suite: suites.Suite, text: str) -> None:
    rows = {}
    for line in text.strip().splitlines():
        *name, a, b, c, d, e, f = line.split()
        scores = dict(zip([title for title, *_ in TABLE_9], map(float, (a, b, c, d, e, f)), strict=True))
        rows[" ".join(name)] = scores
    assert suite.published == rows


@pytest.mark.parametrize(
    ("language", "scores"),
    [("mg", [23.1, 30.8, 27.6, 32.3]), ("si", [23.3, 29.0, 33.0, 32.3]), ("tr", [30.8, 43.2, 27.7, 43.2])],
)
def test_global_mmlu_has_table_2s_scores_and_table_9s_setting(language: str, scores: list[float]) -> None:
    suite = find_suite(f"global-mmlu:{language}")
    (task,) = suite.tasks
    assert (task.shots, task.cot, task.metric) == (0, False, "acc.")
    assert task.base == task.tuned
    assert [score for row in suite.published.values() for score in row.values()] == scores


def test_show_prints_a_suite_without_network_and_without_the_harness() -> None:
    code = (
        "import sys, socket\n"
        "for name in ('torch', 'transformers', 'lm_eval', 'datasets', 'numpy'): sys.modules[name] = None\n"
        "def no(*_): raise AssertionError('the network was asked for')\n"
        "socket.socket.connect = no\n"
        "from tuneport.cli import main\n"
        "sys.exit(main(['evaluate', '--suite', sys.argv[1], '--show', *sys.argv[2:]]))\n"
    )
    for name in ("llama3", "tulu3", "global-mmlu:mg"):
        ran = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "published, other harness" in ran.stdout
        assert "-shot" in ran.stdout
    assert (
        "GSM8K: 8-shot, reasoning, exact match acc."
        in subprocess.run([sys.executable, "-c", code, "llama3"], capture_output=True, text=True, check=True).stdout
    )
    told = json.loads(
        subprocess.run([sys.executable, "-c", code, "tulu3", "--json"], capture_output=True, check=True).stdout
    )
    assert [task["title"] for task in told["tasks"]] == [title for title, *_ in TABLE_10]


def test_unknown_suites_and_variants_end_in_words(models: Path, tmp_path: Path) -> None:
    for name in ("llama4", "global-mmlu", "global-mmlu:", "global-mmlu:turkish"):
        with pytest.raises(UsageError, match="llama3, global-mmlu:LANG, tulu3, livecodebench"):
            find_suite(name)
    with pytest.raises(UsageError, match="the harness has no task global_mmlu_full_zz"):
        tuneport.evaluate([models / "all"], [], tmp_path / "o.json", suite="global-mmlu:zz")
    with pytest.raises(UsageError, match="variant="):
        tuneport.evaluate([models / "all"], [], tmp_path / "o.json", suite="llama3", variant="both")


@pytest.mark.parametrize("name", ["llama3", "tulu3", "global-mmlu:tr"])
def test_every_task_of_a_suite_runs_in_both_variants_on_rows_of_its_own_schema(
    name: str, local_data: Path, silent: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = find_suite(name)
    if suite is TULU3:  # the rows that both suites have run once
        suite = replace(TULU3, tasks=tuple(task for task in TULU3.tasks if task not in LLAMA3.tasks))
        assert len(suite.tasks) == 7
        monkeypatch.setattr("tuneport.scoring.run.find_suite", lambda _: suite)
    record = tuneport.evaluate(list(silent), [], tmp_path / "o.json", suite=name, limit=2, device="cpu", batch_size=8)
    bare, chatty = record["models"]
    for model, variant in ((bare, "base"), (chatty, "tuned")):
        assert list(model["tasks"]) == [task.title for task in suite.tasks]
        for task in suite.tasks:
            found = model["tasks"][task.title]
            assert found["metric"] == task.recipe(variant).metric  # type: ignore[arg-type]
            assert (found["variant"], found["shots"]) == (variant, task.shots)
            assert found["n"] >= 1
            assert found["interval"] is not None, task.title
            assert 0 <= found["value"] <= 1
    # MMLU's subjects have other names in its two variants, and so cannot be paired.
    assert {row["task"] for row in record["comparisons"]} == {task.title for task in suite.tasks} - {"MMLU"}
    assert all(row["across_variants"] == ["base", "tuned"] for row in record["comparisons"])
    assert any("across_variants" in warning for warning in record["warnings"])


RIGHT = {
    "GSM8K": "1 + 0 is 1. The final answer is 1",
    "MATH": "So it is $\\boxed{1}$. Final Answer: The final answer is $1$. I hope it is correct.",
    "MATH500": "So it is $\\boxed{1}$. Final Answer: The final answer is $1$. I hope it is correct.",
    "TabMWP": "1,000 and 240 are 1,240.\nThe answer is 1240.",
    "ASDiv": "Two pens. The final answer is 2",
    "ARC-C": "B",
    "MMLU": "The best answer is A.",
    "IFEval": "no comma here",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_generated_answer_is_judged_right_or_wrong_by_its_task(variant: suites.Variant, local_data: Path) -> None:
    judged = 0
    for suite in (LLAMA3, TULU3):
        for task in load_suite(suite, variant):
            leaf = next(iter(task.tasks.values()))
            if leaf.OUTPUT_TYPE != "generate_until":
                continue
            document = next(iter(leaf.eval_docs))
            right = RIGHT.get(task.name)
            if right is None:  # GPQA's right letter depends on the order
                right = f"Some thought. The answer is ({leaf.doc_to_target(document)})."
            if task.name == "GSM8K" and variant == "base":
                right = right.replace("final answer is 1", "answer is 1.")
            if task.name == "ARC-C":
                right = "B"
            for said, expected in ((right, 1.0), ("I do not know, sorry, 77", 0.0)):
                scored = score_of(task, leaf, document, said)
                assert scored == expected, (suite.name, task.name, said)
                judged += 1
    assert judged >= 16


def score_of(task: NamedTask, leaf: Any, document: Any, said: str) -> float:
    """What the task's own filters and metric make of an answer."""
    from lm_eval.api.instance import Instance

    assert task.metric is not None
    total = []
    for key in task.metric.split("+"):
        metric, _, filtered = key.partition(",")
        instance = Instance("generate_until", document, ("", {}), 0, metadata=(task.name, 0, 1), resps=[said])
        for ensemble in leaf._filters:
            ensemble.apply([instance])
        value = leaf.process_results(document, [instance.filtered_resps[filtered]])[metric]
        total.append(float(value[0] if isinstance(value, list) else value))
    return sum(total) / len(total)


def test_the_mean_of_ifevals_four_scores_is_the_mean_of_the_harnesss(
    local_data: Path, silent: tuple[Path, Path], tmp_path: Path
) -> None:
    record = tuneport.evaluate([silent[0]], [], tmp_path / "o.json", suite="llama3", limit=2, device="cpu")
    found = record["models"][0]["tasks"]["IFEval"]
    assert found["value"] == pytest.approx(sum(found["others"].values()) / 4)
    assert len(found["others"]) == 4


def test_gpqas_order_of_choices_is_the_same_at_every_start_and_not_always_the_same_letter() -> None:
    from tuneport.scoring.tasks import gpqa

    first, second = gpqa("gpqa_main"), gpqa("gpqa_main")
    rows = [GPQA[0] | {"Question": f"Why {n}?"} for n in range(40)]
    letters = [first["doc_to_target"](row) for row in rows]
    assert letters == [second["doc_to_target"](row) for row in rows]
    assert set(letters) == {"A", "B", "C", "D"}
    assert f"({letters[0]}) so" in first["doc_to_text"](rows[0])


def test_tasks_of_the_harness_by_name_are_scored_with_all_their_metrics(
    local_data: Path, silent: tuple[Path, Path], tmp_path: Path
) -> None:
    record = tuneport.evaluate([silent[0]], ["arc_challenge", "mmlu_stem"], tmp_path / "o.json", limit=2, device="cpu")
    tasks = record["models"][0]["tasks"]
    assert (tasks["arc_challenge"]["metric"], list(tasks["arc_challenge"]["others"])) == ("acc,none", ["acc_norm,none"])
    assert tasks["mmlu_stem"]["n"] > 20  # a group of subjects, pooled
    assert tasks["mmlu_stem"]["interval"] is not None
    lines = [json.loads(line) for line in (tmp_path / "o.examples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(line["asked"].rstrip().endswith("Answer:") for line in lines)


def test_a_task_that_the_harness_does_not_have_is_told_with_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Any:
        raise AssertionError("all tasks were read")

    monkeypatch.setattr("tuneport.scoring.named._all_tasks", never)
    with pytest.raises(
        UsageError, match=r"'arc_chalenge': the harness has no task of this name \(near: .*arc_challenge"
    ):
        load_named(["arc_chalenge"])


def test_gated_data_and_missing_files_end_in_words_before_a_model_is_loaded(
    local_data: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    def gated(path: str, *_: Any, **__: Any) -> Any:
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{path}' is a gated dataset on the Hub.")

    def never(*_: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("tuneport.scoring.run.load", never)
    # The folder of boolq has another name; it is found by the file that declares it.
    monkeypatch.setattr("tuneport.scoring.named._all_tasks", never)
    with pytest.raises(ScoringError, match="cannot be downloaded"):
        tuneport.evaluate([models / "all"], ["boolq"], tmp_path / "o.json")
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(ScoringError, match="NLTK's data file punkt_tab"):
        tuneport.evaluate([models / "all"], ["ifeval"], tmp_path / "o.json")
    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(ScoringError, match="accept the licence"):
        tuneport.evaluate([models / "all"], ["gpqa_main_cot_zeroshot"], tmp_path / "o.json")
