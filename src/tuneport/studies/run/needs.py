"""What a study needs is looked at before its first step: the libraries of its kinds of steps, and room for its models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from tuneport.errors import OutputError, UsageError, named
from tuneport.libraries import how_to_install, missing
from tuneport.studies.declared import Study
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.run.cost import CostEstimates
from tuneport.studies.run.folder_store import FolderStore
from tuneport.studies.run.store import Store

_LIBRARIES = {
    "family": ("torch", "transformers"),
    "tune": ("torch", "transformers", "trl", "datasets"),
    "evaluate": ("torch", "transformers", "lm_eval"),
    "path": ("torch", "transformers", "lm_eval"),
}


def check_libraries(to_do: Sequence[Step]) -> None:
    """Raise `UsageError` where steps that this machine is to do need libraries that are not installed."""
    kinds = sorted({step.kind for step in to_do if step.kind in _LIBRARIES})
    lacking = sorted({name for kind in kinds for name in missing(*_LIBRARIES[kind])})
    if lacking:
        raise UsageError(
            f"The steps of this study ({', '.join(kinds)}) need {', '.join(lacking)}. {how_to_install('models')}"
        )


def check_room(declared: Study, graph: Graph, to_do: Sequence[Step], store: Store) -> None:
    """Raise `OutputError` where the models of the steps to do, as far as their sizes are known, are more than is free."""
    if not isinstance(store, FolderStore) or declared.keep != "all":
        return
    needed = CostEstimates(declared, graph).total(to_do)["disk"]
    place = next(path for path in (store.path, *store.path.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed is not None and needed > free:
        raise OutputError(
            f"The models that this study makes need about {needed / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free. "
            f'Free some space, give another {named("out")}, or set keep = "scored" in [study], which drops transferred models.'
        )
