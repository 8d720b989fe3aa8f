"""The graph of a study: the paper's experiments, counted and named by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.declared_studies import EVALUATE, STAGES, TUNE, declared, graph_of, named, paper, results, versions

from tuneport.studies.declared import Study
from tuneport.studies.file.study_file import read_study
from tuneport.studies.graph.graph import Graph, Step

STUDIES = Path(__file__).parents[3] / "studies"


def given(step: Step, role: str) -> str:
    """What a step takes in a role: a step's name, or the spelling of a thing from outside."""
    if role in step.parents:
        return step.parents[role].step.name
    return str(step.choices[role]["given"])


def transfer_of(step: Step) -> tuple[str, str, str]:
    return given(step, "base"), given(step, "tuned"), given(step, "target")


def kinds(graph: Graph) -> Counter[str]:
    return Counter(step.kind for step in graph)


def test_a_transfer_is_target_plus_tuned_minus_base_and_every_model_is_evaluated() -> None:
    graph = graph_of(paper('transfer = [["M4", "M5"]]'))
    step = named(graph, "transfer M5 + Δ(M4)")
    assert transfer_of(step) == ("org/model@M4", "tune FT(M4)", "org/model@M5")
    assert step.choices["scale"] == 1 and step.choices["dtype"] is None
    scored = {given(step, "model") for step in graph if step.kind == "evaluate"}
    made = {step.name for step in graph if step.kind in ("tune", "transfer")}
    assert scored == made | {f"org/model@M{i}" for i in range(1, 6)}
    assert {"kind": "transfer", "name": "M5 + Δ(M4)", "source": "M4", "target": "M5", "tuning": "sft",
            "scale": 1.0, "rate": 1.0, "steps": None, "family": None, "seed": 0, "steps_total": 100,
            "steps_on_target": 0} in results(graph)  # fmt: skip


def test_all_pairs_are_twenty_and_each_source_is_fine_tuned_once() -> None:
    found = kinds(graph_of(paper('transfer = "all"')))
    assert found == {"tune": 5, "transfer": 20, "evaluate": 5 + 5 + 20}


def test_iterative_and_direct_recycling_share_their_first_nodes() -> None:
    graph = graph_of(paper('recycle = "all"\nsame-total = false'))
    both: dict[str, list[str]] = {}
    for step in graph:
        for result in step.about.get("results", ()):
            if step.kind == "evaluate" and result["kind"] in ("recycle-iterative", "recycle-direct"):
                both.setdefault(result["target"], []).append(given(step, "model"))
    assert both["M2"][0] == both["M2"][1], "M_2* = FT(M_2 + Δ_1), where Δ_1 is the same in both"
    assert all(len(set(both[version])) == 2 for version in ("M3", "M4", "M5"))
    assert len([step for step in graph if step.name.startswith("tune FT(M1)")]) == 1


def test_direct_recycling_adds_the_plain_diff_vector_of_the_version_before() -> None:
    graph = graph_of(paper('recycle = "all"'))
    for before, version in (("M2", "M3"), ("M3", "M4"), ("M4", "M5")):
        step = named(graph, f"transfer {version} + Δdir({before})")
        assert transfer_of(step) == (f"org/model@{before}", f"tune FT({before})", f"org/model@{version}")
        assert given(named(graph, f"tune FT({before})"), "start") == f"org/model@{before}", "Δ^dir = FT(M) − M"


def test_iterative_recycling_is_algorithm_1_to_the_letter() -> None:
    graph = graph_of(paper('recycle = "all"'))
    names = ["M1", "M2", "M3", "M4", "M5"]
    starred = named(graph, "tune FT(M1)")  # line 4
    for before, version in itertools.pairwise(names):
        (carried,) = [  # line 6: base M_{i−1}, tuned M*_{i−1}, target M_i
            step
            for step in graph
            if step.kind == "transfer"
            and transfer_of(step) == (f"org/model@{before}", starred.name, f"org/model@{version}")
        ]
        (starred,) = [s for s in graph if s.kind == "tune" and given(s, "start") == carried.name]  # line 7
    totals = {r["target"]: r["steps_total"] for r in results(graph) if r["kind"] == "recycle-iterative"}
    assert totals == {"M2": 200, "M3": 300, "M4": 400, "M5": 500}


