"""Stages of alignment: SFT, then DPO, then GRPO on version 1, and each stage's diff vector onto version 2.

As in the paper's Tables 7 and 8, a stage's diff vector is taken from the base (stage − version 1), so it holds all that
came before it. The data of SFT are of mixed quality: half of the word problems are answered without the written steps.
DPO prefers answers with steps to those without; GRPO rewards an answer that is right to the letter. Word problems are scored
twice, to the letter and by their number, so that a better form is not taken for better sums. Version 2 is never trained. Read `stages` from top to bottom.

    python -m tuneport.families.stages --out DIR [--seed N] [--family DEMO_DIR]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tuneport.families import command, comparison, family_scores, lessons, order_questions
from tuneport.families.comparison import difference, gains
from tuneport.families.experiment import experiment
from tuneport.families.grown import Grown, open_family
from tuneport.families.order_questions import (
    INSTRUCTION_TASKS,
    KNOWN_FACTS,
    LAST_NUMBER,
    ORDERS,
    WORD_PROBLEMS,
    Question,
    for_its_number,
)
from tuneport.families.workshop import Workshop, gathered
from tuneport.families.written_once import write_lines
from tuneport.files.opening import read_text
from tuneport.tuning.recipes import DpoRecipe, GrpoRecipe, SftRecipe

NUMBER_ALONE = f"{WORD_PROBLEMS}-number"
STAGES = {"sft": "SFT", "dpo": "SFT, DPO", "grpo": "SFT, DPO, GRPO"}
NAMES = {
    "v1": "version 1",
    **{f"v1-{stage}": f"version 1, {words}" for stage, words in STAGES.items()},
    "v2": "version 2",
    **{f"v2-{stage}": f"version 2 + diff vector of {stage.upper()}" for stage in STAGES},
}


@dataclass(frozen=True)
class Recipe:
    """What this experiment chooses.

    SFT, on the demo's mix with every other word problem answered without its steps, leaves something to the stages after
    it: DPO prefers the same answers with steps to those without, GRPO rewards the whole answer to the letter.
    """

    sft: SftRecipe = SftRecipe(  # noqa: RUF009 (frozen)
        learning_rate=1e-3, steps=120, batch_size=32, beta2=0.95, weight_decay=0.01
    )
    dpo: DpoRecipe = DpoRecipe(  # noqa: RUF009 (frozen)
        learning_rate=5e-5, steps=40, epochs=None, batch_size=32, beta2=0.95, beta=0.3, loss="sigmoid"
    )
    grpo: GrpoRecipe = GrpoRecipe(  # noqa: RUF009 (frozen)
        learning_rate=2e-4,
        steps=60,
        batch_size=16,
        generations=8,
        answer_length=family_scores.MAX_NEW_TOKENS,
        beta2=0.95,
        schedule="linear",
        rewards=("exact",),
    )
    shares: dict[str, float] = field(
        default_factory=lambda: {KNOWN_FACTS: 0.4, WORD_PROBLEMS: 0.35, ORDERS: 0.25}
    )  # the demo's


def stages(
    out: str | Path, family: str | Path, recipe: Recipe | None = None, show: Callable[[str], None] = print
) -> dict[str, Any]:
    """Take version 1 through three stages, carry each over to version 2; returns what `summary.json` holds.

    `family` is the folder of a finished demo. A run that was stopped goes on from the models it has.
    """
    recipe, grown = recipe or Recipe(), open_family(Path(family))
    seed = grown.seed

    def run(shop: Workshop) -> dict[str, Any]:
        folder = shop.folder

        # What each stage is taught: none of it is a question of the test.
        asked = grown.asked_about(INSTRUCTION_TASKS)
        examples = of_mixed_quality(_fresh(grown, "sft", lessons.examples_seen(recipe.sft), recipe.shares))
        problems = _each_once(_fresh(grown, "dpo", lessons.examples_seen(recipe.dpo), {WORD_PROBLEMS: 1.0}))
        prompts = _each_once(_fresh(grown, "grpo", lessons.examples_seen(recipe.grpo), recipe.shares))
        order_questions.check_held_out(asked, [*examples, *problems, *prompts], [])

        test, numbers = (folder / "questions" / f"{name}.jsonl" for name in ("test", "numbers"))
        problems_asked = grown.asked_about((WORD_PROBLEMS,))
        write_lines(test, map(asdict, asked))
        write_lines(numbers, (asdict(replace(for_its_number(q), task=NUMBER_ALONE)) for q in problems_asked))
        lessons.write_lesson(folder / "sft", examples)
        lessons.write_preferences(folder / "dpo", [(problem, without_steps(problem).answer) for problem in problems])
        lessons.write_prompts(folder / "grpo", prompts)
        answers: list[dict[str, Future[family_scores.Right]]] = []
        norms: dict[str, dict[str, float]] = {}

        def ask(models: dict[str, Path]) -> None:
            answers.extend((shop.ask(models, test), shop.ask(models, numbers, match=LAST_NUMBER)))

        def carry_over(stage: str) -> None:
            """This stage's diff vector, from the base, onto version 2; ask both versions everything."""
            tuned = shop.model(f"v1-{stage}")
            norms[stage] = shop.transfer(f"v2-{stage}", base=grown.v1, tuned=tuned, onto=grown.v2)
            ask({f"{version}-{stage}": shop.model(f"{version}-{stage}") for version in ("v1", "v2")})

        # Each stage goes on from the one before; beside it that one's diff vector is carried over.
        ask({"v1": grown.v1, "v2": grown.v2})
        shop.tune("v1-sft", grown.v1, folder / "sft", recipe.sft, seed).result()
        dpo = shop.tune("v1-dpo", shop.model("v1-sft"), folder / "dpo", recipe.dpo, seed)
        carry_over("sft")
        dpo.result()
        grpo = shop.tune("v1-grpo", shop.model("v1-dpo"), folder / "grpo", recipe.grpo, seed)
        carry_over("dpo")
        grpo.result()
        carry_over("grpo")
        right = gathered(answers)

        return summarise(right, seed) | {"norms": norms, "rewards": _rewards(shop.model("v1-grpo"))}

    return experiment("stages", out, seed, recipe, run, show)


