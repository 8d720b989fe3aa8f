"""What is done when, what is let go, and what is made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_study import write_models

from tuneport.studies.graph.graph import Graph, Parent, Step
from tuneport.studies.run.engines.local import InThisProcess, local
from tuneport.studies.run.folder_store import FolderStore
from tuneport.studies.run.perform import perform
from tuneport.studies.run.schedule import State, look, perform_all
from tuneport.studies.run.step_records import Record
from tuneport.studies.run.work import Job


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def carry(models: Path, name: str, tuned: str | Step, target: str, kind: str = "transfer") -> Step:
    """M1's fine-tuning, or that of the step before, onto a version."""
    outside = {"base": "M1", "target": target} | ({"tuned": tuned} if isinstance(tuned, str) else {})
    choices: dict[str, Any] = {role: {"given": model, "digest": None} for role, model in outside.items()}
    parents = {"tuned": Parent(tuned)} if isinstance(tuned, Step) else {}
    places = {role: str(models / model) for role, model in outside.items()}
    return Step(kind, name, {**choices, "scale": 1.0, "dtype": None}, parents, {}, places)


def run(graph: Graph, store: FolderStore, doing: Any = perform, **choices: Any) -> tuple[State, list[str]]:
    """The state at the end, and the names of the steps that were done, in order."""
    done: list[str] = []

    def note(step: Step, given: Mapping[str, Any], place: Path, threads: int) -> Mapping[str, Any]:
        if done[-1:] != [step.name]:  # its place was cleared, and it began anew
            done.append(step.name)
        return doing(step, given, place, threads)  # type: ignore[no-any-return]

    state = look(graph, store)
    perform_all(state, store, InThisProcess(), perform=note, **choices)
    return state, done


def chain(models: Path) -> Graph:
    """one ← two ← three: each carries the fine-tuning of the one before."""
    one = carry(models, "one", "FT1", "M2")
    two = carry(models, "two", one, "M3")
    return Graph([one, two, carry(models, "three", two, "M4")])


def model_of(store: FolderStore, step: Step) -> Path:
    return store.path / "steps" / step.folder / "model"


def test_models_that_nothing_needs_are_let_go_and_their_records_stay(models: Path, tmp_path: Path) -> None:
    graph, store = chain(models), FolderStore(tmp_path)
    one, two, three = graph
    state, done = run(graph, store, keep="scored")
    assert done == ["one", "two", "three"]
    assert [state.records[step.identity].outcome for step in graph] == ["dropped", "dropped", "done"]
    assert [model_of(store, step).exists() for step in graph] == [False, False, True]
    assert state.records[one.identity].outputs["model/model.safetensors"]
    assert run(graph, store, keep="scored")[1] == [], "what was let go was done"
    assert run(graph, store)[1] == []
    assert two.identity in state.records and three.identity in state.whole


def test_what_was_let_go_is_made_again_where_something_needs_it_and_is_the_same(models: Path, tmp_path: Path) -> None:
    graph, store = chain(models), FolderStore(tmp_path)
    one, two, _ = graph
    before = run(graph, store, keep="scored")[0].records[two.identity]
    graph.add(carry(models, "four", two, "M1"))
    state, done = run(graph, store)
    assert done == ["one", "two", "four"]
    assert state.records[two.identity].outputs == before.outputs
    assert model_of(store, one).exists()


def test_what_is_made_again_and_differs_is_an_error_in_words_that_stays(models: Path, tmp_path: Path) -> None:
    graph, store = chain(models), FolderStore(tmp_path)
    one, two, _ = graph
    run(graph, store, keep="scored")
    graph.add(carry(models, "four", two, "M1"))

    def otherwise(step: Step, given: Mapping[str, Any], place: Path, threads: int) -> Mapping[str, Any]:
        measured = perform(step, given, place, threads)
        if step.name == "one":
            (place / "model" / "config.json").write_text("{}")
        return measured

    for _ in range(2):
        state, done = run(graph, store, otherwise)
        assert done == ["one"], "what stands on it is not done"
        error = str(state.records[one.identity].error)
        assert "one was made again and has changed" in error
        assert "model/config.json" in error and f"Remove steps/{one.folder}" in error
    assert [(step.name, cause.name) for step, cause in state.not_run()] == [("four", "one")]


