"""What a study is estimated to cost: disk, GPU hours, and what is assumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import tiny_study
from support.declared_studies import COST, EVALUATE, TUNE, declared, graph_of, named, versions

from tuneport.studies.run.cost import CostEstimates

DO = 'transfer = [["M4", "M5"]]'
FAST = COST.replace("tokens-per-example = 1000\nquestions = 500\ntokens-per-question = 200\n", "bandwidth = 2e12\n")


def test_costs_are_those_of_the_formula() -> None:
    study = declared(versions(more="parameters = 2e9"), TUNE, EVALUATE, f"[do]\n{DO}\n", COST)
    graph = graph_of(study)
    estimates = CostEstimates(study, graph)
    tune = estimates.of(named(graph, "tune FT(M4)"))
    assert tune.disk == 4_000_000_000, "two bytes a parameter, as the Hub's models are taken to have"
    assert tune.gpu_hours == pytest.approx(6 * 2e9 * (100 * 8 * 1000) / (300e12 * 0.5) / 3600)
    moved = estimates.of(named(graph, "transfer M5 + Δ(M4)"))
    assert (moved.disk, moved.gpu_hours) == (4_000_000_000, 0)
    scored = estimates.of(named(graph, "evaluate M5"))
    assert scored.disk == 0 and scored.gpu_hours == pytest.approx(2 * 2e9 * 500 * 200 / (300e12 * 0.5) / 3600)
    total = estimates.total(graph)
    assert total["disk"] == 6 * 4_000_000_000
    assert total["gpu_hours"] == pytest.approx(5 * tune.gpu_hours + 11 * scored.gpu_hours)
    assert total["days"] == pytest.approx(total["gpu_hours"] / 2 / 24)
    assert estimates.to_fetch() == 5 * 4_000_000_000


def test_questions_in_files_are_counted_and_each_point_of_a_curve_asks_them(tmp_path: Path) -> None:
    rows = "".join(f'{{"prompt": "{n} + 1 =", "answer": "{n + 1}"}}\n' for n in range(7))
    (tmp_path / "validation.jsonl").write_text(rows)
    asked = EVALUATE + 'validation = ["validation.jsonl"]\n'
    tuned = TUNE + "eval-every = 30\n"
    parts = (versions(more="parameters = 2e9"), tuned, asked, f"[do]\n{DO}\n", COST)
    study = declared(*parts, folder=tmp_path)
    estimates, graph = CostEstimates(study, graph_of(study)), graph_of(study)
    question = 2 * 2e9 * 200 / (300e12 * 0.5) / 3600
    assert estimates.of(named(graph, "evaluate M4, start of a curve")).gpu_hours == pytest.approx(7 * question)
    assert estimates.of(named(graph, "evaluate M4")).gpu_hours == pytest.approx(500 * question)
    few = declared(*parts[:2], asked + "limit = 3\n", *parts[3:], folder=tmp_path)
    start = named(graph_of(few), "evaluate M4, start of a curve")
    assert CostEstimates(few, graph_of(few)).of(start).gpu_hours == pytest.approx(7 * question), (
        "a curve knows no limit"
    )
    limited = '[evaluate]\ntasks = ["validation.jsonl"]\nlimit = 3\n'
    tests = declared(parts[0], TUNE, limited, parts[3], COST, folder=tmp_path)
    (step,) = [step for step in graph_of(tests) if step.name == "evaluate M4"]
    assert CostEstimates(tests, graph_of(tests)).of(step).gpu_hours == pytest.approx(3 * question)
    without = 6 * 2e9 * (100 * 8 * 1000) / (300e12 * 0.5) / 3600
    assert estimates.of(named(graph, "tune FT(M4)")).gpu_hours == pytest.approx(without + 4 * 7 * question)


def test_tokens_of_files_are_counted_and_answers_generated_one_by_one(tmp_path: Path) -> None:
    tiny_study.write_models(tmp_path)
    texts = ["one and two" * times for times in range(1, 40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked = [{"prompt": "1 + 1 = what" + " " * n, "answer": "2"} for n in range(32)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    tuned = '[tune]\nrecipe = "sft"\ndata = ["rows.jsonl"]\nsteps = 10\nbatch-size = 4\nmax-length = 64\n'
    scored = '[evaluate]\ntasks = ["test.jsonl"]\nmax-new-tokens = 50\n'
    names = "".join(f'[[version]]\nname = "M{n}"\nmodel = "M{n}"\n' for n in (1, 2))
    study = declared(names, tuned, scored, '[do]\ntransfer = "all"\n', FAST, folder=tmp_path)
    graph = graph_of(study)
    estimates = CostEstimates(study, graph)
    parameters, rate = 24 * 8 * 2 + 8 * 8 + 8, 300e12 * 0.5
    each = sum(min(-(-len(text) // 4), 64) for text in texts) / len(texts)
    trained = estimates.of(named(graph, "tune FT(M1)")).gpu_hours
    assert trained == pytest.approx(6 * parameters * 10 * 4 * each / rate / 3600)
    questions = sum(-(-len(row["prompt"]) // 4) + 50 for row in asked)
    together = 32 // 16 * 50 * parameters * 4 / 2e12
    assert estimates.of(named(graph, "evaluate M1")).gpu_hours == pytest.approx(
        (2 * parameters * questions / rate + together) / 3600
    )
    assert any("a token for 4 bytes" in line for line in estimates.assumptions())


def test_a_path_costs_all_of_its_points_those_set_later_and_those_beyond_too(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "one and one"}\n')
    both = '[paths]\ntext = ["texts.jsonl"]\ndata = ["texts.jsonl"]\npoints = 5\nrefine = 2\n'
    parts = (both, '[do]\npaths = [["M1", "M2"]]\n', COST + "tokens-per-path = 100\n")
    study = declared(versions(["M1", "M2"], "parameters = 2e9"), TUNE, *parts, folder=tmp_path)
    graph = graph_of(study)
    estimates = CostEstimates(study, graph)

    def points(name: str) -> float:
        hours = estimates.of(named(graph, name)).gpu_hours
        assert hours is not None
        return hours * 3600 * 300e12 * 0.5 / (2 * 2e9 * 100)

    assert points("path M1 – M2") == pytest.approx(5 + 2)
    assert points("path M2 – M2 + Δ(M1)") == pytest.approx(5 + 2 + 2), "and 1.25 and 1.5"
    assert any("100 tokens at each point of a path" in line for line in estimates.assumptions())


def test_recycling_in_float32_costs_twice_the_disk() -> None:
    study = declared(versions(more="parameters = 2e9"), TUNE, EVALUATE, '[do]\nrecycle = [["M1", "M2"]]\n')
    graph = graph_of(study)
    assert CostEstimates(study, graph).of(named(graph, "tune FT(M1)")).disk == 8_000_000_000


def test_an_adaptation_is_asked_at_every_rung_and_trained_by_some(tmp_path: Path) -> None:
    for name, count in (("prompts.jsonl", 40), ("select.jsonl", 20), ("report.jsonl", 30)):
        rows = (f'{{"prompt": "{name[:3] * (n + 3)} {n * 7919}"}}\n' for n in range(count))
        (tmp_path / name).write_text("".join(rows))
    held = '[adapt]\nprompts = ["prompts.jsonl"]\nselect = ["select.jsonl"]\ntest = ["report.jsonl"]\nsteps = 2\nbatch-size = 10\n'

    def hours(more: str) -> tuple[int | None, float | None]:
        do = '[do]\nadapt = [["M4", "M5"]]\n'
        study = declared(versions(more="parameters = 2e9"), TUNE, EVALUATE, do, COST, held + more, folder=tmp_path)
        graph = graph_of(study)
        cost = CostEstimates(study, graph).of(named(graph, "adapt M5 + Δ(M4) → adapted"))
        return cost.disk, cost.gpu_hours

    question = 2 * 2e9 * 200 / (300e12 * 0.5) / 3600
    assert hours('up-to = "add"\n') == (4_000_000_000, pytest.approx(3 * 50 * question)), "source, target, add"
    assert hours('up-to = "scale"\n')[1] == pytest.approx((4 * 50 + 8 * 20) * question), "seven α, of the source too"
    trained = 8 * 2e9 * (2 * 10 * 1000) / (300e12 * 0.5) / 3600
    assert hours('rungs = ["distil"]\n')[1] == pytest.approx((4 * 50 + 20) * question + trained)
    assert hours('up-to = "add"\nkeep-diff = true\n')[0] == 8_000_000_000


def test_what_an_adaptation_costs_is_unknown_where_its_prompts_are() -> None:
    cost = COST.replace("questions = 500\n", "")
    study = declared(
        versions(more="parameters = 2e9"),
        TUNE,
        '[adapt]\nprompts = ["org/p"]\n',
        '[do]\nadapt = [["M4", "M5"]]\n',
        cost,
    )
    graph = graph_of(study)
    estimates = CostEstimates(study, graph)
    assert estimates.of(named(graph, "adapt M5 + Δ(M4) → adapted")).gpu_hours is None
    assert any(told.startswith("an adaptation asks") for told in estimates.assumptions())
