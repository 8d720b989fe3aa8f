"""Check what a study needs before its first step: libraries of its kinds of steps, models and data of the Hub, disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

from tuneport.checkpoint.hub import check_data_set
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.errors import HubError, OutputError, TuneportError, UsageError, named
from tuneport.examples.naming import find_data
from tuneport.libraries import how_to_install, missing
from tuneport.studies.declared import ADAPT_DATA, Study
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.run.cost import CostEstimates
from tuneport.studies.run.folder_store import FolderStore
from tuneport.studies.run.store import Store

_MODELS = ("start", "model", "base", "tuned", "target", "a", "b")  # roles of models in steps
_LIBRARIES = {
    "family": ("torch", "transformers"),
    "tune": ("torch", "transformers", "trl", "datasets"),
    "adapt": ("torch", "transformers", "lm_eval"),
    "evaluate": ("torch", "transformers", "lm_eval"),
    "path": ("torch", "transformers", "lm_eval"),
}


def check_libraries(to_do: Sequence[Step]) -> None:
    """Raise `UsageError` where steps that this machine is to do need libraries that are not installed."""
    kinds = sorted({step.kind for step in to_do if step.kind in _LIBRARIES})
    needed = {name for kind in kinds for name in _LIBRARIES[kind]}
    for step in to_do:
        if step.kind == "adapt" and {"distil", "tune"} & {*step.choices["rungs"]}:
            needed |= {"trl", "accelerate", "datasets", *(("peft",) if step.choices["fitting"]["lora"] else ())}
    lacking = sorted(missing(*sorted(needed)))
    if lacking:
        raise UsageError(
            f"The steps of this study ({', '.join(kinds)}) need {', '.join(lacking)}. {how_to_install('models')}"
        )


def check_hub(to_do: Sequence[Step]) -> None:
    """Raise `HubError` with everything on the Hub that steps of this machine take and that this account may not read."""
    found = []
    for kind, name in sorted(set(_from_the_hub(to_do))):
        try:
            if kind == "model":
                open_checkpoint(name, kind)
            else:
                (data,) = find_data([name])
                if data.hub is not None:
                    check_data_set(data.hub.id, data.hub.revision)
        except TuneportError as error:
            found.append(str(error))
    if found:
        raise HubError("\n".join(found))


def _from_the_hub(to_do: Sequence[Step]) -> Iterator[tuple[str, str]]:
    """Models, and data to train on, that are no folder or file here."""
    for step in to_do:
        for role, place in step.inputs.items():
            given = step.choices.get(role)
            if isinstance(given, dict) and given.get("digest") is None:
                if role.partition(".")[0] in ("data", *ADAPT_DATA) and "." in role:
                    yield "data set", place
                elif role in _MODELS:
                    yield "model", place


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
            f'Free some space, give another {named("out")}, or set keep = "scored" in [study], which deletes transferred models.'
        )