def test_iterative_recycling_has_a_direct_rival_of_the_same_total_of_steps() -> None:
    graph = graph_of(paper('recycle = "all"'))
    totals: dict[str, dict[str, set[int]]] = {}
    for row in results(graph):
        totals.setdefault(row["kind"], {}).setdefault(row["target"], set()).add(row["steps_total"])
    assert totals["recycle-iterative"] == {"M2": {200}, "M3": {300}, "M4": {400}, "M5": {500}}
    assert totals["recycle-direct"] == {"M2": {200}, "M3": {200, 300}, "M4": {200, 400}, "M5": {200, 500}}
    longer = named(graph, "tune M5 + Δdir(M4) → FT, 500 steps in all")
    assert longer.choices["recipe"]["steps"] == 400, "100 of them are in Δ"
    assert given(longer, "start") == "transfer M5 + Δdir(M4)"
    without = graph_of(paper('recycle = "all"\nsame-total = false'))
    assert {r["steps_total"] for r in results(without) if r["kind"] == "recycle-direct"} == {200}


def test_where_others_have_fine_tuned_a_version_of_the_chain_steps_are_not_counted() -> None:
    given_one = '[[version]]\nname = "M2"\nmodel = "org/model@M2"\ntuned.sft = "org/tuned@M2"\n'
    parts = (versions(("M1",)), given_one, versions(("M3",)))
    tune = TUNE.replace("[tune]", "[tune.sft]")
    graph = graph_of(declared(*parts, tune, EVALUATE, '[do]\nrecycle = [["M1", "M2"], ["M2", "M3"]]'))
    found = {r["name"]: r["steps_total"] for r in results(graph) if r["kind"].startswith("recycle-")}
    assert found["M3 + Δdir(M2) → FT"] is None and found["M3 + Δiter(M2) → FT"] == 300
    assert not [name for name in found if "in all" in name]


def test_of_a_diff_vector_that_only_one_of_two_versions_has_the_norm_is_asked() -> None:
    target = '[[version]]\nname = "M0"\nmodel = "org/model@M0"\ntarget-only = true\n'
    graph = graph_of(declared(target, versions(), TUNE, EVALUATE, '[do]\ndistances = [["M4", "M0"]]'))
    (step,) = [step for step in graph if step.kind == "distance"]
    assert step.name == "distance M0 – M4" and set(step.parents) == {"b_tuned"}
    assert given(step, "b_tuned") == "tune FT(M4)" and step.about["distance"]["tuning"] == "sft"


def test_what_compare_foresees_is_asked_of_each_fine_tuning_of_the_source() -> None:
    target = '[[version]]\nname = "M0"\nmodel = "org/model@M0"\ntarget-only = true\n'
    several = TUNE.replace("[tune]", "[tune.one]") + TUNE.replace("[tune]", "[tune.two]\nweight-decay = 0.5")
    graph = graph_of(declared(target, versions(), several, EVALUATE, '[do]\ncompare = [["M4", "M0"]]'))
    steps = [step for step in graph if step.kind == "compare"]
    assert [step.about["compare"]["tuning"] for step in steps] == ["one", "two"]
    assert [given(step, "tuned") for step in steps] == ["tune FT(M4, one)", "tune FT(M4, two)"]


def test_an_adapter_is_scored_as_the_model_that_it_makes() -> None:
    graph = graph_of(declared(versions(), TUNE + 'lora = "rank=4"\n', EVALUATE, '[do]\ntransfer = [["M4", "M5"]]'))
    (scored,) = [step for step in graph if step.name == "evaluate FT(M4)"]
    merged = scored.parents["model"].step
    assert merged.kind == "transfer" and transfer_of(merged) == ("org/model@M4", "tune FT(M4)", "org/model@M4")
    assert next(row for row in results(graph) if row["name"] == "FT(M4)")["steps_total"] == 100


