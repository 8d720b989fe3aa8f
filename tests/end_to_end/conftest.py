"""Families of tiny models, built once a session, and the command line to carry them with."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the Hub's client
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.carried_models import Carried
from support.command_results import Cli, Ran
from support.model_families import FAMILIES, Family

from tuneport.cli import main

torch.set_num_threads(1)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""

    def call(*arguments: str | Path) -> Ran:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    return call


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """A family by name; its checkpoints are shared, nobody writes into them."""
    built: dict[str, Family] = {}

    def family(name: str) -> Family:
        if name not in built:
            built[name] = FAMILIES[name](tmp_path_factory.mktemp(name))
        return built[name]

    return family


@pytest.fixture(scope="session")
def transfers(families: Callable[[str], Family], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Carried]:
    """The finished transfer of a family by name."""
    done: dict[str, Carried] = {}

    def transfer(name: str) -> Carried:
        if name not in done:
            family, out = families(name), tmp_path_factory.mktemp(f"{name}-out") / "out"
            flags = [*family.parents, "--out", str(out), "--shard-size", "60KB"]
            assert main(["transfer", *flags]) == 0
            done[name] = Carried(family, out)
        return done[name]

    return transfer


@pytest.fixture
def carried(request: pytest.FixtureRequest, transfers: Callable[[str], Carried]) -> Carried:
    """The transfer of the family that a test is parametrised with."""
    return transfers(request.param)
