"""`tuneport path` on the command line: the parser, the call, and the curve in words."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from tuneport.commands.printing import Told, told
from tuneport.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `tuneport path`."""
    parser.add_argument("a", metavar="A", help="the model at α = 0: folder or Hub id")
    parser.add_argument("b", metavar="B", help="the model at α = 1, whose config, tokenizer and template are used")
    parser.add_argument(
        "--data",
        metavar="FILE",
        action="append",
        default=[],
        help="JSONL file of texts, or of questions with answers, as for `evaluate` (repeatable)",
    )
    parser.add_argument("--out", metavar="FILE", help="JSON file to write; it appears when it is whole")
    line = parser.add_argument_group("points on the line", "at most 1,000 in all")
    line.add_argument(
        "--points", metavar="N", type=int, help="so many at equal distances, A and B included (default: 5)"
    )
    line.add_argument(
        "--refine",
        metavar="N",
        type=int,
        help="so many more where the loss rises and bends (default: 4; with --alphas 0)",
    )
    line.add_argument("--alphas", metavar="X[,X…]", help="these points, besides 0 and 1")
    line.add_argument("--beyond", metavar="X", type=float, help="go on past B, to A + X·(B − A)")
    line.add_argument(
        "--threshold", metavar="X", type=float, help="barrier in nats a token below which A and B count as connected"
    )
    line.add_argument(
        "--allow-config",
        action="store_true",
        help="compute all of the line by B's config, where A's differs in more than behaviour settings (rope scaling, say)",
    )
    asking = parser.add_argument_group("asking")
    asking.add_argument("--loss-only", action="store_true", help="the loss of answers alone; generate nothing")
    asking.add_argument("--match", metavar="REGEX", help="what counts is this expression's group, not the whole answer")
    asking.add_argument(
        "--max-new-tokens", metavar="N", type=int, default=256, help="longest answer (default: %(default)s)"
    )
    asking.add_argument("--chat-template", metavar="NAME|FILE|MODEL", help="template, where B has none")
    asking.add_argument("--device", help="cpu, cuda, mps or cuda:N (default: the best there is)")
    asking.add_argument("--batch-size", metavar="N", default="16", help="a number, or auto (default: %(default)s)")
    asking.add_argument("--seed", type=int, default=0, help="of the halves and the bootstrap (default: %(default)s)")
    asking.add_argument("--overwrite", action="store_true", help="replace a record that is there already")


def _call(options: argparse.Namespace) -> dict[str, Any]:
    """Run the verb and put the outcome in words."""
    from tuneport.diagnosis.loss_path import path

    record = path(
        options.a,
        options.b,
        options.data,
        options.out,
        points=options.points,
        refine=options.refine,
        alphas=None if options.alphas is None else _numbers(options.alphas),
        beyond=options.beyond,
        threshold=options.threshold,
        loss_only=options.loss_only,
        match=options.match,
        max_new_tokens=options.max_new_tokens,
        chat_template=options.chat_template,
        device=options.device,
        batch_size=options.batch_size,
        seed=options.seed,
        allow_config=options.allow_config,
        overwrite=options.overwrite,
    )
    record.pop("plan", None)
    words = in_words(record)
    if options.out is not None:
        words += f"\n{options.out}: {'already done' if record['already_done'] else 'done'}"
    return {**record, "words": words}


def in_words(record: Mapping[str, Any]) -> str:
    """The curve as a table, then the barrier in a sentence."""
    rows = [["α", "loss", "95 % interval", "above the line", *(["accuracy"] if record["accuracy"] else [])]]
    for place, alpha in enumerate(record["alphas"]):
        rise = record["rise"][place]
        rows.append(
            [
                f"{alpha:g}",
                f"{record['loss'][place]:.4f}",
                " to ".join(f"{end:.4f}" for end in record["loss_interval"][place]),
                "" if rise is None else f"{rise:+.4f}",
                *([f"{record['accuracy'][place]:.3f}"] if record["accuracy"] else []),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return f"{table}\n{_barrier_in_words(record)}"


def _barrier_in_words(record: Mapping[str, Any]) -> str:
    if record["barrier"] is None:
        return "No point between the two models was measured, so no barrier can be told."
    low, high = record["interval"]
    words = (
        f"barrier {record['barrier']:.4f} nats a token at α = {record['at']:g} (95 % {low:.4f} to {high:.4f}; "
        f"{record['halves']['measuring']['n']:,} of {record['n']:,} examples, the others chose α)"
    )
    if record["threshold"] is None:
        return words
    verdict = {True: "connected", False: "not connected", None: "undecided"}[record["connected"]]
    return f"{words}\nagainst the threshold {record['threshold']:g}: {verdict}"


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--alphas {text!r}: write numbers between commas, for example 0,0.5,1,1.5.") from None


RECORDS: tuple[type, ...] = ()


def call(options: argparse.Namespace) -> Told:
    """Run the command."""
    return told(_call(options))
