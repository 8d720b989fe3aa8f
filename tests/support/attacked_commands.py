"""Whole commands over damaged inputs, and what must be true of each run: words or the right output, and nothing else touched.

For the tests, which try a few hundred, and for `make fuzz`, which tries ten thousand and writes down what it found.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support import tiny_checkpoints as tiny
from support.broken_disks import Drive
from support.mutated_files import damage

# Seconds and bytes that a command on a few kilobytes may take before it counts as one without bound.
SECONDS, ADDRESS_SPACE = 30, 4 * 2**30


@dataclass(frozen=True)
class Attack:
    """A command over a copy of the inputs, in which a file of one of ``damaged`` is damaged first.

    ``argv`` has the copy, and the inputs themselves: what is gone on with must find those that it was begun with.
    """

    argv: Callable[[Path, Path], list[str]]
    damaged: tuple[str, ...]


def trio(place: Path) -> list[str]:
    return [part for role in ("base", "tuned", "onto") for part in (f"--{role}", str(place / role))]


def adapted(place: Path) -> list[str]:
    return ["--base", f"{place}/base", "--tuned", f"{place}/lora", "--onto", f"{place}/onto"]


MODELS = ("base", "tuned", "onto")
ATTACKS = {
    "transfer": Attack(lambda place, inputs: ["transfer", *trio(place), "--out", f"{place}/new"], MODELS),
    "transfer of other tokens": Attack(
        lambda place, inputs: [
            "transfer",
            "--base",
            f"{place}/base",
            "--tuned",
            f"{place}/worded",
            "--onto",
            f"{place}/onto",
            "--out",
            f"{place}/new",
        ],
        ("base", "worded", "onto"),
    ),
    "transfer of an adapter": Attack(
        lambda place, inputs: ["transfer", *adapted(place), "--out", f"{place}/new"], ("lora",)
    ),
    "diff": Attack(lambda place, inputs: ["diff", *trio(place)[:4], "--out", f"{place}/new"], ("base", "tuned")),
    "apply": Attack(
        lambda place, inputs: ["apply", f"{place}/vector", "--onto", f"{place}/onto", "--out", f"{place}/new"],
        ("vector",),
    ),
    "verify": Attack(lambda place, inputs: ["verify", f"{place}/out", *trio(place), "--full"], ("out",)),
    "inspect": Attack(lambda place, inputs: ["inspect", f"{place}/worded"], ("worded",)),
    "inspect a vector": Attack(lambda place, inputs: ["inspect", f"{place}/vector"], ("vector",)),
    "inspect an adapter": Attack(lambda place, inputs: ["inspect", f"{place}/lora"], ("lora",)),
    "go on": Attack(lambda place, inputs: ["transfer", *trio(inputs), "--out", f"{place}/begun"], ("begun.partial",)),
}  # fmt: skip  (one command reads better in one line)


def make_inputs(place: Path, drive: Drive) -> Path:
    """One of everything that a command reads, whole."""
    base = tiny.llama(1)
    for role, tensors in (("base", base), ("tuned", tiny.moved(base, 2)), ("onto", tiny.moved(base, 3, by=0.05))):
        tiny.write_model(place / role, tensors, generation_config__json='{"eos_token_id": 2}', LICENSE="free")
    words = [f"w{number}" for number in range(22)] + ["new", "newer"]
    tiny.write_model(place / "worded", tiny.moved(base, 4), words=words, chat_template__jinja="{{ messages }}w2")
    tiny.write_lora(place / "lora", base, rank=2)
    for name, made in (("diff", "vector"), ("transfer", "out")):
        assert drive(ATTACKS[name].argv(place, place)).status == 0
        (place / "new").rename(place / made)
    begun = ATTACKS["go on"].argv(place, place)
    assert drive(begun, under=str(place), call="pwrite", at=5, do="kill").status != 0
    return place


def fault(name: str, seed: int, inputs: Path, drive: Drive, scratch: Path) -> str | None:
    """Damage a file and run the command; what is wrong with how it ended, None where nothing is."""
    attack, place = ATTACKS[name], scratch / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(inputs, place)
    drawn = random.Random(f"{name} {seed}")
    role = drawn.choice(attack.damaged)
    told = f"{name}, seed {seed}: {role}/{damage(place / role, drawn)}: "
    before = tiny.contents(place)
    ran = drive(attack.argv(place, inputs), seconds=SECONDS, address_space=ADDRESS_SPACE)
    said = ran.out + ran.err
    if ran.status not in (0, 1) or "Traceback" in said:
        return told + f"status {ran.status}: {said[-600:]}"
    if "\x1b" in said or "\x00" in said:
        return told + f"control characters on the terminal: {said!r}"
    if ran.status == 1 and ran.err.count("tuneport: ") != 1:
        return told + f"not one message: {ran.err}"
    after = tiny.contents(place)
    lost = [
        file for file, digest in before.items() if not file.startswith(("new", "begun")) and after.get(file) != digest
    ]
    if lost:
        return told + f"changed {', '.join(lost)}"
    if ran.status == 0 and (place / "new").exists() and drive(["verify", f"{place}/new"]).status != 0:
        return told + "what was written does not verify"
    return None
