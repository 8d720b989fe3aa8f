"""Unseen tasks: what a fine-tuning on word problems alone does to tasks that it never held (the paper's Table 5).

Both versions of a finished demo's family are fine-tuned on word problems and nothing else; version 1's diff vector is
added to version 2, and version 2 is fine-tuned once more from there. All are asked word problems, the demo's other
tasks, and kinds of problems that no fine-tuning of the lab ever holds. Read `unseen` from top to bottom.

    python -m tuneport.families.unseen --out DIR [--seed N] [--family DEMO_DIR]
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tuneport.families import command, comparison, corpus, lessons, order_questions
from tuneport.families.comparison import difference, does_no_harm, gains
from tuneport.families.experiment import experiment
from tuneport.families.grown import open_family
from tuneport.families.order_questions import (
    KNOWN_FACTS,
    LAST_NUMBER,
    ORDERS,
    WORD_PROBLEMS,
    Question,
    bare,
    for_its_number,
)
from tuneport.families.word_tokenizers import SEPARATOR, chat_prompt
from tuneport.families.workshop import Workshop, gathered
from tuneport.families.written_once import write_lines
from tuneport.tuning.recipes import Recipe as TuningRecipe
from tuneport.tuning.recipes import SftRecipe

LONGER, TWO_THINGS, STRANGE_THINGS = "longer-problems", "two-things", "strange-things"
UNSEEN_TASKS = (LONGER, TWO_THINGS, STRANGE_THINGS)
NUMBER_TASKS = (WORD_PROBLEMS, *UNSEEN_TASKS)  # the number at the end of the answer counts
OTHER_TASKS = (KNOWN_FACTS, ORDERS)  # the whole answer counts, to the letter
COMPLETED = {task: f"{task}-completed" for task in NUMBER_TASKS}  # for bases: as text to go on with

NAMES = {
    "v1": "version 1",
    "v1-tuned": "version 1, fine-tuned",
    "v2": "version 2",
    "v2-transferred": "version 2 + diff vector",
    "v2-transferred-tuned": "version 2 + diff vector, then fine-tuned",
    "v2-tuned": "version 2, fine-tuned",
}


@dataclass(frozen=True)
class Recipe:
    """What this experiment chooses: the fine-tuning is the demo's, but for what it is about."""

    tuning: TuningRecipe = SftRecipe(  # noqa: RUF009 (frozen)
        learning_rate=1e-3, steps=300, batch_size=32, beta2=0.95, weight_decay=0.01
    )
    unseen_questions: int = 1000  # of each kind


def unseen(
    out: str | Path, family: str | Path, recipe: Recipe | None = None, show: Callable[[str], None] = print
) -> dict[str, Any]:
    """Fine-tune on word problems, carry it over, ask about everything else; returns what `summary.json` holds.

    `family` is the folder of a finished demo. A run that was stopped goes on from the models it has.
    """
    recipe, grown = recipe or Recipe(), open_family(Path(family))
    seed = grown.seed

    def run(shop: Workshop) -> dict[str, Any]:
        folder = shop.folder

        # The demo's held-out questions, and new ones of kinds that nobody is ever taught.
        asked = grown.asked_about((WORD_PROBLEMS,)) + unseen_questions(seed, recipe.unseen_questions)
        others = grown.asked_about(OTHER_TASKS)
        examples = order_questions.training_questions(
            grown.world, seed, lessons.examples_seen(recipe.tuning), shares={WORD_PROBLEMS: 1.0}, never=grown.asked
        )
        order_questions.check_held_out([*asked, *others], examples, [])

        numbers, completed, words = (folder / "questions" / f"{name}.jsonl" for name in _FILES)
        write_lines(numbers, (asdict(for_its_number(question)) for question in asked))
        write_lines(completed, (asdict(_as_text(for_its_number(question))) for question in asked))
        write_lines(words, map(asdict, others))
        lesson = folder / "lesson"
        lessons.write_lesson(lesson, examples)

        # Fine-tune both versions on word problems; carry it over; go on from there.
        v1_tuned = shop.tune("v1-tuned", grown.v1, lesson, recipe.tuning, seed)
        v2_tuned = shop.tune("v2-tuned", grown.v2, lesson, recipe.tuning, seed)
        v1_tuned.result()
        tuned, transferred = shop.model("v1-tuned"), shop.model("v2-transferred")
        norms = shop.transfer("v2-transferred", base=grown.v1, tuned=tuned, onto=grown.v2)
        further = shop.tune("v2-transferred-tuned", transferred, lesson, recipe.tuning, seed)
        v2_tuned.result()
        further.result()

        # Ask everybody; the bases, which have no chat format, as text to go on with too.
        models = {name: shop.model(name) for name in NAMES} | {"v1": grown.v1, "v2": grown.v2}
        answers = [shop.ask(models, numbers, match=LAST_NUMBER), shop.ask(models, words)]
        answers += [shop.ask({"v1": grown.v1, "v2": grown.v2}, completed, match=LAST_NUMBER)]
        right = gathered(answers)

        return summarise(right, seed) | {"norms": {"v2-transferred": norms}}

    return experiment("unseen", out, seed, recipe, run, show)


