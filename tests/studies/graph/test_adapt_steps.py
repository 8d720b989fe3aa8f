"""Steps of kind `adapt` in the graph of a study: what they take, what they are known by, and where Algorithm 1 heals."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from support.declared_studies import EVALUATE, TUNE, declared, graph_of, named, paper, results, versions

from tuneport.studies.graph.command_line import by_hand
from tuneport.studies.graph.graph import Graph, Step

ADAPT = '[adapt]\nprompts = ["org/prompts"]\n'
PAIR = 'adapt = [["M4", "M5"]]'
NAME = "adapt M5 + Δ(M4) → adapted"


def of_kind(graph: Graph, kind: str) -> list[Step]:
    return [step for step in graph if step.kind == kind]


def only(graph: Graph) -> Step:
    (step,) = of_kind(graph, "adapt")
    return step


def test_an_adaptation_takes_base_tuned_and_target_and_is_evaluated() -> None:
    graph = graph_of(paper(PAIR, ADAPT))
    step = named(graph, NAME)
    assert step.choices["base"]["given"] == "org/model@M4" and step.choices["target"]["given"] == "org/model@M5"
    assert step.parents["tuned"].step.identity == named(graph, "tune FT(M4)").identity
    assert step.choices["prompts.0"] == {"given": "org/prompts", "digest": None}
    assert step.choices["rungs"] == ["add", "scale", "distil"] and step.choices["dtype"] is None
    assert named(graph, "evaluate M5 + Δ(M4) → adapted").parents["model"].step.identity == step.identity
    assert {"kind": "adapted", "name": "M5 + Δ(M4) → adapted", "source": "M4", "target": "M5", "tuning": "sft",
            "scale": 1.0, "rate": 1.0, "steps": None, "family": None, "seed": 0, "steps_total": 100,
            "steps_on_target": 0} in results(graph)  # fmt: skip


def test_all_are_as_many_as_transfers_and_stand_beside_them() -> None:
    graph = graph_of(paper('transfer = "all"\nadapt = "all"', ADAPT, head="seeds = [1, 2]"))
    assert len(of_kind(graph, "adapt")) == len(of_kind(graph, "transfer")) == 2 * 20


def test_the_ladder_makes_its_own_addition_so_no_step_of_transfer_is_needed() -> None:
    assert not of_kind(graph_of(paper(PAIR, ADAPT)), "transfer")


def test_transfers_settings_hold_for_adaptations() -> None:
    step = only(graph_of(paper(PAIR, ADAPT, '[transfer]\ndrop = "bias$"\n')))
    assert step.choices["settings"]["drop"] == "bias$"
    assert "--drop 'bias$'" in str(by_hand(step))


def test_how_far_steps_are_counted_shows_only_in_the_end_where_examples_are_tuned_on() -> None:
    graph = graph_of(paper(PAIR, '[adapt]\nexamples = ["org/examples"]\n'))
    (row,) = [row for row in results(graph) if row["kind"] == "adapted"]
    assert (row["steps_total"], row["steps_on_target"]) == (None, None)


@pytest.mark.parametrize(
    "more",
    ["steps = 20", "batch-size = 8", "keep-harmed = true", 'match = "number"', 'up-to = "scale"', 'select = ["org/s"]'],
)
def test_data_and_settings_are_what_a_step_is_known_by(more: str) -> None:
    assert only(graph_of(paper(PAIR, ADAPT + more))).identity != only(graph_of(paper(PAIR, ADAPT))).identity


@pytest.mark.parametrize("more", ['device = "cpu"', "eval-batch-size = 3", "steps = 50", 'up-to = "distil"'])
def test_how_it_goes_about_it_and_defaults_that_are_written_are_not(more: str) -> None:
    assert only(graph_of(paper(PAIR, ADAPT + more))).identity == only(graph_of(paper(PAIR, ADAPT))).identity


def test_prompts_are_known_by_what_they_say(tmp_path: Path) -> None:
    for name, word in (("a.jsonl", "one"), ("b.jsonl", "one"), ("c.jsonl", "two")):
        rows = (f'{{"prompt": "{word} {number * 7919}"}}\n' for number in range(9))
        (tmp_path / name).write_text("".join(rows))

    def identity(file: str) -> str:
        table = f'[adapt]\nprompts = ["{file}"]\n'
        return only(graph_of(declared(versions(), TUNE, EVALUATE, table, f"[do]\n{PAIR}", folder=tmp_path))).identity

    assert identity("a.jsonl") == identity("b.jsonl") != identity("c.jsonl")


def test_the_command_by_hand_says_all_but_defaults() -> None:
    line = str(by_hand(only(graph_of(paper(PAIR, ADAPT + 'steps = 20\nlora = "rank=4"\ndevice = "cpu"\n')))))
    assert line.startswith("tuneport adapt --base org/model@M4 --tuned steps/tune-ft-m4-")
    for words in (
        "--onto org/model@M5",
        "--prompts org/prompts",
        "--rungs add,scale,distil",
        "--steps 20",
        "--lora rank=4",
    ):
        assert words in line
    assert "--device cpu" in line and "--batch-size" not in line


def test_algorithm_1_heals_each_transfer_before_its_fine_tuning() -> None:
    graph = graph_of(paper('recycle = { heal = "scale" }', ADAPT))
    starred = named(graph, "tune FT(M1)")
    for before, version in itertools.pairwise(["M1", "M2", "M3", "M4", "M5"]):
        healed = named(graph, f"adapt {version} + Δiter({before}) → adapted")
        assert healed.choices["base"]["given"] == f"org/model@{before}" and healed.choices["rungs"] == ["add", "scale"]
        assert healed.parents["tuned"].step.identity == starred.identity and healed.choices["dtype"] == "float32"
        starred = named(graph, f"tune {version} + Δiter({before}) → adapted → FT")
        assert starred.parents["start"].step.identity == healed.identity
    totals = {r["target"]: r["steps_total"] for r in results(graph) if r["kind"] == "recycle-healed"}
    assert totals == {"M2": 200, "M3": 300, "M4": 400, "M5": 500}, "distillation is no fine-tuning"


def test_what_is_not_healed_stays_beside_it() -> None:
    plain, healed = (graph_of(paper(f"recycle = {recycle}", ADAPT)) for recycle in ('"all"', '{ heal = "distil" }'))
    assert {step.identity for step in plain} < {step.identity for step in healed}


def test_healing_tries_the_rungs_of_the_table_as_far_as_it_is_asked() -> None:
    few = ADAPT + 'rungs = ["distil"]\n'
    (step, *_) = of_kind(graph_of(paper('recycle = { heal = "distil" }', few)), "adapt")
    assert step.choices["rungs"] == ["add", "distil"]
    (step, *_) = of_kind(graph_of(paper('recycle = { heal = "distil" }', ADAPT + 'up-to = "add"\n')), "adapt")
    assert step.choices["rungs"] == ["add", "distil"]
