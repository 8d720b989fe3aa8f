"""What of a study is done, and why something is to be done again; what it costs; `--dry-run` and `inspect`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.declared_studies import COST, EVALUATE, TUNE, declared, graph_of, named, paper, versions

from studies.graph.test_build import LAB, LAB_EVALUATE, LAB_TUNE, STUDIES
from tuneport.errors import UsageError
from tuneport.studies.file.study_file import read_study
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.run import step_records
from tuneport.studies.run.cost import CostEstimates
from tuneport.studies.run.describe import forecast, in_words, rehearse
from tuneport.studies.run.planning import Planned, chosen, of_families, plan
from tuneport.studies.run.store_at import open_store


def put(out: Path, step: Step, outcome: str = "done", **more: Any) -> None:
    """A step's folder as it stands when the step has ended."""
    folder = out / "steps" / step.folder
    folder.mkdir(parents=True)
    (folder / "made").write_text("x")
    outputs = {"made": {"size": 1, "blake3": "0"}}
    record = step_records.ended(step, outcome, outputs=outputs, seconds=2.0, **more)  # type: ignore[arg-type]
    (folder / "record.json").write_bytes(record.content())


def states(graph: Graph, out: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {one.step.name: (one.state, one.why) for one in plan(graph, open_store(out))}


DO = 'transfer = [["M4", "M5"]]'


def test_a_step_is_done_once_its_record_and_its_outputs_are_there(tmp_path: Path) -> None:
    graph = graph_of(paper(DO))
    assert {state for state, _ in states(graph, tmp_path).values()} == {"to do"}
    for step in graph:
        put(tmp_path, step)
    assert set(states(graph, tmp_path).values()) == {("done", ())}
    step = named(graph, "tune FT(M4)")
    (tmp_path / "steps" / step.folder / "made").write_text("longer")
    assert states(graph, tmp_path)["tune FT(M4)"] == ("again", ("its outputs have changed: made",))


def test_a_failed_step_is_to_do_and_says_what_happened(tmp_path: Path) -> None:
    graph = graph_of(paper(DO))
    put(tmp_path, named(graph, "tune FT(M4)"), "failed", error="the loss is nan")
    assert states(graph, tmp_path)["tune FT(M4)"] == ("to do", ("failed before: the loss is nan",))


def test_what_changed_is_shown_field_by_field_and_what_stands_on_it_names_its_parent(tmp_path: Path) -> None:
    before = paper(DO)
    for step in graph_of(before):
        put(tmp_path, step)
    slower = declared(versions(), TUNE + "learning-rate = 1e-6\n", EVALUATE, f"[do]\n{DO}")
    found = states(graph_of(slower), tmp_path)
    assert found["tune FT(M4)"] == ("again", ("recipe.learning_rate (then 5e-06, now 1e-06)",))
    assert found["transfer M5 + Δ(M4)"] == ("again", ("tuned (tune FT(M4), which is recomputed)",))
    assert found["evaluate M4"] == ("done", ())
    other = declared(
        versions(["M1", "M2", "M3", "M4"]),
        TUNE,
        EVALUATE,
        '[[version]]\nname = "M5"\nmodel = "org/new@a"',
        f"[do]\n{DO}",
    )
    found = states(graph_of(other), tmp_path)
    assert found["transfer M5 + Δ(M4)"] == ("again", ('target.given (then "org/model@M5", now "org/new@a")',))
    assert found["tune FT(M4)"][0] == "done", "nothing of it changed"


def test_a_study_of_which_only_a_part_is_asked_for_takes_what_that_stands_on() -> None:
    graph = graph_of(paper(DO))
    names = {step.name for step in graph if step.identity in chosen(graph, only=["M5 + Δ(M4)"])}
    assert names == {"tune FT(M4)", "transfer M5 + Δ(M4)", "evaluate M5 + Δ(M4)"}
    assert len(chosen(graph, only=["evaluate M*"])) == 6 + 2, (
        "those of M1 to M5, and of M5 + Δ(M4), which stands on two"
    )
    with pytest.raises(UsageError, match=r"'FT\(M7\)': no step or model has this name. Did you mean 'FT\(M"):
        chosen(graph, only=["FT(M7)"])
    lab = graph_of(declared(LAB, LAB_TUNE, LAB_EVALUATE, head="families = [1, 2]"))
    assert len({step.identity for step in lab if step.kind == "family"}) == 2


def test_a_part_is_asked_for_by_its_very_name_whatever_letters_it_has_and_only_a_star_stands_for_others() -> None:
    names = ["M[1]", "M?", "M*", "M1", "MX"]
    five = "".join(f'[[version]]\nname = "{name}"\nmodel = "org/model-{at}"\n' for at, name in enumerate(names))
    graph = graph_of(declared(five, TUNE, EVALUATE, '[do]\ntransfer = [["M[1]", "MX"]]'))

    def asked(pattern: str) -> set[str]:
        return {step.name for step in graph if step.identity in chosen(graph, only=[pattern])}

    assert asked("transfer MX + Δ(M[1])") == {"tune FT(M[1])", "transfer MX + Δ(M[1])"}
    assert asked("evaluate M?") == {"evaluate M?"}
    assert asked("evaluate M*") == {"evaluate M*"}, "a name that is there is no pattern"
    assert asked("transfer *[1])") == asked("transfer MX + Δ(M[1])")
    with pytest.raises(UsageError, match="no step or model has this name"):
        chosen(graph, only=["evaluate M[1X]"])


def test_families_can_be_asked_for_that_the_file_does_not_name() -> None:
    study = declared(LAB, LAB_TUNE, LAB_EVALUATE, head="families = [1, 2]")
    of_one = graph_of(of_families(study, [7]))
    assert {step.choices["seed"] for step in of_one if step.kind == "family"} == {7}
    assert len(of_one) == len(graph_of(study)) / 2
    assert of_families(study, []) is study
    with pytest.raises(UsageError, match="uses no models from the lab"):
        of_families(paper(DO), [1])


def test_what_is_not_known_is_null_and_said() -> None:
    study = paper(DO)
    graph = graph_of(study)
    estimates = CostEstimates(study, graph)
    assert estimates.of(named(graph, "tune FT(M4)")).disk is None
    total = estimates.total(graph)
    assert total["disk"] is None and total["gpu_hours"] is None and total["disk_unknown"] == 6
    assert any("names no GPU" in line for line in estimates.assumptions())


def test_where_nothing_is_left_to_do_nothing_is_written_or_computed(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(paper(DO).text)
    for step in graph_of(paper(DO)):
        put(tmp_path / "out", step)
    told = rehearse(file, tmp_path / "out")
    assert (told["cost"]["disk"], told["cost"]["gpu_hours"]) == (0, 0)
    assert "to write    0 bytes\nto compute  0 GPU hours\n" in in_words(told)


def test_sizes_of_models_on_this_machine_are_read_from_their_headers(tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "v1", tiny.llama(0))
    tiny.write_model(tmp_path / "v2", tiny.llama(1))
    both = "".join(f'[[version]]\nname = "{name}"\nmodel = "{name}"\n' for name in ("v1", "v2"))
    study = declared(both, TUNE, EVALUATE, '[do]\ntransfer = [["v1", "v2"]]', folder=tmp_path)
    graph = graph_of(study)
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tiny.llama(0).values())
    assert CostEstimates(study, graph).of(named(graph, "transfer v2 + Δ(v1)")).disk == stored


def dry_run(cli: Cli, file: Path, out: Path) -> dict[str, Any]:
    ran = cli("study", file, "--out", out, "--dry-run", "--json")
    assert ran.status == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


@pytest.mark.parametrize("name", ["llama", "stages", "multilingual", "olmo2"])
def test_the_papers_studies_are_rehearsed_without_network_and_write_nothing(
    cli: Cli, tmp_path: Path, name: str
) -> None:
    told = dry_run(cli, STUDIES / f"{name}.toml", tmp_path / "out")
    assert told["counts"]["done"] == 0 and told["counts"]["to do"] == len(told["steps"]) > 5
    assert told["cost"]["disk"] > 10**10 and told["cost"]["assumptions"]
    assert not (tmp_path / "out").exists()
    study = read_study(STUDIES / f"{name}.toml")
    assert study.expected and study.notes


def test_a_rehearsal_needs_neither_torch_nor_the_hub(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tuneport.cli import main\n"
        f"assert main(['study', {str(STUDIES / 'olmo2.toml')!r}, '--out', {str(tmp_path / 'out')!r}, '--dry-run']) == 0\n"
        "heavy = {'torch', 'transformers', 'trl', 'lm_eval', 'datasets', 'ray', 'requests', 'httpx', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "tune FT(M1) for 60000 steps" in done.stdout and "GPU hours" in done.stdout


def test_a_rehearsal_in_words_shows_states_reasons_parents_and_cost(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(declared(versions(more="parameters = 2e9"), TUNE, EVALUATE, f"[do]\n{DO}\n", COST).text)
    out = tmp_path / "out"
    for step in graph_of(replace(read_study(file), path=file)):
        if step.name == "tune FT(M4)":
            put(out, step)
        if step.name == "tune FT(M5)":
            put(out, step, "failed", error="no space left")
    words = cli("study", file, "--out", out, "--dry-run").out
    assert "17 steps, 1 done, 16 to do" in words
    assert "✓ tune FT(M4)" in words and "failed before: no space left" in words
    assert "← transfer M5 + Δ(M4)" in words and "to write    20 GB" in words


def test_a_faulty_file_ends_with_status_1_and_a_wrong_name_with_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[study]\n")
    ran = cli("study", tmp_path / "bad.toml", "--out", tmp_path / "out", "--dry-run")
    assert ran.status == 1 and "bad.toml:1: [study]: `name` is missing" in ran.err and "Traceback" not in ran.err
    ran = cli("study", STUDIES / "olmo2.toml", "--out", tmp_path / "out", "--dry-run", "--only", "FT(M9)")
    assert ran.status == 2 and "no step or model has this name" in ran.err


def test_inspect_says_how_far_a_study_is(cli: Cli, tmp_path: Path) -> None:
    graph, out = graph_of(paper(DO)), tmp_path / "out"
    for step in graph:
        if step.name != "evaluate M1":
            put(
                out,
                step,
                "failed" if step.name == "evaluate M2" else "done",
                error="oh" if step.name == "evaluate M2" else None,
            )
    (out / "study.toml").write_text(paper(DO).text)
    steps = [{"identity": step.identity} for step in graph]
    (out / "results.json").write_text(json.dumps({"steps": steps, "results": []}))
    told = json.loads(cli("inspect", out, "--json").out)
    assert told["kind"] == "study" and told["name"] == "five"
    assert (told["steps"], told["done"], told["left"]) == (len(graph), len(graph) - 2, 2)
    assert told["failed"] == ["evaluate M2: oh"] and "to resume" in told["next"]
    (out / "results.json").write_text("{")
    told = json.loads(cli("inspect", out, "--json").out)
    assert told["steps"] is None and told["done"] == len(graph) - 2, "a torn file is no traceback"
    shutil.rmtree(out / "steps")
    assert cli("inspect", out).status == 0


@pytest.mark.parametrize(
    "content",
    [
        '{"results": [1], "steps": []}',
        '{"results": null, "steps": []}',
        '{"results": [], "steps": 3}',
        '{"results": [], "steps": [{"identity": [1]}]}',
        "[]",
        "{",
        "[" * 99_999,
    ],
)
def test_inspect_says_of_a_damaged_results_json_that_it_is_one(cli: Cli, tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    (step, *_) = graph_of(paper(DO))
    put(out, step, "done")
    (out / "study.toml").write_text(paper(DO).text)
    (out / "results.json").write_text(content)
    ran = cli("inspect", out, "--json")
    assert ran.status == 0, ran.err
    told = json.loads(ran.out)
    assert told["done"] == 1 and "results.json" in told["doubts"][0] and "Run the study again" in told["doubts"][0]
    (out / "results.json").unlink()
    assert "doubts" not in json.loads(cli("inspect", out, "--json").out), "it has only begun"


@pytest.mark.parametrize("damage", [{"seconds": "long"}, {"identity": [1]}])
def test_inspect_counts_no_record_that_is_damaged(cli: Cli, tmp_path: Path, damage: dict[str, object]) -> None:
    out = tmp_path / "out"
    (step, *_) = graph_of(paper(DO))
    put(out, step, "done")
    (out / "study.toml").write_text(paper(DO).text)
    (record,) = out.glob("steps/*/record.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | damage))
    told = json.loads(cli("inspect", out, "--json").out)
    assert told["done"] == 0


def test_inspect_says_of_a_study_behind_a_url_what_it_says_of_its_folder(cli: Cli, tmp_path: Path) -> None:
    graph, out = graph_of(paper(DO)), tmp_path / "out"
    for step in graph:
        put(out, step, "done")
    (out / "study.toml").write_text(paper(DO).text)
    (out / "results.json").write_text(json.dumps({"steps": [{"identity": s.identity} for s in graph], "results": []}))
    url = "memory://inspected/out"
    fsspec.filesystem("memory").put(str(out), "/inspected/out", recursive=True)
    there, here = (json.loads(cli("inspect", place, "--json").out) for place in (url, out))
    assert here["left"] == 0 and there.pop("next") == f"tuneport report {url} --out FILE"
    assert here.pop("next") == f"tuneport report {out}" and there == here
    ran = cli("inspect", "memory://inspected/nothing")
    assert ran.status == 1 and "is not a study" in ran.err and "copy the files to a folder" in ran.err
    ran = cli("inspect", "nosuch://inspected")
    assert ran.status == 1 and "nosuch" in ran.err and "Traceback" not in ran.err


def test_a_study_is_known_from_its_first_moment_on(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    (out / "steps" / "tune-x").mkdir(parents=True)
    (out / "study.toml").write_text('[study]\nname = "begun"\n')
    (out / "inputs.json").write_text("{}")
    told = cli("inspect", out, "--json")
    assert told.status == 0 and told.json()["kind"] == "study" and told.json()["done"] == 0


def test_one_step_is_one_step_and_assumptions_stand_under_one_word() -> None:
    study = declared('[[version]]\nname = "M1"\nmodel = "org/m1"\n', EVALUATE)
    graph = graph_of(study)
    told = forecast(study, graph, [Planned(step, "to do") for step in graph])
    assert len(graph) == 1
    lines = in_words(told).splitlines()
    assert lines[0].startswith(f"{study.name}: 1 step, ")
    assert any("unknown (1 step)" in line for line in lines)
    assert sum(line.startswith("assumed") for line in lines) == 1
