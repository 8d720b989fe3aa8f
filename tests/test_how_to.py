"""docs/how-to: each page is walked. Its commands run in order, on tiny models with the names that the page has.

Budgets of fine-tunings are cut, and whole studies are rehearsed, not run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.command_results import Cli
from support.page_walks import environment, walk
from support.pushing_hub import PushingHub
from support.tiny_tuning import base_model, sums, write_rows
from test_pages import DOCS, ROOT, blocks

pytestmark = pytest.mark.slow  # all commands of four pages

PAGES = ("new-base", "language", "release-often", "research")
# What a reader of the page has: each model from another by a step in some direction.
MODELS = {
    "org/base-v1": None,
    "me/my-tuned-v1": "org/base-v1",
    "org/base-v2": "org/base-v1",
    "org/release-1": "org/base-v1",
    "org/release-1-chat": "org/release-1",
    "org/release-2": "org/release-1",
    "org/release-3": "org/release-2",
    "us/our-language-1": "org/release-1",
    "us/our-dialect-1": "org/release-1",
    "v1": "org/base-v1",
    "v1-chat": "v1",
    "v1-tuned": "v1",
    "v2": "v1",
    "v3": "v2",
}
BEFORE = {
    "new-base": "tuneport tune org/base-v1 --data mine.jsonl --steps 2 --learning-rate 0.05 --lora rank=2 --out me/my-adapter",
    "language": "tuneport diff --base org/release-1 --tuned us/our-dialect-1 --out our-dialect-diff",
}


def commands(page: str) -> tuple[list[str], list[str]]:
    """The page's commands as they are walked, and those that are left out: whole studies, and their reports."""
    walked, left = [BEFORE[page]] if page in BEFORE else [], []
    for block in blocks(DOCS / "how-to" / f"{page}.md", "sh"):
        for line in block.strip().splitlines():
            is_study = line.startswith(("tuneport study", "tuneport report")) and "--dry-run" not in line
            (left if is_study else walked).append(line.replace("--steps 3000", "--steps 1"))
    return walked, left


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for seed, (name, parent) in enumerate(MODELS.items()):
        if parent is None:
            base_model(place / name)
            continue
        shutil.copytree(place / parent, place / name)
        draw = torch.Generator().manual_seed(seed)
        for file in sorted((place / name).glob("*.safetensors")):
            moved = {
                key: tensor + 0.02 * torch.randn(tensor.shape, generator=draw).to(tensor.dtype)
                for key, tensor in load_file(file).items()
            }
            save_file(moved, file, {"format": "pt"})
    template = "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
    (place / "org/release-1-chat" / "chat_template.jinja").write_text(template)
    write_rows(place / "mine.jsonl", sums(16))
    shutil.copy(place / "mine.jsonl", place / "post-training.jsonl")
    asked = [{"prompt": f"{n} + 9 =", "answer": f" {n + 9}"} for n in range(4)]
    for name in ("test.jsonl", "validation.jsonl", "our-questions.jsonl"):
        write_rows(place / name, asked)
    write_rows(place / "prompts.jsonl", [{"prompt": row["prompt"]} for row in asked])
    write_rows(place / "texts.jsonl", [{"text": f"the fox jumps {n} times"} for n in range(4)])
    shutil.copytree(ROOT / "studies", place / "studies")
    return place


@dataclass(frozen=True)
class Walked:
    """What the commands of all pages said, in order; each page was walked in a folder of its own."""

    folder: Path
    said: list[tuple[str, str, tuple[int, str, str]]]
    hub: PushingHub


@pytest.fixture(scope="module")
def walked(models: Path, forked_with_models: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    folder = tmp_path_factory.mktemp("walks")
    lines = []
    for page in PAGES:
        shutil.copytree(models, folder / page)
        lines += [(page, line) for line in (f"cd {folder / page}", *commands(page)[0])]
    with PushingHub(root=folder / "hub") as hub:
        said = walk(forked_with_models, [line for _, line in lines], folder, environment(hub, folder))
        yield Walked(folder, [(*line, told) for line, told in zip(lines, said, strict=False)], hub)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_works(page: str, walked: Walked) -> None:
    wanted, left = commands(page)
    assert len(wanted) >= 2 and len(left) <= 4
    for _, command, (status, out, err) in walked.said:
        assert status == 0, f"$ {command}\n{out}{err}"
    assert [command for of, command, _ in walked.said if of == page][1:] == wanted


def test_what_the_pages_promise_is_there(walked: Walked) -> None:
    published = json.loads((walked.hub.main("me/my-tuned-v2") / "tuneport.json").read_text())
    assert published["operation"] == "transfer"
    carried = walked.folder / "release-often" / "v3-start" / "tuneport.json"
    assert [each["name"] for each in json.loads(carried.read_text())["inputs"]] == ["v2", "v2-chat", "v3"]
