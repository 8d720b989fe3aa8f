"""Steps on a Ray cluster of two nodes: one is killed in the middle, and the records are those of one process."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_study import what_repeats, write_study
from support.waiting_steps import SIGNS, is_running, wait_then_perform

import tuneport
from tuneport.errors import StudyError, UsageError
from tuneport.studies.declared import Resources
from tuneport.studies.file.study_file import read_study
from tuneport.studies.graph import study_inputs
from tuneport.studies.graph.build import build
from tuneport.studies.run.engines.ray_cluster import ray_cluster
from tuneport.studies.run.schedule import look, perform_all
from tuneport.studies.run.store_at import open_store

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
STORE = 80 * 2**20
TESTS = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process leaves."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert tuneport.study(models, out)["failed"] == []
    return what_repeats(out)


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where waiting steps leave word; workers are told by the environment, and where to find waiting.py too."""
    folder = tmp_path_factory.mktemp("signs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SIGNS, str(folder))
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        yield folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the nodes and this process make their temporary folders, and no other test does."""
    folder = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # the names of its sockets must be short
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(scope="module")
def cluster(signs: Path, scratch: Path) -> Iterator[Any]:
    """Two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def test_a_node_that_is_killed_in_the_middle_has_its_steps_run_elsewhere_and_the_records_are_the_same(
    models: Path, alone: dict[str, Any], cluster: Any, signs: Path, tmp_path: Path
) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    declared, store = read_study(models), open_store(tmp_path / "out")
    state = look(build(declared, study_inputs.Inputs(models.parent)), store)
    count = len(state.to_do)

    def kill_the_second_once_both_are_at_work() -> None:
        until = time.monotonic() + 60
        while not (there := list(signs.glob(f"begun-*-{second.node_id}"))) or len(list(signs.glob("begun-*"))) < 2:
            assert time.monotonic() < until, "the steps do not begin on both nodes"
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        while is_running(int(there[0].read_text())):  # for a moment it outlives its node, and could end its step
            assert time.monotonic() < until, "the node's worker does not end"
            time.sleep(0.05)
        (signs / "go-on").touch()

    killer = threading.Thread(target=kill_the_second_once_both_are_at_work)
    killer.start()
    with ray_cluster(store, [("transfer", Resources())], cluster.address) as engine:
        perform_all(state, store, engine, perform=wait_then_perform)
    killer.join()
    assert [record.error for record in state.failed] == []
    begun = [path.name for path in signs.glob("begun-*")]
    identities = [name.split("-")[1] for name in begun]
    assert len(identities) == len(set(identities)) + 1, "one step was begun on both nodes"
    assert len(state.whole) == count
    assert tuneport.study(models, tmp_path / "out")["already_done"]  # and writes results.json
    assert what_repeats(tmp_path / "out") == alone


def test_results_behind_a_url_are_the_same_and_nothing_is_left_on_the_nodes(
    models: Path, alone: dict[str, Any], cluster: Any, signs: Path, scratch: Path, tmp_path: Path
) -> None:
    (signs / "go-on").touch()
    url = f"file://{tmp_path}/out"
    before = set(scratch.iterdir())
    some = ["* + Δ(M1)", "distance M1*"]
    told = tuneport.study(models, url, engine="ray", ray_address=cluster.address, only=some)
    assert (told["done_now"], told["failed"]) == (6, [])
    assert all(alone[name] == found for name, found in what_repeats(tmp_path / "out").items() if name != "results.json")
    assert set(scratch.iterdir()) == before


def test_without_an_address_a_cluster_is_started_for_the_run_and_is_gone_afterwards(
    models: Path, alone: dict[str, Any], scratch: Path, tmp_path: Path
) -> None:
    import ray

    told = tuneport.study(models, tmp_path / "out", engine="ray", jobs=1, only=["M2 + Δ(M1)"])
    assert (told["done_now"], told["failed"]) == (1, [])
    assert not ray.is_initialized()
    assert all(alone[name] == found for name, found in what_repeats(tmp_path / "out").items() if name != "results.json")


def test_what_no_node_has_is_told_before_anything_is_done(models: Path, cluster: Any, tmp_path: Path) -> None:
    text = models.read_text() + "[resources]\ntransfer = {cpus = 64, gpus = 2}\n"
    greedy = models.with_name("greedy.toml")
    greedy.write_text(text)
    with pytest.raises(StudyError, match=r"transfer: 64 CPUs and 2 GPUs\n.*largest nodes have 1 CPUs and 0 GPUs"):
        tuneport.study(greedy, tmp_path / "out", engine="ray", ray_address=cluster.address)


def test_without_ray_the_error_says_what_to_install(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'tuneport\[ray\]'"):
        tuneport.study(models, tmp_path / "out", engine="ray")