def test_recycling_carries_float32_and_measures_what_bfloat16_would_have_lost() -> None:
    graph = graph_of(paper('recycle = [["M1", "M2"], ["M2", "M3"]]'))
    assert {step.choices["dtype"] for step in graph if step.kind in ("tune", "transfer")} == {"float32"}
    lost = [step for step in graph if step.kind == "rounding"]
    assert [given(step, "tuned") for step in lost] == ["tune FT(M1)", "tune M2 + Δiter(M1) → FT"]
    assert {step.choices["dtype"] for step in lost} == {"bfloat16"}
    plain = graph_of(paper('transfer = "all"'))
    assert {step.choices["dtype"] for step in plain if step.kind in ("tune", "transfer")} == {None}


def test_transfer_then_tune_is_the_same_step_as_direct_recycling() -> None:
    pairs = '[["M2", "M3"]]'
    graph = graph_of(paper(f"recycle = {pairs}\ntransfer-then-tune = {pairs}\ntransfer = {pairs}"))
    (step,) = [s for s in graph if s.kind == "evaluate" and given(s, "model") == "tune M3 + Δ(M2) → FT"]
    carried = named(graph, "evaluate M3 + Δ(M2)").about["results"]
    assert [r["kind"] for r in carried] == ["transfer", "recycle-start"]
    assert [r["kind"] for r in step.about["results"]] == ["transfer-then-tune", "recycle-iterative", "recycle-direct"]


def test_fine_tuning_from_a_transferred_start_keeps_the_schedule_and_a_reduced_rate_is_told_apart() -> None:
    graph = graph_of(paper('transfer-then-tune = [["M4", "M5"]]\nreduced-rate = 0.25'))
    plain, further = named(graph, "tune FT(M5)"), named(graph, "tune M5 + Δ(M4) → FT")
    assert plain.choices["recipe"] == further.choices["recipe"]
    slower = named(graph, "tune M5 + Δ(M4) → FT at 0.25 of the rate")
    assert slower.choices["recipe"] == {**plain.choices["recipe"], "learning_rate": 0.25 * 5e-6}
    rates = [r["rate"] for r in results(graph) if r["kind"] == "transfer-then-tune"]
    assert rates == [1.0, 0.25]


def test_every_model_tuned_further_has_a_rival_of_the_same_total_of_steps() -> None:
    graph = graph_of(paper('transfer-then-tune = "all"\nrecycle = "all"'))
    further = {
        (r["target"], r["steps_total"])
        for r in results(graph)
        if r["kind"] in ("transfer-then-tune", "recycle-iterative", "recycle-direct")
    }
    plain = {(r["target"], r["steps_total"]) for r in results(graph) if r["kind"] == "tuned"}
    assert further <= plain
    rival = named(graph, "tune FT(M5) for 500 steps")
    assert rival.choices["recipe"]["steps"] == 500 and given(rival, "start") == "org/model@M5"
    without = graph_of(paper('transfer-then-tune = "all"\nsame-total = false'))
    assert {r["steps_total"] for r in results(without) if r["kind"] == "tuned"} == {100}


def test_the_steps_of_the_papers_olmo_study_counted_by_hand() -> None:
    study = read_study(STUDIES / "olmo2.toml")
    found = kinds(graph_of(study))
    fine_tunings = (
        5  # FT(M_1) … FT(M_5)
        + 20  # Table 4: from M_i + Δ_j, which has direct recycling and M_2* in it
        + 3  # M_3*, M_4*, M_5*
        + 5 + 3  # same totals: 60K for all five; 90K, 120K and 150K for M_3, M_4, M_5
        + 3  # and of direct recycling as many as of iterative: 90K, 120K and 150K
    )  # fmt: skip
    transfers = 20 + 3  # Table 3, and the three starts of Algorithm 1 that are none of these
    assert found["tune"] == fine_tunings == 39
    assert found["transfer"] == transfers == 23
    starts = 5 + transfers  # of curves: Figures 2 to 4
    assert found["evaluate"] == 5 + fine_tunings + transfers + starts
    assert found["rounding"] == 4
    assert found["distance"] == 10