def test_outputs_that_are_lost_or_cut_are_made_again(models: Path, tmp_path: Path) -> None:
    graph, store = chain(models), FolderStore(tmp_path)
    one, two, three = graph
    run(graph, store)
    (model_of(store, two) / "model.safetensors").write_bytes(b"cut")
    state, done = run(graph, store)
    assert done == ["two"], "its children were made of the same bytes"
    (model_of(store, three) / "config.json").unlink()
    assert run(graph, store)[1] == ["three"]
    assert one.identity in state.whole


def test_a_record_that_was_cut_short_counts_for_nothing(models: Path, tmp_path: Path) -> None:
    graph, store = chain(models), FolderStore(tmp_path)
    three = list(graph)[2]
    run(graph, store)
    record = store.path / "steps" / three.folder / "record.json"
    record.write_text(record.read_text()[:200])
    assert run(graph, store)[1] == ["three"]


def test_what_a_kill_left_of_a_model_that_was_let_go_is_removed(models: Path, tmp_path: Path) -> None:
    graph, store = chain(models), FolderStore(tmp_path)
    one = next(iter(graph))
    run(graph, store, keep="scored")
    model_of(store, one).mkdir()
    (model_of(store, one) / "config.json").write_text("{}")
    run(graph, store, keep="scored")
    assert not model_of(store, one).exists()


def test_a_place_with_other_work_in_it_is_cleared_since_it_is_the_studys_own(models: Path, tmp_path: Path) -> None:
    graph, store = chain(models), FolderStore(tmp_path)
    one = next(iter(graph))
    model_of(store, one).mkdir(parents=True)
    (model_of(store, one) / "anything").write_text("of an earlier version of the software")
    state, _ = run(graph, store)
    assert [record.outcome for record in state.records.values()] == ["done"] * 3
    assert not (model_of(store, one) / "anything").exists()


def test_an_error_that_nobody_foresaw_is_kept_with_its_traceback_and_without_this_machines_paths(
    models: Path, tmp_path: Path
) -> None:
    graph, store = chain(models), FolderStore(tmp_path / "a study")
    one = next(iter(graph))

    def fail(step: Step, given: Mapping[str, Any], place: Path, threads: int) -> Mapping[str, Any]:
        raise KeyError(f"{place}/model and {given['base']}")

    state, done = run(graph, store, fail)
    assert done == ["one"]
    assert state.records[one.identity].error == f"KeyError: 'steps/{one.folder}/model and M1'"
    told = (store.path / "steps" / one.folder / "error.txt").read_text()
    assert "raise KeyError" in told
    assert str(tmp_path) not in told
    run(graph, store)
    assert not (store.path / "steps" / one.folder / "error.txt").exists()