def without_steps(question: Question) -> Question:
    """A word problem with nothing but its result for an answer."""
    return replace(question, answer=question.answer.rpartition(" ; ")[2])


def of_mixed_quality(examples: Sequence[Question]) -> list[Question]:
    """The examples, every other word problem of them without its written steps."""
    problems = [place for place, example in enumerate(examples) if example.task == WORD_PROBLEMS]
    hasty = set(problems[::2])
    return [without_steps(example) if place in hasty else example for place, example in enumerate(examples)]


def summarise(right: dict[str, dict[str, list[bool]]], seed: int) -> dict[str, Any]:
    """What the experiment found: pure."""

    def compared(after: str, before: str, tasks: Sequence[str] = INSTRUCTION_TASKS) -> dict[str, Any]:
        return difference(right, tasks, after, before, seed)

    by_training = [compared(f"v1-{stage}", "v1") for stage in STAGES]
    by_addition = {stage: compared(f"v2-{stage}", "v2") for stage in STAGES}
    steps = [("dpo", "sft"), ("grpo", "dpo")]
    added = {
        (version, stage): compared(f"{version}-{stage}", f"{version}-{before}")
        for version in ("v1", "v2")
        for stage, before in steps
    }
    in_numbers = [compared(row["after"], row["before"], [NUMBER_ALONE]) for row in added.values()]
    return {
        "format": "tuneport-stages-1",
        "seed": seed,
        **comparison.side_by_side(right, NAMES),
        "differences": [*by_training, *by_addition.values(), *added.values(), *in_numbers],
        "claims": {
            **{
                f"{stage.upper()}: over 30 points gained on version 2 by addition alone": row["difference"] > 0.3
                for stage, row in by_addition.items()
            },
            **{
                f"{stage.upper()} adds to {before.upper()} on {_VERSIONS[version]}": gains(added[version, stage])
                for stage, before in steps
                for version in ("v1", "v2")
            },
        },
        "how": {
            "diff_vector": "stage - version 1's base, so that each holds the stages before it",
            "score": "the whole answer, special tokens removed, equals the expected one to the letter",
            NUMBER_ALONE: "the number at the end of the answer counts, with steps or without; no claim is about it",
            "intervals": comparison.INTERVALS,
        },
    }


_VERSIONS = {"v1": "version 1, where it was trained", "v2": "version 2, by addition"}


def _fresh(grown: Grown, stage: str, count: int, shares: dict[str, float]) -> list[Question]:
    """Questions of this stage's own, none of which the test asks."""
    return order_questions.training_questions(
        grown.world, f"{grown.seed}, {stage}", count, shares=shares, never=grown.asked
    )


def _each_once(drawn: Sequence[Question]) -> list[Question]:
    return list({question.prompt: question for question in drawn}.values())


def _rewards(tuned: Path) -> dict[str, float]:
    """The mean reward of GRPO's first and last ten steps, from its log."""
    log = [json.loads(line) for line in read_text(tuned / "log.jsonl").splitlines()]
    found = [line["reward"] for line in log]
    first, last = found[:10], found[-10:]
    return {"first": sum(first) / len(first), "last": sum(last) / len(last)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when done, else the error's status, with the error in words."""
    return command.run("stages", stages, arguments)


if __name__ == "__main__":
    sys.exit(main())
