"""Write the shell command that does by hand what a step does.

Paths are relative to the study's folder. Things from outside are spelled as in the study file; flags that would repeat
a default are left out.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.diagnosis.compare_options import CompareOptions
from tuneport.diagnosis.path_options import PathOptions
from tuneport.engine.run_options import TransferOptions
from tuneport.errors import FLAGS
from tuneport.options import options_of
from tuneport.scoring.evaluate_options import EvaluateOptions
from tuneport.studies.graph.graph import Step
from tuneport.studies.run.perform import arguments_of, part_in_folder
from tuneport.tuning.recipes import TuneOptions

_OPTIONS: Mapping[str, type[Any]] = {
    "tune": TuneOptions,
    "transfer": TransferOptions,
    "adapt": AdaptOptions,
    "evaluate": EvaluateOptions,
    "path": PathOptions,
    "compare": CompareOptions,
}


def by_hand(step: Step) -> str | None:
    """The line, or None where no command does the same by itself."""
    if step.kind not in _OPTIONS:
        return None
    things = {role: str(choice["given"]) for role, choice in step.choices.items() if _from_outside(choice)}
    things |= {role: f"steps/{p.step.folder}/{part_in_folder(p)}" for role, p in step.parents.items()}
    arguments = arguments_of(step, things, f"steps/{step.folder}")
    return shlex.join(["tuneport", step.kind, *_words(_OPTIONS[step.kind], arguments)])


def _from_outside(choice: Any) -> bool:
    return isinstance(choice, Mapping) and "given" in choice


def _words(record: type[Any], arguments: Mapping[str, Any]) -> Iterator[str]:
    """Arguments of Python as the command line takes them, in their order."""
    options = {one.name: one for one in options_of(record)}
    for name, value in arguments.items():
        one = options[name]
        if value is None or value is False or value == one.default:
            continue
        flag = [] if one.spec.argument else [FLAGS.name(name)]
        if value is True:
            yield from flag
            continue
        several = [f"{key}={each}" for key, each in value.items()] if isinstance(value, Mapping) else value
        texts = list(map(str, several if isinstance(several, list | tuple) else [several]))
        for text in [one.spec.separator.join(texts)] if one.spec.separator and texts else texts:
            yield from (*flag, text)