def test_seeds_multiply_what_is_fine_tuned_and_nothing_else() -> None:
    one = graph_of(paper('transfer = "all"'))
    three = graph_of(paper('transfer = "all"', head="seeds = [0, 1, 2]"))
    assert kinds(three) == {"tune": 15, "transfer": 60, "evaluate": 5 + 45 + 30}
    assert kinds(one)["evaluate"] == 30
    named(three, "tune FT(M1), seed 2")
    assert {r["seed"] for r in results(three)} == {None, 0, 1, 2}
    assert {step.identity for step in one} < {step.identity for step in three}


LAB = "".join(f'[[version]]\nname = "{name}"\nmodel = "lab:{name}"\n' for name in ("M4", "M5"))
LAB_TUNE = '[tune]\ndata = ["lab:instructions"]\nsteps = 10\nchat-template = "lab:chat.jinja"\n'
LAB_EVALUATE = '[evaluate]\ntasks = ["lab:questions"]\n'


def test_a_family_of_the_lab_is_a_step_of_its_own_apart_from_the_seed() -> None:
    study = declared(LAB, LAB_TUNE, LAB_EVALUATE, '[do]\ntransfer = "all"', head="families = [7, 8]\nseeds = [1, 2]")
    graph = graph_of(study)
    assert kinds(graph) == {"family": 2, "tune": 8, "transfer": 8, "evaluate": 2 * (2 + 4 + 4)}
    tuned = named(graph, "tune FT(M4), seed 2, family 7")
    assert {role: (parent.step.choices["seed"], parent.part) for role, parent in tuned.parents.items()} == {
        "start": (7, "M4"),
        "data.0": (7, "instructions.jsonl"),
        "chat_template": (7, "chat.jinja"),
    }
    large = graph_of(replace(study, lab="large"))
    assert not {step.identity for step in graph} & {step.identity for step in large}


def test_a_fine_tuned_model_that_exists_is_taken_and_not_made() -> None:
    study = declared(
        versions(["M1"], 'tuned = "org/tuned@a"'), versions(["M2"]), EVALUATE, '[do]\ntransfer = [["M1", "M2"]]'
    )
    graph = graph_of(study)
    assert kinds(graph) == {"transfer": 1, "evaluate": 2 + 1 + 1}
    step = named(graph, "transfer M2 + Δ(M1)")
    assert transfer_of(step) == ("org/model@M1", "org/tuned@a", "org/model@M2")
    assert {(r["kind"], r["tuning"]) for r in results(graph)} == {
        ("base", None),
        ("tuned", "tuned"),
        ("transfer", "tuned"),
    }
    assert [r["steps_total"] for r in results(graph) if r["kind"] != "base"] == [None, None], "who knows"


def test_stages_are_diff_vectors_of_their_own_against_the_base() -> None:
    stages = '[version.tuned]\nsft = "org/sft@a"\ndpo = "org/dpo@a"\n'
    graph = graph_of(declared(versions(["M1"], stages), versions(["M2"]), EVALUATE, '[do]\ntransfer = [["M1", "M2"]]'))
    for stage in ("sft", "dpo"):
        step = named(graph, f"transfer M2 + Δ(M1, {stage})")
        assert transfer_of(step) == ("org/model@M1", f"org/{stage}@a", "org/model@M2")


def test_a_tuning_that_goes_on_from_another_starts_there_and_its_steps_add_up() -> None:
    chain = '[tune.sft]\ndata = ["org/a"]\nsteps = 30\n[tune.dpo]\nrecipe = "dpo"\nfrom = "sft"\ndata = ["org/b"]\nsteps = 20\n'
    graph = graph_of(declared(versions(["M1", "M2"]), chain, EVALUATE, '[do]\ntransfer-then-tune = [["M1", "M2"]]'))
    assert given(named(graph, "tune FT(M1, dpo)"), "start") == "tune FT(M1, sft)"
    totals = {r["name"]: r["steps_total"] for r in results(graph)}
    assert totals["FT(M1, dpo)"] == 50 and totals["M2 + Δ(M1, dpo) → FT"] == 70
    rival = named(graph, "tune FT(M2, dpo) for 70 steps")
    assert rival.choices["recipe"]["steps"] == 40 and given(rival, "start") == "tune FT(M2, sft)"