@given(data=st.data())
@settings(max_examples=40)
def test_whatever_the_graph_and_whatever_fails_parents_come_first_and_all_else_is_done(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    steps: list[Step] = []
    for number in range(data.draw(st.integers(1, 9))):
        above = data.draw(st.sets(st.sampled_from(range(number)), max_size=3)) if number else set()
        parents = {f"p{place}": Parent(steps[place], "out") for place in above}
        kind = data.draw(st.sampled_from(["transfer", "evaluate"]))
        taken = {role: {"given": "outside", "digest": None} for role in ("base", "tuned", "target", "model")}
        steps.append(Step(kind, f"s{number}", {"n": number, **taken}, parents))
    failing = data.draw(st.sets(st.sampled_from([step.name for step in steps])))
    keep = data.draw(st.sampled_from(["all", "scored"]))
    store = FolderStore(tmp_path_factory.mktemp("graph"))

    def write(step: Step, given: Mapping[str, Any], place: Path, threads: int) -> Mapping[str, Any]:
        if step.name in broken:
            raise ValueError("broken")
        content = step.name + "".join(Path(given[role]).read_text() for role in sorted(given))
        (place / "out").write_text(content)
        return {"length": len(content)}

    def stands_on_a_broken_one(step: Step) -> bool:
        return any(p.step.name in failing or stands_on_a_broken_one(p.step) for p in step.parents.values())

    broken = failing
    state, done = run(Graph(steps), store, write, keep=keep)
    expected = {step.name for step in steps if not stands_on_a_broken_one(step)}
    assert set(done) == expected
    assert len(done) == len(expected), "each once"
    for step in steps:
        if step.name in done:
            assert all(done.index(p.step.name) < done.index(step.name) for p in step.parents.values())
    assert {step.name for step, _ in state.not_run()} == {s.name for s in steps} - expected
    assert {record.name for record in state.failed} == expected & failing

    broken = set()
    state, again = run(Graph(steps), store, write, keep=keep)
    assert set(again) >= {step.name for step in steps} - (expected - failing)
    assert state.failed == [] and len(state.records) == len(steps)
    for step in steps:
        here = (store.path / "steps" / step.folder / "out").exists()
        if keep == "all" or step.kind != "transfer":
            assert here
        elif here:
            assert not any(p.step is step for other in steps for p in other.parents.values())
    assert run(Graph(steps), store, write, keep=keep)[1] == []

    more = {
        f"p{n}": Parent(steps[n], "out") for n in data.draw(st.sets(st.sampled_from(range(len(steps))), min_size=1))
    }
    steps.append(Step("evaluate", "one more", dict(taken), more))
    state, last = run(Graph(steps), store, write, keep=keep)
    assert last[-1] == "one more" and state.failed == [] and len(state.records) == len(steps)
    if keep == "all":
        assert last == ["one more"]


def test_several_processes_give_the_records_of_one(models: Path, tmp_path: Path) -> None:
    found = []
    for jobs in (1, 3):
        store, graph = FolderStore(tmp_path / str(jobs)), chain(models)
        state = look(graph, store)
        with local(jobs) as engine:
            perform_all(state, store, engine)
        found.append({r.name: (r.outcome, r.outputs, r.measured, r.command) for r in state.records.values()})
    assert found[0] == found[1]


def test_a_record_tells_nothing_of_when_and_where(models: Path, tmp_path: Path) -> None:
    contents = []
    for place in ("here", "there"):
        store, graph = FolderStore(tmp_path / place), chain(models)
        run(graph, store)
        records = [json.loads(path.read_bytes()) for path in sorted(store.path.glob("steps/*/record.json"))]
        assert len(records) == 3
        for record in records:
            assert record.pop("seconds") >= 0
            assert "tuneport" in record.pop("versions")
        contents.append(json.dumps(records))
    assert contents[0] == contents[1]
    assert str(tmp_path) not in contents[0]


class Reversed:
    """Ends the steps it has in the other order than they were given."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def room(self) -> int:
        return 4 - len(self.jobs)

    def start(self, job: Job) -> None:
        self.jobs.append(job)

    def ended(self) -> list[Record]:
        from tuneport.studies.run.work import do

        return [do(self.jobs.pop())]


def test_the_order_in_which_steps_end_does_not_matter(models: Path, tmp_path: Path) -> None:
    graphs = []
    for engine in (InThisProcess(), Reversed()):
        graph, store = chain(models), FolderStore(tmp_path / type(engine).__name__)
        for number in (2, 3, 4):
            graph.add(carry(models, f"more {number}", "FT2", f"M{number}"))
        state = look(graph, store)
        perform_all(state, store, engine, keep="scored")
        graphs.append({r.name: (r.outcome, r.digest) for r in state.records.values()})
    assert graphs[0] == graphs[1]
