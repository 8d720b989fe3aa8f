"""A Hub that takes pushes, models to carry, and what a push leaves there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support import tiny_checkpoints as tiny
from support.command_results import Cli, Ran
from support.pushing_hub import TOKEN, PushingHub


@dataclass(frozen=True)
class Shop:
    """A Hub that takes pushes, three models to carry, and the command line that knows only this Hub."""

    hub: PushingHub
    made: tiny.Trio
    root: Path
    run: Cli

    @property
    def out(self) -> Path:
        return self.root / "out"

    def environment(self, **more: str) -> dict[str, str]:
        return self.hub.environment(self.root / "hf", **{"HF_TOKEN": TOKEN, **more})

    def __call__(self, *arguments: str | Path, **more: str) -> Ran:
        return self.run(*arguments, environment=self.environment(**more))

    def transfer(self, *more: str, **environment: str) -> Ran:
        return self(*self.made.flags(self.out, *more), **environment)

    def refused(self, *more: str, **environment: str) -> str:
        """What a push says that ends in words; no commit comes of it."""
        before = dict(self.hub.heads)
        done = self.transfer(*more, **environment)
        assert done.status == 1 and "Traceback" not in done.err, done.err
        assert self.hub.heads == before
        return done.err

    def sent(self) -> list[str]:
        """Large files that were sent, in order."""
        return [request.path for request in self.hub.requests if request.path.startswith("/store/")]


CARDS = ("README.md", "tuneport.json", "tune.json")  # the card has the repository's name there, and so has its record


def pushed(folder: Path) -> dict[str, str]:
    """Files of a repository, but for the Hub's own, and the card with its record."""
    found = tiny.contents(folder)
    assert found.pop(".gitattributes") and "README.md" in found
    return {name: content for name, content in found.items() if name not in CARDS}


def written(folder: Path) -> dict[str, str]:
    return {name: content for name, content in tiny.contents(folder).items() if name not in CARDS}