def test_each_tuning_may_have_an_evaluation_of_its_own_and_bases_have_all() -> None:
    tunings = "".join(f'[tune.{name}]\ndata = ["org/{name}"]\nsteps = 5\n' for name in ("mg", "tr"))
    asked = "".join(f'[evaluate.{name}]\nsuite = "global-mmlu:{name}"\n' for name in ("mg", "tr"))
    graph = graph_of(declared(versions(["M1"]), tunings, asked))
    suites: dict[str, list[str]] = {}
    for step in graph:
        if step.kind == "evaluate":
            suites.setdefault(step.about["results"][0]["name"], []).append(step.choices["suite"])
    assert suites == {
        "M1": ["global-mmlu:mg", "global-mmlu:tr"],
        "FT(M1, mg)": ["global-mmlu:mg"],
        "FT(M1, tr)": ["global-mmlu:tr"],
    }


def test_the_loss_of_answers_is_measured_beside_the_answers() -> None:
    study = declared(LAB, LAB_TUNE, LAB_EVALUATE + 'loss = ["lab:few-shot"]\nmax-new-tokens = 9\n')
    graph = graph_of(study)
    step = named(graph, "evaluate FT(M4), loss")
    assert step.choices["settings"] == {"loss": True} and step.parents["tasks.0"].part == "few-shot.jsonl"
    assert named(graph, "evaluate FT(M4)").choices["settings"] == {"max_new_tokens": 9}


def test_a_curve_begins_with_its_start_on_the_same_validation_data() -> None:
    tune = LAB_TUNE + "eval-every = 5\n"
    study = declared(LAB, tune, LAB_EVALUATE + 'validation = ["lab:validation"]\nmax-new-tokens = 9\n')
    graph = graph_of(study)
    tuned = named(graph, "tune FT(M4)")
    assert tuned.parents["validation.0"].part == "validation.jsonl"
    assert tuned.choices["running"] == {"max_new_tokens": 9} and tuned.choices["eval_every"] == 5
    (start,) = [s for s in graph if {"start_of": tuned.identity} in s.about.get("results", ())]
    assert start.parents["model"].part == "M4" and start.parents["tasks.0"].part == "validation.jsonl"
    assert start.about["running"] == {"allow_selection": True}, "an earlier stage may have read its curve on them too"
    assert start.parents["chat_template"].part == "chat.jinja", "a base has no template of its own"


def test_a_curve_is_scored_as_the_tests_are() -> None:
    asked = LAB_EVALUATE + 'match = "([0-9]+)"\nmax-new-tokens = 8\nvalidation = ["lab:validation"]\n'
    study = declared(LAB, LAB_TUNE + "eval-every = 5\n", asked, head="families = [0]")
    graph = graph_of(study)
    tuned = named(graph, "tune FT(M5)")
    assert tuned.choices["running"] == {"match": "([0-9]+)", "max_new_tokens": 8}
    (start,) = [step for step in graph if step.name == "evaluate M5, start of a curve"]
    assert start.choices["settings"]["match"] == "([0-9]+)"


def test_paths_run_between_versions_tuned_models_and_along_the_diff_vector() -> None:
    lines = '[paths]\ntext = ["org.text"]\ndata = ["org.data"]\npoints = 7\n'
    with pytest.raises(Exception, match="no such file"):
        paper('paths = [["M4", "M5"], ["M5", "M4"]]', lines)
    lab = '[paths]\ntext = ["lab:held-out-text"]\ndata = ["lab:validation"]\npoints = 7\n'
    study = declared(LAB, LAB_TUNE, LAB_EVALUATE, lab, '[do]\npaths = [["M4", "M5"], ["M5", "M4"]]')
    paths = [step for step in graph_of(study) if step.kind == "path"]
    assert [step.name for step in paths] == [
        "path M4 – M5",
        "path FT(M4) – FT(M5)",
        "path M5 – M5 + Δ(M4)",
        "path M5 + Δ(M4) – FT(M5)",
        "path M4 – M4 + Δ(M5)",
        "path M4 + Δ(M5) – FT(M4)",
    ], "what has no direction is done once"
    assert [step.choices["beyond"] is not None for step in paths] == [False, False, True, False, True, False]
    assert {step.choices["points"] for step in paths} == {7}


