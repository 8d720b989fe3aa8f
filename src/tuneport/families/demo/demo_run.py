"""The demo: a new model version gets the old one's fine-tuning by addition alone.

Version 1 is pretrained and trained further to version 2, whose text has new facts and whose tokenizer has inserted
tokens. Version 1 is fine-tuned (`tuneport tune`), its diff vector is added to version 2 (`tuneport transfer`), and all
models get questions that no training saw (`tuneport evaluate`). Version 2 is fine-tuned too, for comparison and for the
transfer back, and once more from the transferred model; and the transferred model is adapted on prompts without answers
(`tuneport adapt`). Two controls must gain nothing, and the one from another family
must warn. Read `demo` from top to bottom.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tuneport import terminal
from tuneport.errors import Fault, UsageError
from tuneport.families import corpus, family, family_scores, lesson_questions, lessons
from tuneport.families.demo import demo_adapted, demo_answers, demo_curve, demo_summary
from tuneport.families.family import Architecture
from tuneport.families.lesson_questions import Question
from tuneport.families.pretraining import Schedule
from tuneport.families.processes import make, two_processes
from tuneport.files.opening import read_text
from tuneport.files.writing import write_lines
from tuneport.libraries import how_to_install, missing
from tuneport.output.workdir import workplace
from tuneport.tuning.recipes import Recipe as TuningRecipe
from tuneport.tuning.recipes import SftRecipe, TuningRun

MODELS = {
    "v1": "models/v1",
    "v1-tuned": "models/v1-tuned",
    "v2": "models/v2",
    "v2-transferred": "models/v2-transferred",
    "v2-adapted": "models/v2-adapted",
    "v2-tuned": "models/v2-tuned",
    "v1-backported": "backport/v1-backported",
    "v2-shuffled": "controls/v2-shuffled",
    "v2-foreign": "controls/v2-foreign",
}


@dataclass(frozen=True)
class DemoRecipe:
    """Everything the demo chooses but the seed; shares are parts of a stage's tokens, by kind of text.

    Rates fall to zero at the end of pretraining: without that, transfer fails. Version 2 trains further at a low rate:
    the further it moves, the less of the fine-tuning fits it.
    """

    architecture: Architecture = Architecture()
    first_stage: Schedule = Schedule(steps=900, peak=4e-3, shape="cosine", final=0.5)
    first_shares: dict[str, float] = field(
        default_factory=lambda: {
            "facts": 0.3, "echoes": 0.3, "stories": 0.25, "arithmetic": 0.1, "general": 0.05,
        }
    )  # fmt: skip
    second_stage: Schedule = Schedule(steps=500, peak=0.5 * 4e-3, warmup=1)
    second_shares: dict[str, float] = field(
        default_factory=lambda: {
            "worked-stories": 0.42, "facts": 0.2, "echoes": 0.2, "arithmetic": 0.13, "general": 0.05,
        }
    )  # fmt: skip
    next_version: Schedule = Schedule(steps=250, peak=5e-4, warmup=20)
    next_shares: dict[str, float] = field(
        default_factory=lambda: {
            "new-facts": 0.55, "facts": 0.13, "worked-stories": 0.13, "echoes": 0.12, "arithmetic": 0.07,
        }
    )  # fmt: skip
    tuning: TuningRecipe = SftRecipe(learning_rate=1e-3, steps=300, batch_size=32, beta2=0.95, weight_decay=0.01)
    tuning_shares: dict[str, float] = field(
        default_factory=lambda: {
            lesson_questions.KNOWN_FACTS: 0.4, lesson_questions.WORD_PROBLEMS: 0.35, lesson_questions.ORDERS: 0.25,
        }
    )  # fmt: skip
    problems: int = 500
    orders: int = 400
    curve_every: int = 50


@dataclass(frozen=True)
class Summary:
    """What the demo found: its folder, what `summary.json` holds, and whether it was found before."""

    folder: Path
    record: dict[str, Any]
    already_done: bool = False


def demo(
    out: str | Path, seed: int = 0, recipe: DemoRecipe | None = None, show: Callable[[str], None] = print
) -> Summary:
    """Make the family, transfer the fine-tuning, ask all models, and write everything to `out`.

    Shows answers side by side and a table; stderr says what is being made, step by step. A stopped run resumes with
    the models it has; a folder with other content is refused (`tuneport.errors.OutputError`).
    """
    from tuneport import transfer, verify

    if absent := missing("torch", "transformers", "trl", "lm_eval"):
        raise UsageError(
            f"The demo trains real models and needs {' and '.join(absent)}, which the core does not install. "
            + how_to_install("models")
        )
    if not 0 <= seed < 2**32:
        raise UsageError(Fault("seed", seed, "must be a whole number from 0 to 2^32 − 1"))
    out, recipe = Path(out), recipe or DemoRecipe()
    started = time.perf_counter()
    with workplace(out, {"format": "tuneport-demo-1", "seed": seed, "recipe": asdict(recipe)}) as folder:
        if folder is None:
            record = json.loads(read_text(out / "summary.json"))
            show(demo_answers.table(record))
            return Summary(out, record, already_done=True)

        def tell(what: str) -> None:
            terminal.tell(f"{time.perf_counter() - started:5.0f} s  {what}")

        # The world, the questions about it, and all text anybody will read, which holds no test question.
        tell("writing the text and the questions")
        world = corpus.make_world(seed)
        asked = lesson_questions.held_out_questions(world, seed, problems=recipe.problems, orders=recipe.orders)
        never, context = lesson_questions.problem_texts(asked), recipe.architecture.context
        first, second, following = (
            (
                schedule,
                corpus.write_documents(world, shares, schedule.words(context), f"{seed}, stage {stage}", never=never),
            )
            for stage, schedule, shares in (
                (1, recipe.first_stage, recipe.first_shares),
                (2, recipe.second_stage, recipe.second_shares),
                (3, recipe.next_version, recipe.next_shares),
            )
        )
        examples = lesson_questions.training_questions(
            world, seed, lessons.examples_seen(recipe.tuning), shares=recipe.tuning_shares, never=asked
        )
        lesson_questions.check_held_out(asked, examples, [*first[1], *second[1], *following[1]])
        write_lines(folder / "questions.jsonl", map(asdict, asked))
        write_lines(folder / "curve.jsonl", map(asdict, demo_curve.questions_of(asked)))
        lesson = folder / "lesson"
        lessons.write_lesson(lesson, examples)
        unlabelled = folder / "unlabelled"
        demo_adapted.write_prompts(unlabelled, world, seed, recipe.tuning_shares, asked, examples)

        models = {name: folder / place for name, place in MODELS.items()}
        foreign, foreign_tuned = folder / "controls" / "foreign", folder / "controls" / "foreign-tuned"
        shuffled, going_on = folder / "controls" / "v1-shuffled", folder / "curve" / "v2-transferred-tuned"
        for path in (*models.values(), foreign, going_on):
            path.parent.mkdir(exist_ok=True)
        resumed = any(path.exists() for path in models.values())

        shards = "200KB"  # several, as large models have
        plainly = (recipe.tuning, seed, TuningRun(shard_size=shards))
        watched = (
            recipe.tuning,
            seed,
            TuningRun(
                shard_size=shards,
                eval_every=recipe.curve_every,
                tasks=(str(folder / "curve.jsonl"),),
                max_new_tokens=family_scores.MAX_NEW_TOKENS,
                eval_batch_size=family_scores.BATCH,
            ),
        )

        with two_processes() as pool:
            # Pretrain version 1, and beside it a family from another random start on the same text.
            tell("pretraining version 1, and a foreign family for the control")
            size, tokenizers = recipe.architecture, (first, second)
            v1 = make(pool, models["v1"], family.pretrain_version, size, tokenizers, seed)
            stranger = make(pool, foreign, family.pretrain_version, size, tokenizers, seed + 1_000_000)

            # Go on to version 2; fine-tune all three.
            v1.result()
            tell("training version 2 further from version 1; fine-tuning version 1")
            v2 = make(pool, models["v2"], family.pretrain_version, size, (following,), seed + 1, None, models["v1"])
            v1_tuned = make(pool, models["v1-tuned"], lessons.fine_tune, models["v1"], lesson, *plainly)
            stranger.result()
            stranger_tuned = make(pool, foreign_tuned, lessons.fine_tune, foreign, lesson, *plainly)
            v2.result()
            v2_tuned = make(pool, models["v2-tuned"], lessons.fine_tune, models["v2"], lesson, *watched)
            v1_tuned.result()
            make(pool, shuffled, shuffle_changes, models["v1"], models["v1-tuned"], seed).result()
            stranger_tuned.result()
            v2_tuned.result()

            # Beside all else: addition, and then what the fine-tuned version 1 says to a few prompts without answers.
            parents = (models["v1"], models["v1-tuned"], models["v2"])
            adapted = make(pool, models["v2-adapted"], demo_adapted.adapt_it, *parents, unlabelled)

            # Carry it over by addition alone: onto the new version, back to the old one, and the controls.
            for base, tuned, onto, name in (
                (models["v1"], models["v1-tuned"], models["v2"], "v2-transferred"),
                (models["v2"], models["v2-tuned"], models["v1"], "v1-backported"),
                (models["v1"], shuffled, models["v2"], "v2-shuffled"),
                (foreign, foreign_tuned, models["v2"], "v2-foreign"),
            ):
                tell(f"transfer: {onto.name} + ({tuned.name} - {base.name})")
                transfer(base=base, tuned=tuned, onto=onto, out=models[name], shard_size=shards)
                verify(models[name], base=base, tuned=tuned, onto=onto, full=True)

            # Fine-tune once more, from where the transfer left version 2; ask everybody everything.
            tell("transfer, then fine-tune; asking every model every question")
            further = make(pool, going_on, lessons.fine_tune, models["v2-transferred"], lesson, *watched)
            adapted.result()
            scores = folder / "scores"
            answered = {
                name: pool.submit(family_scores.ask, path, folder / "questions.jsonl", scores / f"{name}.json")
                for name, path in models.items()
            }
            said = {name: future.result() for name, future in answered.items()}
            further.result()

        made = ("v2-transferred", "v1-backported", "v2-shuffled", "v2-foreign")
        manifests = {name: json.loads(read_text(models[name] / "tuneport.json")) for name in made}
        norms = manifests["v2-transferred"]["measures"]
        doubts = {name: manifest["roles"]["doubts"] for name, manifest in manifests.items()}
        seconds = time.perf_counter() - started
        record = demo_summary.summarise(asked, said, norms=norms, doubts=doubts, seed=seed, seconds=seconds)
        record["transfer_then_tune"] = demo_curve.transfer_then_tune(
            asked, said, from_target=models["v2-tuned"], from_transferred=going_on
        )
        chosen = json.loads(read_text(models["v2-adapted"] / "adapt.json"))["chosen"]
        record["adapted"] = demo_adapted.adapted(asked, said, chosen, seed)
        record["claims"] |= demo_adapted.claims(record["adapted"])
        record["resumed"] = resumed
        _write_answers(folder / "answers.jsonl", asked, said)
        (folder / "summary.json").write_text(json.dumps(record, indent=1) + "\n")
    show(demo_answers.answers_side_by_side(asked, said))
    show(demo_answers.table(record))
    return Summary(out, record)


def shuffle_changes(out: Path, base: Path, tuned: Path, seed: int) -> None:
    """Save base + shuffle(tuned − base) at `out`: each tensor keeps its changes but not where they belong.

    In float32, so that the shuffled changes are what the transfer adds.
    """
    import torch
    from transformers import AutoTokenizer

    generator = torch.Generator().manual_seed(seed)
    before, model = family.load(base).state_dict(), family.load(tuned)
    for name, weight in model.state_dict().items():
        change = (weight - before[name]).flatten()
        shuffled = change[torch.randperm(change.numel(), generator=generator)]
        weight.copy_(before[name] + shuffled.view_as(weight))
    family.save(model, AutoTokenizer.from_pretrained(tuned), out, dtype=torch.float32)


def _write_answers(path: Path, asked: Sequence[Question], said: dict[str, list[str]]) -> None:
    """Every model's answer to every question, one line a question, in the order of questions.jsonl."""
    lines = ({"task": q.task, "prompt": q.prompt, **{m: said[m][i] for m in said}} for i, q in enumerate(asked))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
