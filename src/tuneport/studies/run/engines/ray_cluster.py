"""Run steps as tasks of a Ray cluster, with the CPUs and GPUs that the study gives to each kind.

If a step's worker or node dies, Ray runs it again elsewhere; if that fails too, its record says so and the study
continues. The cluster exists already (by address), or is started for the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tuneport.errors import StudyError, UsageError, listing, named
from tuneport.libraries import how_to_install
from tuneport.progress import keep_silent
from tuneport.studies.declared import Resources
from tuneport.studies.run.step_records import Record
from tuneport.studies.run.store import Store
from tuneport.studies.run.url_store import UrlStore
from tuneport.studies.run.work import Job, died, do

RETRIES = 3
# Tasks that wait cost the cluster little, but each is a message; so many are under way at most.
_UNDER_WAY = 1000
# Steps leave files, not objects; the store is for their records.
_OBJECT_STORE = 80 * 2**20
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class RayEngine:
    """Jobs as remote tasks; what is ready is with Ray, what is not stays with the scheduler, so failures stay where they are."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._remote = ray.remote(max_retries=RETRIES, retry_exceptions=False)(_do)
        self._under_way: dict[Any, Job] = {}

    def room(self) -> int:
        """So many more tasks."""
        return _UNDER_WAY - len(self._under_way)

    def start(self, job: Job) -> None:
        """Submit the step."""
        asked = {"num_cpus": job.resources.cpus, "num_gpus": job.resources.gpus, "name": job.step.name}
        self._under_way[self._remote.options(**asked).remote(job)] = job

    def ended(self) -> list[Record]:
        """Records of the tasks that have ended; waits for one."""
        done, _ = self._ray.wait(list(self._under_way), num_returns=1)
        more, _ = self._ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
        found = []
        for reference in dict.fromkeys([*done, *more]):
            job = self._under_way.pop(reference)
            try:
                found.append(self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                found.append(died(job, _in_words(error)))
        return found


def _do(job: Job) -> Record:
    """What a worker does."""
    keep_silent()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return do(job)


def _in_words(error: Exception) -> str:
    """Ray puts the traceback of a worker first, and what happened last."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return (
        f"Ray could not finish this step: {type(error).__name__}: {lines[-1][:300] if lines else 'no further message'}"
    )


@contextlib.contextmanager
def ray_cluster(
    store: Store, needs: Iterable[tuple[str, Resources]], address: str | None = None, jobs: int | None = None
) -> Iterator[RayEngine]:
    """The engine on the cluster at `address` (or RAY_ADDRESS), else on one of this machine, started for the run.

    `needs` are the kinds of steps to come with what each asks for: `StudyError` where no node has it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own advice against a warning at each start
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError(
            f"{named('engine', 'ray')} needs Ray, which is not installed. {how_to_install('ray')}"
        ) from None
    found = address or os.environ.get("RAY_ADDRESS")
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, found, jobs)
    try:
        _check_room(ray, needs)
        yield RayEngine(ray)
    finally:
        _clean_everywhere(ray, store)
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None, jobs: int | None) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            # "local": without it, Ray would join whatever cluster runs on this machine.
            ray.init("local", num_cpus=jobs, include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "on this machine"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StudyError(f"Ray {where} cannot be reached or started: {first}") from None


def _check_room(ray: Any, needs: Iterable[tuple[str, Resources]]) -> None:
    """A task that asks for more than any node has would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU")}
    short = [
        f"{kind}: {resources.cpus:g} CPUs and {resources.gpus:g} GPUs"
        for kind, resources in sorted(needs, key=lambda need: need[0])
        if not any(node.get("CPU", 0) >= resources.cpus and node.get("GPU", 0) >= resources.gpus for node in nodes)
    ]
    if short:
        raise StudyError(
            f"No node of the cluster has the [resources] of some kinds of steps:{listing(short)}\n"
            f"The largest nodes have {most['CPU']:g} CPUs and {most['GPU']:g} GPUs. Change [resources], or give "
            f"another {named('ray_address')}."
        )


def _clean_everywhere(ray: Any, store: Store) -> None:
    """What nodes keep besides the results of a study behind a URL; a node that is gone is left alone."""
    if not isinstance(store, UrlStore):
        return
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with contextlib.suppress(ray.exceptions.RayError):  # the results are there, whatever becomes of this
        remote = ray.remote(num_cpus=0, max_retries=0)(_clean)
        tasks = [
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(store)
            for node in ray.nodes()
            if node["Alive"]
        ]
        ray.wait(tasks, num_returns=len(tasks), timeout=30)


def _clean(store: Store) -> None:
    store.clean()
