"""Where an experiment's models are made: each only once, two at a time, and never but by the public verbs.

A model that an earlier, stopped run has finished is taken as it is. Every transfer is proven against its parents before
anybody is asked anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tuneport.errors import UsageError
from tuneport.families import family_scores, lessons, processes
from tuneport.tuning.recipes import Recipe, Running

SHARDS = "200KB"  # several, as large models have
_NEEDED = ("torch", "transformers", "trl", "lm_eval")


def need_models_extra(who: str) -> None:
    """Raise `UsageError` where the libraries that train and score are not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{who} trains real models and needs {' and '.join(missing)}, which the core does without. "
            "Install them: pip install 'tuneport[models]'."
        )


@dataclass(frozen=True)
class Workshop:
    """A folder with `models/`, `questions/` and `scores/`, and two processes that work in it."""

    folder: Path
    pool: ProcessPoolExecutor
    resumed: bool  # an earlier run has made some of the models

    def model(self, name: str) -> Path:
        """Where the model of this name lies, or will lie."""
        return self.folder / "models" / name

    def make(self, path: Path, function: Callable[..., None], *arguments: Any) -> Future[None]:
        """Start making a model in another process, unless an earlier run has made it."""
        return processes.make(self.pool, path, function, *arguments)

    def tune(self, name: str, start: Path, lesson: Path, recipe: Recipe, seed: int) -> Future[None]:
        """Start fine-tuning `start` on a lesson, by any recipe."""
        return self.make(self.model(name), lessons.fine_tune, start, lesson, recipe, seed, Running(shard_size=SHARDS))

    def transfer(self, name: str, *, base: Path, tuned: Path, onto: Path) -> dict[str, float]:
        """Carry tuned − base onto another model, prove every byte of it; returns the norms the manifest tells."""
        from tuneport import transfer, verify
        from tuneport.engine.manifest import read_manifest
        from tuneport.engine.options import Choices

        out = self.model(name)
        transfer(base=base, tuned=tuned, onto=onto, out=out, choices=Choices(shard_size=SHARDS))
        verify(out, base=base, tuned=tuned, onto=onto, full=True)
        measures: dict[str, float] = read_manifest(out)["measures"]
        return {name: measures[name] for name in ("diff_norm", "shift_norm")}

    def ask(
        self, models: Mapping[str, Path], questions: Path, *, match: str | None = None
    ) -> dict[str, Future[family_scores.Right]]:
        """Start asking each model the questions of a file; the records stay in `scores/`."""
        scores = self.folder / "scores"
        scores.mkdir(exist_ok=True)
        return {
            name: self.pool.submit(
                family_scores.right_answers, path, questions, scores / f"{name}-{questions.stem}.json", match
            )
            for name, path in models.items()
        }


@contextmanager
def workshop(folder: Path) -> Iterator[Workshop]:
    """Open a workshop in `folder`; raises `WorkerError` where a process was ended from outside."""
    for name in ("models", "questions"):
        (folder / name).mkdir(exist_ok=True)
    resumed = any((folder / "models").iterdir())
    with processes.two_processes() as pool:
        yield Workshop(folder, pool, resumed)


def gathered(answers: Iterable[Mapping[str, Future[family_scores.Right]]]) -> dict[str, family_scores.Right]:
    """What all models answered, over all files: for each model its tasks."""
    right: dict[str, family_scores.Right] = {}
    for of_file in answers:
        for name, future in of_file.items():
            right.setdefault(name, {}).update(future.result())
    return right
