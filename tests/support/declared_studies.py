"""Study files for tests: five versions of names and nothing behind them, as the paper's are, and what may be added."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tuneport.errors import StudyError
from tuneport.studies.declared import Study
from tuneport.studies.file.study_file import study_of
from tuneport.studies.graph.build import build
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.graph.study_inputs import Inputs

TUNE = """
[tune]
recipe = "sft"
data = ["org/instructions"]
steps = 100
"""
EVALUATE = """
[evaluate]
tasks = ["gsm8k"]
"""


PLACE = Path("nowhere") / "study.toml"
# Preferences after instructions.
STAGES = """
[tune.sft]
data = ["org/instructions"]
steps = 250
[tune.dpo]
recipe = "dpo"
from = "sft"
data = ["org/preferences"]
steps = 50
"""

COST = """
[cost]
gpu = "A100"
flops = 300e12
utilisation = 0.5
gpus = 2
tokens-per-example = 1000
questions = 500
tokens-per-question = 200
"""


def versions(names: Iterable[str] = ("M1", "M2", "M3", "M4", "M5"), more: str = "") -> str:
    return "".join(f'[[version]]\nname = "{name}"\nmodel = "org/model@{name}"\n{more}\n' for name in names)


def declared(*parts: str, head: str = "", folder: Path | None = None) -> Study:
    text = f'[study]\nname = "five"\n{head}\n' + "\n".join(parts)
    return study_of(text, (folder or Path("nowhere")) / "study.toml")


def paper(do: str, *parts: str, head: str = "") -> Study:
    """Five versions, one fine-tuning of 100 steps, one task."""
    return declared(versions(), TUNE, EVALUATE, f"[do]\n{do}", *parts, head=head)


def graph_of(study: Study) -> Graph:
    return build(study, Inputs(study.path.parent))


def named(graph: Graph, name: str) -> Step:
    found = [step for step in graph if step.name == name]
    assert len(found) == 1, [step.name for step in graph]
    return found[0]


def results(graph: Graph) -> list[dict[str, object]]:
    """What every evaluation is the answer of."""
    return [
        result
        for step in graph
        if step.kind == "evaluate"
        for result in step.about["results"]
        if "start_of" not in result
    ]


def faults(text: str, place: Path = PLACE) -> list[str]:
    with pytest.raises(StudyError) as caught:
        study_of(text, place)
    head, *told = str(caught.value).splitlines()
    assert head.startswith("study.toml"), head
    return [line.strip() for line in told]


def fault(text: str) -> str:
    (one,) = faults(text)
    return one


def with_do(do: str) -> str:
    return f'[study]\nname = "s"\n{versions()}{TUNE}{EVALUATE}[do]\n{do}\n'