def test_scales_are_transfers_of_their_own() -> None:
    graph = graph_of(paper('transfer = [["M4", "M5"]]\nscales = [0.5, 1]'))
    assert named(graph, "transfer M5 + 0.5·Δ(M4)").choices["scale"] == 0.5
    named(graph, "transfer M5 + Δ(M4)")


def build_in(folder: Path, seed: int) -> Graph:
    from support import tiny_checkpoints as tiny

    models = folder / "models"
    tiny.write_model(models / "v1", tiny.llama(seed))
    tiny.write_model(models / "v2", tiny.llama(seed + 1))
    (folder / "mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    two = "".join(f'[[version]]\nname = "{name}"\nmodel = "models/{name}"\n' for name in ("v1", "v2"))
    tune = '[tune]\ndata = ["mine.jsonl"]\nsteps = 2\n'
    return graph_of(declared(two, tune, EVALUATE, '[do]\ntransfer = "all"', folder=folder))


def test_a_step_is_known_by_what_its_inputs_hold_and_not_by_where_they_lie(tmp_path: Path) -> None:
    here, there, other = (build_in(tmp_path / name, seed) for name, seed in (("a", 0), ("b/c", 0), ("d", 5)))
    assert [step.identity for step in here] == [step.identity for step in there]
    assert not {step.identity for step in here} & {step.identity for step in other}
    assert all(str(tmp_path) not in str([step.choices, step.about, step.name]) for step in here)


def test_how_a_step_goes_about_its_work_makes_no_other_step() -> None:
    def made(evaluating: str, tuning: str) -> Graph:
        return graph_of(declared(versions(["M1"]), TUNE + tuning, EVALUATE + evaluating))

    plain, other = made("", ""), made('batch-size = 4\ndevice = "cpu"', "save-every = 9")
    assert [step.identity for step in plain] == [step.identity for step in other]
    assert named(other, "evaluate M1").about["running"] == {"batch_size": 4, "device": "cpu"}
    assert named(other, "tune FT(M1)").about["running"] == {"save_every": 9}
    assert named(made("max-new-tokens = 5", ""), "evaluate M1").identity != named(plain, "evaluate M1").identity


def test_a_file_read_twice_makes_the_same_graph() -> None:
    study: Study = paper('transfer = "all"\nrecycle = "all"\npaths = [["M1", "M2"]]', TEXT)
    assert [step.identity for step in graph_of(study)] == [step.identity for step in graph_of(study)]


TEXT = f'[paths]\ntext = ["{(STUDIES / "grade-school.jsonl").as_posix()}"]\n'


def test_a_stage_from_outside_is_of_unknown_length_so_nothing_is_tuned_to_the_same_total() -> None:
    outside = '[[version]]\nname = "M2"\nmodel = "org/m@2"\n[version.tuned]\nsft = "org/m@2sft"\n'
    graph = graph_of(
        declared(versions(("M1",)), outside, STAGES, EVALUATE, '[do]\ntransfer-then-tune = [["M1", "M2"]]')
    )
    names = [step.name for step in graph]
    assert "tune FT(M2, dpo)" in names
    assert not [name for name in names if name.startswith("tune FT(M2, dpo) for")]


def test_evaluations_of_one_model_are_told_apart_and_keep_their_folders() -> None:
    asked = '[evaluate.a]\ntasks = ["org/x", "org/y"]\n[evaluate.b]\nsuite = "global-mmlu:mg"\n'
    tunings = "".join(f'[tune.{name}]\ndata = ["org/{name}"]\nsteps = 5\n' for name in "ab")
    both = graph_of(declared(versions(["M1"]), tunings, asked))
    one = graph_of(declared(versions(["M1"]), tunings, asked.partition("[evaluate.b]")[0]))
    names = [step.name for step in both if step.kind == "evaluate"]
    assert len(names) == len(set(names))
    assert {"evaluate M1, x + y", "evaluate M1, global-mmlu:mg"} < set(names)
    (alone,) = [step for step in one if step.name == "evaluate M1"]
    assert alone.folder in {step.folder for step in both}
