"""A study's folder that was tampered with: nothing outside is touched, and what is damaged is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.tiny_study import write_study

import tuneport
from tuneport.errors import ForeignFileError, OutputError, TuneportError, UsageError
from tuneport.studies.file.study_file import read_study
from tuneport.studies.run import step_records


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "declared")


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, which stays as it is."""
    out = tmp_path_factory.mktemp("whole") / "out"
    tuneport.study(file, out)
    return out


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A finished study to tamper with."""
    return Path(shutil.copytree(whole, tmp_path / "out", symlinks=True))


def test_a_lock_that_is_a_link_empties_no_other_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ForeignFileError, match=r"\.lock: it is a link"):
        tuneport.study(file, tmp_path / "out")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_link_beside_results_is_not_written_through(file: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json.new").symlink_to(tmp_path / "victim")
    assert "error" not in tuneport.study(file, tmp_path / "out")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_step_whose_folder_leads_elsewhere_fails_and_leaves_elsewhere_alone(
    file: Path, finished: Path, tmp_path: Path
) -> None:
    step = sorted((finished / "steps").glob("transfer-*"))[0]
    elsewhere = tmp_path / "elsewhere"
    step.rename(elsewhere)
    (elsewhere / "record.json").unlink()
    before = sorted(path.name for path in elsewhere.rglob("*"))
    step.symlink_to(elsewhere)
    (failed,) = tuneport.study(file, finished)["failed"]
    assert "a link to a place outside" in failed["error"]
    assert sorted(path.name for path in elsewhere.rglob("*")) == before


def test_a_link_to_nothing_in_a_steps_folder_stops_no_study(file: Path, finished: Path) -> None:
    (sorted((finished / "steps").iterdir())[0] / "gone").symlink_to("nowhere")
    assert tuneport.study(file, finished)["already_done"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["inputs.json", "results.json", "record.json"])
def test_a_pipe_in_a_files_place_holds_up_nothing(file: Path, finished: Path, name: str) -> None:
    place = sorted(finished.rglob(name))[0]
    place.unlink()
    os.mkfifo(place)
    assert tuneport.study(file, finished)["failed"] == []
    assert place.is_file()


@pytest.mark.parametrize("measured", [{}, {"versions": {}, "pairs": []}, {"versions": 3}, {"pairs": "none"}])
def test_a_damaged_result_is_named_with_its_folder_and_all_others_are_read(
    file: Path, finished: Path, measured: dict[str, object]
) -> None:
    whole = json.loads((finished / "results.json").read_text())
    damaged = sorted((finished / "steps").glob("distance-*/record.json"))[0]
    told = json.loads(damaged.read_text())
    damaged.write_text(json.dumps(told | {"measured": measured}))
    found = tuneport.study(file, finished)
    (failed,) = found["failed"]
    assert found["status"] == 1 and f"steps/{damaged.parent.name} is damaged" in failed["error"]
    now = json.loads((finished / "results.json").read_text())
    (step,) = [step for step in now["steps"] if step["folder"] == damaged.parent.name]
    assert step["error"] == failed["error"]
    about = told["about"]["distance"]
    assert now["distances"] == [row for row in whole["distances"] if not about.items() <= row.items()]
    assert len(now["distances"]) == len(whole["distances"]) - 1
    shutil.rmtree(damaged.parent)
    again = tuneport.study(file, finished)
    assert (again["failed"], again["done_now"]) == ([], 1)
    assert json.loads((finished / "results.json").read_text())["distances"] == whole["distances"]


@pytest.mark.parametrize("name", ["inputs.json", "results.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"results": 5}', '{"steps": [5, {"identity": 1}]}'])
def test_a_list_that_is_nonsense_is_made_anew(file: Path, finished: Path, name: str, content: str) -> None:
    (finished / name).write_text(content)
    assert tuneport.study(file, finished)["already_done"]
    assert "steps" not in json.loads((finished / "inputs.json").read_text())
    assert json.loads((finished / "results.json").read_text())["results"] is not None


@pytest.mark.parametrize("name", ["../../other/model", "/etc/passwd", "model/../..", "", "."])
def test_a_record_with_outputs_outside_its_folder_is_none(file: Path, finished: Path, name: str) -> None:
    content = json.loads(sorted((finished / "steps").glob("*/record.json"))[0].read_text())
    assert step_records.read(json.dumps(content).encode()) is not None
    assert step_records.read(json.dumps({**content, "outputs": {**content["outputs"], name: None}}).encode()) is None


def test_a_device_or_a_pipe_is_no_studys_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(TuneportError, match="is not a file"):
            read_study(path)


def test_an_empty_out_is_wrong_usage(file: Path) -> None:
    with pytest.raises(UsageError, match="out=''"):
        tuneport.study(file, "")


@pytest.mark.parametrize("name", ["results.json", "inputs.json", "study.toml"])
def test_a_file_of_somebody_else_is_not_written_over(file: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("my own")
    with pytest.raises(OutputError, match=name):
        tuneport.study(file, out)
    assert (out / name).read_text() == "my own" and {path.name for path in out.iterdir()} == {name}