_FILES = ("numbers", "numbers-completed", "words")


def unseen_questions(seed: int, each: int) -> list[Question]:
    """Questions of three kinds that no fine-tuning and no text of the lab holds: `each` of them, no two alike.

    Longer problems have three events, where one or two are taught. In those about two things, one is not asked for and
    has to be left aside, as a table's other rows have. Strange things are words that no problem counts elsewhere.
    """
    rng = random.Random(f"unseen questions {seed}")
    found: dict[str, Question] = {}
    for task, make in (
        (LONGER, _longer_problem),
        (TWO_THINGS, _problem_about_two_things),
        (STRANGE_THINGS, _problem_about_strange_things),
    ):
        start = len(found)
        while len(found) < start + each:
            problem = make(rng)
            prompt = chat_prompt(problem.text)
            found.setdefault(prompt, Question(task, prompt, f"{problem.steps} ; answer {problem.result}"))
    return list(found.values())


def _longer_problem(rng: random.Random) -> corpus.Problem:
    return corpus.make_problem(rng, 3)


def _problem_about_two_things(rng: random.Random) -> corpus.Problem:
    problem = corpus.make_problem(rng, 1)
    has, event, question = problem.text.split(" . ")
    person, _, _, thing = has.split()
    other = rng.choice([name for name in corpus.THINGS if name != thing])
    told = [has, f"{person} has {rng.randint(1, 20)} {other}"]
    rng.shuffle(told)
    return replace(problem, text=" . ".join([*told, f"{event} {thing}", question]))


def _problem_about_strange_things(rng: random.Random) -> corpus.Problem:
    problem = corpus.make_problem(rng, rng.choice((1, 2)))
    thing, strange = problem.text.split()[3], rng.choice(corpus.NOUNS)
    return replace(problem, text=problem.text.replace(f" {thing} ", f" {strange} "))


def _as_text(question: Question) -> Question:
    """The question as the text of version 2 puts it, for a model that has no chat format."""
    return replace(question, task=COMPLETED[question.task], prompt=f"{SEPARATOR} {bare(question.prompt)}")


def summarise(right: dict[str, dict[str, list[bool]]], seed: int) -> dict[str, Any]:
    """What the experiment found: pure."""

    def compared(tasks: Sequence[str], after: str, before: str) -> dict[str, Any]:
        return difference(right, tasks, after, before, seed)

    learned = compared([WORD_PROBLEMS], "v2-transferred", "v2")
    on_unseen = {task: compared([task], "v2-transferred", "v2") for task in UNSEEN_TASKS}
    directly = {task: compared([task], "v2-transferred", "v2-tuned") for task in UNSEEN_TASKS}
    further = {task: compared([task], "v2-transferred-tuned", "v2-tuned") for task in UNSEEN_TASKS}
    elsewhere = [compared([task], "v2-transferred", "v2-tuned") for task in OTHER_TASKS]
    return {
        "format": "tuneport-unseen-1",
        "seed": seed,
        **comparison.side_by_side(right, NAMES),
        "differences": [learned, *on_unseen.values(), *directly.values(), *further.values(), *elsewhere],
        "recovered": [
            comparison.recovered(right, [task], "v2", "v2-transferred", "v2-tuned", seed) for task in NUMBER_TASKS
        ],
        "claims": {
            "word problems: over 30 points gained by addition alone": learned["difference"] > 0.3,
            **{f"{task}: gained by addition alone": gains(row) for task, row in on_unseen.items()},
            **{
                f"{task}: the diff vector is at most 3 points behind fine-tuning": does_no_harm(row)
                for task, row in directly.items()
            },
            **{
                f"{task}: transfer, then fine-tune is at most 3 points behind fine-tuning": does_no_harm(row)
                for task, row in further.items()
            },
        },
        "how": {
            "number_tasks": "the number at the end of the answer counts",
            "other_tasks": "the whole answer counts, to the letter",
            "completed": "for bases, which have no chat format: the question as text to go on with",
            "intervals": comparison.INTERVALS,
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when done, else the error's status, with the error in words."""
    return command.run("unseen", unseen, arguments)


if __name__ == "__main__":
    sys.exit(main())
