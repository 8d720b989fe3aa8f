"""What a study needs is told before its first step; what is left is estimated from steps like it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support import tiny_study
from support.command_results import Cli
from support.data_set_hub import DataSetHub
from support.declared_studies import graph_of, paper

from tuneport.errors import OutputError, UsageError
from tuneport.inspection import inspect
from tuneport.studies.run import needs
from tuneport.studies.run.describe import in_words, rehearse
from tuneport.studies.run.perform import perform
from tuneport.studies.run.run import study
from tuneport.studies.run.running_steps import RUNNING
from tuneport.studies.run.schedule import perform_all


def test_libraries_that_are_missing_are_told_with_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(paper('transfer = "all"'))
    monkeypatch.setattr(needs, "missing", lambda *names: [name for name in names if name in ("trl", "lm_eval")])
    with pytest.raises(UsageError, match=r"need lm_eval, trl\. .*tuneport\[models\]"):
        needs.check_libraries(list(graph))
    transfers = [step for step in graph if step.kind == "transfer"]
    needs.check_libraries(transfers)  # the core alone


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [("", "trl"), ('up-to = "scale"', None), ('lora = "rank=4"', "peft, trl"), ('rungs = ["distil"]', "trl")],
)
def test_rungs_that_train_need_the_libraries_of_a_fine_tuning(
    settings: str, lacking: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(paper('adapt = [["M4", "M5"]]', f'[adapt]\nprompts = ["org/prompts"]\n{settings}\n'))
    adapting = [step for step in graph if step.kind == "adapt"]
    monkeypatch.setattr(needs, "missing", lambda *names: [name for name in names if name in ("trl", "peft")])
    if lacking is None:
        needs.check_libraries(adapting)
        return
    with pytest.raises(UsageError, match=rf"\(adapt\) need {lacking}\. "):
        needs.check_libraries(adapting)


def test_prompts_of_an_adaptation_are_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(paper('adapt = [["M4", "M5"]]', '[adapt]\nprompts = ["org/prompts"]\nretain = ["org/texts"]\n'))
    looked: list[str] = []
    monkeypatch.setattr(needs, "check_data_set", lambda name, revision: looked.append(name))
    monkeypatch.setattr(needs, "open_checkpoint", lambda *given: None)
    needs.check_hub([step for step in graph if step.kind == "adapt"])
    assert looked == ["org/prompts", "org/texts"]


def test_everything_on_the_hub_that_may_not_be_read_is_told_before_the_first_step(
    tmp_path: Path, forked_with_models: Cli
) -> None:
    tiny_study.write_models(tmp_path / "m")
    file = tmp_path / "study.toml"
    file.write_text(
        '[study]\nname = "five"\n[[version]]\nname = "M1"\nmodel = "org/open"\n[[version]]\nname = "M2"\nmodel = "org/gated"\n'
        '[tune]\nrecipe = "sft"\nsteps = 1\ndata = ["org/rows", "org/closed", "org/none"]\n[do]\ntransfer = "all"\n'
    )
    (tmp_path / "rows").mkdir()
    repositories = {"org/open": {"main": tmp_path / "m" / "M1"}, "org/gated": {"main": tmp_path / "m" / "M2"}}
    repositories |= {name: {"main": tmp_path / "rows"} for name in ("org/rows", "org/closed")}
    with DataSetHub(repositories, {"org/gated": ("file", 403, "GatedRepo")}, gated={"org/closed"}) as hub:
        ran = forked_with_models(
            "study", file, "--out", tmp_path / "out", environment=hub.environment(tmp_path / "home")
        )
        pages = {f"{hub.url}/org/gated", f"{hub.url}/datasets/org/closed", f"{hub.url}/datasets/org/none"}
    assert ran.status == 1 and all(page in ran.err for page in pages), ran.err
    assert len(ran.err.splitlines()) == 3 and "org/open" not in ran.err and "org/rows" not in ran.err
    assert not (tmp_path / "out" / "steps").exists()


def test_a_place_without_room_for_the_models_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny_study.write_study(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1, 1, 1))
    with pytest.raises(OutputError, match=r'keep = "scored"'):
        study(file, tmp_path / "out")
    assert not (tmp_path / "out" / "steps").exists()


def test_the_dry_run_counts_with_the_seconds_of_steps_like_those_that_are_left(tmp_path: Path) -> None:
    file, out = tiny_study.write_study(tmp_path), tmp_path / "out"
    assert rehearse(file, out)["cost"]["seconds"] is None
    study(file, out, only=("transfer M2 + Δ(M1)",))
    planned: Any = rehearse(file, out)
    waiting = [step for step in planned["steps"] if step["state"] == "to do"]
    distances = sum(step["kind"] == "distance" for step in waiting)
    assert planned["cost"]["seconds"] > 0 and planned["cost"]["seconds_unknown"] == distances > 0
    assert "judging by similar steps here" in in_words(planned)


def test_a_study_says_what_is_running_while_it_runs_and_nothing_of_it_stays(
    tmp_path: Path, shown_progress: list[str]
) -> None:
    file, out = tiny_study.write_study(tmp_path), tmp_path / "out"
    seen = []

    def look(step: Any, *given: Any) -> dict[str, Any]:
        found = inspect(out)
        seen.append(found["running"])
        assert "process" in found["next"]
        return perform(step, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(perform_all.__kwdefaults__, "perform", look)
        study(file, out, only=("transfer M2 + Δ(M1)",))
    assert len(seen) == 1 and seen[0][0].startswith("transfer M2 + Δ(M1) since ")
    assert "running" not in inspect(out) and not (out / RUNNING).exists()
    assert shown_progress[-1].startswith("study 1 of 1 steps")
