"""`tuneport evaluate` on the command line: the parser, the call, and the table in words."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from tuneport.commands.printing import Told, told
from tuneport.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `tuneport evaluate`."""
    parser.add_argument("models", metavar="MODEL", nargs="*", help="folder or Hub id; several are compared in pairs")
    parser.add_argument(
        "--tasks",
        metavar="NAME[,NAME…]",
        action="append",
        default=[],
        help="JSONL files of your own examples, and tasks of lm-evaluation-harness by name (repeatable)",
    )
    parser.add_argument("--out", metavar="FILE", help="JSON file to write; it appears when it is whole")
    paper = parser.add_argument_group("the paper's evaluations")
    paper.add_argument("--suite", metavar="NAME", help="llama3, tulu3, global-mmlu:LANG or livecodebench")
    paper.add_argument(
        "--variant",
        choices=["auto", "base", "tuned"],
        default="auto",
        help="of the suite's tasks; auto: tuned for models with a chat template (default: %(default)s)",
    )
    paper.add_argument(
        "--run-code-in",
        metavar="COMMAND",
        help="sandbox for what models write (livecodebench): a command that runs Python from its stdin; without it "
        "nothing is run",
    )
    paper.add_argument("--show", action="store_true", help="print what the suite asks, and the published scores")
    own = parser.add_argument_group("your own examples")
    own.add_argument("--match", metavar="REGEX", help="what counts is this expression's group, not the whole answer")
    own.add_argument("--loss", action="store_true", help="score the loss of each answer, a token; generate nothing")
    own.add_argument(
        "--max-new-tokens", metavar="N", type=int, default=256, help="longest answer (default: %(default)s)"
    )
    asking = parser.add_argument_group("asking")
    asking.add_argument("--chat", action="store_true", help="the harness's tasks through the models' chat templates")
    asking.add_argument("--chat-template", metavar="NAME|FILE|MODEL", help="template for models that have none")
    asking.add_argument("--limit", metavar="N", type=int, help="only the first N examples of each task, for a try")
    asking.add_argument("--backend", default="hf", help="hf, vllm or olmes (default: %(default)s)")
    asking.add_argument("--device", help="cpu, cuda, mps or cuda:N (default: the best there is)")
    asking.add_argument("--dtype", help="default: float32 on a CPU, else the model's own")
    asking.add_argument("--batch-size", metavar="N", default="16", help="a number, or auto (default: %(default)s)")
    judging = parser.add_argument_group("judging")
    judging.add_argument(
        "--recovered-gain",
        metavar=("TARGET", "TRANSFERRED", "TUNED"),
        nargs=3,
        action="append",
        default=[],
        help="three of the models: how much of the tuned target's gain the transferred one has (repeatable)",
    )
    judging.add_argument(
        "--trained-on",
        metavar="PATH",
        action="append",
        default=[],
        help="what models were trained or chosen on: JSONL files, or folders that `tune` wrote; your examples that "
        "occur there are reported, as are those that occur in what `tune` left beside the models (repeatable)",
    )
    judging.add_argument(
        "--allow-selection",
        action="store_true",
        help="score examples too by which models were chosen, as their curves tell (default: stop)",
    )
    judging.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    run = parser.add_argument_group("the run")
    run.add_argument("--strict", action="store_true", help="stop where something looks wrong, instead of warning")
    run.add_argument("--overwrite", action="store_true", help="replace a record that is there already")


def _call(options: argparse.Namespace) -> dict[str, Any]:
    """Run the verb and put the outcome in words."""
    from tuneport.scoring import suites

    if options.show:
        if options.suite is None:
            raise UsageError("--show prints a suite: name it with --suite.")
        suite = suites.find_suite(options.suite)
        return {**suites.as_record(suite), "words": suites.in_words(suite)}
    if options.out is None:
        raise UsageError("--out FILE is missing: where the scores are written.")
    from tuneport.scoring.run import evaluate

    record = evaluate(
        options.models,
        [name for names in options.tasks for name in names.split(",") if name],
        options.out,
        suite=options.suite,
        variant=options.variant,
        run_code_in=options.run_code_in,
        match=options.match,
        loss=options.loss,
        max_new_tokens=options.max_new_tokens,
        limit=options.limit,
        chat=options.chat,
        chat_template=options.chat_template,
        backend=options.backend,
        device=options.device,
        dtype=options.dtype,
        batch_size=options.batch_size,
        recovered_gain=options.recovered_gain,
        trained_on=options.trained_on,
        allow_selection=options.allow_selection,
        strict=options.strict,
        overwrite=options.overwrite,
        seed=options.seed,
    )
    record.pop("plan", None)
    done = "already done" if record["already_done"] else "done"
    return {**record, "words": f"{in_words(record)}\n{options.out}: {done}"}


def in_words(record: Mapping[str, Any]) -> str:
    """Scores with their intervals, then which differences are significant."""
    scores = [["model", "task", "metric", "score", "95 % interval", "n"]]
    for model in record["models"]:
        for name, task in model["tasks"].items():
            interval = "–" if task["interval"] is None else " to ".join(f"{end:.3f}" for end in task["interval"])
            scores.append([model["model"], name, task["metric"], f"{task['value']:.3f}", interval, f"{task['n']:,}"])
    words = _table(scores)
    if record["comparisons"]:
        rows = [["task", "difference", "", "95 % interval", "p", "significant", "test"]]
        for row in record["comparisons"]:
            rows.append(
                [
                    row["task"],
                    f"{row['models'][1]} − {row['models'][0]}",
                    f"{row['difference']:+.3f}",
                    " to ".join(f"{end:+.3f}" for end in row["interval"]),
                    f"{row['p_adjusted']:.2g}",
                    ("yes" if row["significant"] else "no") + (" (other tasks)" if "across_variants" in row else ""),
                    row["method"],
                ]
            )
        words += "\n\n" + _table(rows) + "\n(p by Holm's method for all rows; significant: p below 0.05)"
    if record["recovered_gain"]:
        rows = [["task", "recovered gain of", "share", "95 % interval", "gain"]]
        for row in record["recovered_gain"]:
            share = row["recovered_gain"]
            rows.append(
                [
                    row["task"],
                    row["transferred"],
                    "–" if share is None else f"{share:.2f}",
                    "the tuned target's gain may be nothing"
                    if share is None
                    else " to ".join(f"{end:.2f}" for end in row["interval"]),
                    f"{row['gain']:+.3f}",
                ]
            )
        words += "\n\n" + _table(rows)
    return words


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


RECORDS: tuple[type, ...] = ()


def call(options: argparse.Namespace) -> Told:
    """Run the command."""
    return told(_call(options))
