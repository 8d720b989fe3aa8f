"""docs/tutorial.md: its commands run in order, on tiny models, against a Hub on the loopback interface, and say what it says.

Only the budget of the fine-tunings is cut (300 steps become 6) and the models are smaller and have learned nothing, so
numbers differ; words, names and the order of lines do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.page_walks import environment, walk
from support.pushing_hub import PushingHub

pytestmark = pytest.mark.slow  # all commands of the page, one after another

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
NUMBER = r"[-+]?[\d][\d,.]*(?:e[-+]?\d+)?"


@dataclass(frozen=True)
class Step:
    """A command of the page, and the lines that stand below it."""

    command: str
    shown: tuple[str, ...]


def steps() -> list[Step]:
    """Every command of the page, in its order."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:], ()))
            else:
                found[-1] = Step(found[-1].command, (*found[-1].shown, line))
    return found


@dataclass(frozen=True)
class Walked:
    """The whole way: where, what each command said, and the Hub as it was left."""

    root: Path
    said: dict[str, tuple[int, str, str]]
    hub: PushingHub


@pytest.fixture(scope="module")
def walked(forked_with_models: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    root = tmp_path_factory.mktemp("tutorial")
    place = root / "newcomer"
    _like_the_demo(place / "demo-out")
    commands = [step.command.replace("--steps 300", "--steps 6") for step in steps()]
    with PushingHub(root=root / "hub") as hub:
        said = walk(forked_with_models, commands, place, environment(hub, root))
        yield Walked(place, {step.command: told for step, told in zip(steps(), said, strict=False)}, hub)


def _like_the_demo(folder: Path) -> None:
    """What `tuneport demo` leaves of models and data, with models that have read next to nothing."""
    from tuneport.families import corpus, family, lesson_questions, lessons
    from tuneport.families.demo import demo_run
    from tuneport.families.family import Architecture
    from tuneport.families.pretraining import Schedule

    (folder / "models").mkdir(parents=True)
    world = corpus.make_world(0)
    asked = lesson_questions.held_out_questions(world, 0, problems=40, orders=40)
    examples = lesson_questions.training_questions(
        world, 0, 192, shares=demo_run.DemoRecipe().tuning_shares, never=asked
    )
    lessons.write_lesson(folder / "lesson", examples)
    lines = (json.dumps(asdict(question)) for question in asked[::8])
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    text = [f"{lesson_questions.bare(example.prompt)} {example.answer}" for example in examples]
    size = Architecture(hidden=16, layers=1, heads=2, feedforward=32)
    lesson = [(Schedule(steps=3, peak=1e-3, warmup=1, batch=8), text)]
    family.pretrain_version(folder / "models/v1", size, lesson, seed=0)
    family.pretrain_version(folder / "models/v2", size, lesson, seed=1, previous=folder / "models/v1")


def test_the_page_goes_the_whole_way() -> None:
    commands = [step.command.split()[1] for step in steps() if step.command.startswith("tuneport ")]
    assert {"tune", "transfer", "verify", "evaluate", "inspect"} == set(commands)
    words = " ".join(step.command for step in steps())
    for flag in ("--dry-run", "--full", "--lora", "--recovered-gain", "--push-to", "--chat-template"):
        assert flag in words
    assert words.count("--steps 300") == 4  # what the test cuts


def test_every_command_of_the_page_works(walked: Walked) -> None:
    for step in steps():
        status, out, err = walked.said.get(step.command, (None, "", "the commands before it failed"))
        assert status == 0, f"$ {step.command}\n{out}{err}"


def test_what_the_page_shows_is_what_the_commands_say(walked: Walked) -> None:
    compared = 0
    for step in steps():
        if step.command.startswith("tuneport evaluate"):
            continue  # columns are as wide as the numbers in them
        said = iter(walked.said[step.command][1].splitlines())
        for line in step.shown:
            assert line == "…" or any(_alike(line, told) for told in said), (
                f"$ {step.command}\nsays no line like\n{line}"
            )
            compared += 1
    assert compared > 25


def test_the_tables_of_the_page_have_the_rows_that_are_said(walked: Walked) -> None:
    scored = [step for step in steps() if step.command.startswith("tuneport evaluate") and "…" not in step.shown]
    assert len(scored) == 2
    for step in scored:
        shown = [line.split()[:2] for line in step.shown if line]
        said = [line.split()[:2] for line in walked.said[step.command][1].splitlines() if line]
        assert len(shown) > 10 and shown == said


def test_what_was_published_is_the_folder_and_can_be_carried_on(walked: Walked) -> None:
    place = walked.hub.main("me/my-model-v2")
    published = tiny.contents(place)
    assert published.pop(".gitattributes")
    assert_alike(published, tiny.contents(walked.root / "v2-carried"))
    card = ModelCard.load(place / "README.md")
    assert 'from_pretrained("me/my-model-v2")' in card.text and card.data.model_name == "my-model-v2"
    assert card.data.eval_results and all(result.metric_value is not None for result in card.data.eval_results)
    assert len(walked.hub.history["me/my-model-v2"]) == 2


def test_fine_tunings_are_published_too_and_the_adapter_is_carried_from_there(walked: Walked, forked: Cli) -> None:
    code = """
import tuneport
for name in ("v1-tuned", "v1-adapter"):
    tuneport.publish(name, f"me/{name}")
tuneport.transfer("v1", "me/v1-adapter", "v2", "from-the-hub")
"""
    done = forked(code=code, cwd=walked.root, environment=environment(walked.hub, walked.root.parent))
    assert done.status == 0, done.err
    for name in ("v1-tuned", "v1-adapter"):
        published = tiny.contents(walked.hub.main(f"me/{name}"))
        assert published.pop(".gitattributes")
        assert_alike(published, tiny.contents(walked.root / name))
        assert {"tune.json", "log.jsonl", "tune-hashes.txt"} <= published.keys()
    carried = (tiny.read_weights(walked.root / name) for name in ("from-the-hub", "v2-from-adapter"))
    tiny.assert_same(*carried)


def assert_alike(published: dict[str, str], folder: dict[str, str]) -> None:
    """File by file the same; the card there has the repository's name, and so has its record."""
    assert published.keys() == folder.keys()
    differing = {name for name in folder if published[name] != folder[name]}
    assert differing < {"README.md", "tuneport.json", "tune.json"}


def _alike(shown: str, told: str) -> bool:
    """The same words; numbers may be others, and … stands for anything."""
    parts = re.split(rf"(…|{NUMBER})", shown)
    pattern = "".join(
        ".*" if part == "…" else NUMBER if re.fullmatch(NUMBER, part) else re.escape(part) for part in parts
    )
    return re.fullmatch(re.sub(r"(\\ )+", r"\\s+", pattern), told) is not None
