"""The command line: thin verbs.

Each verb parses, calls one library function and prints where the result lies. Heavy imports wait inside the verbs, so
that --help is instant. Exit status: 0 done, 1 an error told in words, 2 wrong usage; a traceback only with --debug.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tuneport import __version__
from tuneport.commands import evaluate as evaluating
from tuneport.commands import path as diagnosing
from tuneport.commands import report as reporting
from tuneport.commands import study as studying
from tuneport.commands import tune
from tuneport.errors import TuneportError, UsageError, in_brief
from tuneport.files.json_text import check_text, finite
from tuneport.files.printable import printable, printable_json
from tuneport.publishing import push
from tuneport.terminal import open_streams, tell

Verb = Callable[[argparse.Namespace], dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    # numpy's BLAS would start a thread for every CPU; the core works with threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    open_streams()
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        verb: Verb = options.verb
        _check_arguments(options)
        with _stopped_by_a_scheduler():
            return _show(verb(options), options)
    except TuneportError as error:
        return _fail(options, type(error).__name__, str(error), error.exit_status)
    except KeyboardInterrupt:
        return _fail(options, "Interrupted", "Stopped. The same command goes on where this one stopped.", 1)
    except BrokenPipeError:
        return 1  # the reader of stdout went away, and wants no more
    except (OSError, MemoryError) as error:
        return _fail(options, type(error).__name__, _system_message(error), 1)
    except BaseException as error:
        if (
            type(error).__name__ != "PanicException"
        ):  # of no class that can be imported: each library in Rust has its own
            raise
        return _fail(options, "PanicException", _panic_message(error), 1)


# Places that the verbs of the core open by themselves, whatever their names are; torch, transformers and records cannot.
_CORE = ("transfer", "diff", "apply", "inspect", "verify")
_PLACES = ("base", "tuned", "onto", "out", "path", "diffs", "diff")


def _check_arguments(options: argparse.Namespace) -> None:
    """Raise `UsageError` for an argument that no record of the run could hold."""
    for name, value in vars(options).items():
        if options.name in _CORE and name in _PLACES:
            continue
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str):
                try:
                    check_text(text)
                except ValueError:
                    raise UsageError(
                        f"{text}: the name is not UTF-8. Rename the file or folder, and give the new name."
                    ) from None


@contextlib.contextmanager
def _stopped_by_a_scheduler() -> Iterator[None]:
    """SIGTERM, which schedulers send before they kill, ends a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; docs/commands.md is made from it."""
    parser = argparse.ArgumentParser(
        prog="tuneport",
        description="Carry a fine-tuning from one version of a language model to another: target + (tuned − base).",
        epilog="MODEL is a folder, or a Hub id such as org/name or org/name@revision.",
    )
    parser.add_argument("--version", action="version", version=f"tuneport {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_transfer(verbs)
    _add_diff(verbs)
    _add_apply(verbs)
    _add_inspect(verbs)
    _add_verify(verbs)
    _add_tune(verbs)
    evaluating.add_arguments(
        _verb(verbs, "evaluate", evaluating.call, "score models and say which differences are significant")
    )
    studying.add_arguments(_verb(verbs, "study", studying.call, "run a declared study of many versions as one graph"))
    diagnosing.add_arguments(_verb(verbs, "path", diagnosing.call, "measure loss on the line between two models"))
    reporting.add_arguments(
        _verb(verbs, "report", reporting.call, "make a page of a study's records, with its figures")
    )
    _add_demo(verbs)
    return parser


def _add_transfer(verbs: Any) -> None:
    parser = _verb(
        verbs, "transfer", push.pushing(_transfer), "write target + (tuned − base), streamed, nothing in between"
    )
    _parents(parser, onto=True)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write; it appears when it is whole")
    _arithmetic(parser)
    _policies(parser)
    _running(parser)
    push.add_arguments(parser)


def _add_diff(verbs: Any) -> None:
    parser = _verb(verbs, "diff", _diff, "take the diff vector tuned − base and keep it in a folder")
    _parents(parser, onto=False)
    parser.add_argument("--out", metavar="DIFF", required=True, help="folder to write; it appears when it is whole")
    parser.add_argument(
        "--encoding", choices=["exact"], default="exact", help="how the vector is stored (default: %(default)s)"
    )
    parser.add_argument(
        "--drop",
        metavar="REGEX",
        action="append",
        default=[],
        help="leave out tensors that only one of the two has (repeatable)",
    )
    _rename(parser)
    _vocabulary(parser)
    parser.add_argument(
        "--shard-size", metavar="SIZE", default="5GB", help="most bytes in a file (default: %(default)s)"
    )
    _running(parser)


def _add_apply(verbs: Any) -> None:
    parser = _verb(verbs, "apply", push.pushing(_apply), "add kept diff vectors to a target, one after another")
    parser.add_argument(
        "diffs", metavar="DIFF[=SCALE]", nargs="+", help="folder that `tuneport diff` wrote, and its scale"
    )
    parser.add_argument("--onto", metavar="MODEL", required=True, help="the target: the other version")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write; it appears when it is whole")
    _arithmetic(parser)
    _policies(parser)
    _running(parser)
    push.add_arguments(parser)


def _add_inspect(verbs: Any) -> None:
    parser = _verb(verbs, "inspect", _inspect, "say what a folder or Hub id is: checkpoint, diff vector, output, study")
    parser.add_argument("path", metavar="PATH", help="folder or Hub id; of a study, folder or URL")


def _add_verify(verbs: Any) -> None:
    parser = _verb(verbs, "verify", _verify, "prove an output, from its manifest or from its parents")
    parser.add_argument("out", metavar="DIR", help="folder that tuneport wrote")
    _parents(parser, onto=True, required=False)
    parser.add_argument("--diff", metavar="DIFF", action="append", default=[], help="parent of an `apply` (repeatable)")
    parser.add_argument("--full", action="store_true", help="recompute everything, not a sample")
    parser.add_argument("--seed", type=int, default=0, help="which sample is recomputed (default: %(default)s)")
    _resources(parser)


def _add_tune(verbs: Any) -> None:
    parser = _verb(verbs, "tune", push.pushing(tune.run), "fine-tune a model, on TRL")
    tune.add_arguments(parser)
    push.add_arguments(parser)


def _add_demo(verbs: Any) -> None:
    parser = _verb(verbs, "demo", _demo, "all of it on a family of tiny models pretrained on the spot, in minutes")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for models, questions and summary.json")
    parser.add_argument("--seed", type=int, default=0, help="seed of the family (default: %(default)s)")


def _verb(verbs: Any, name: str, verb: Verb, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    parser.set_defaults(verb=verb, name=name)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def _parents(parser: argparse.ArgumentParser, onto: bool, required: bool = True) -> None:
    parser.add_argument("--base", metavar="MODEL", required=required, help="the version that was fine-tuned")
    parser.add_argument(
        "--tuned", metavar="MODEL", required=required, help="the fine-tuned model, or a PEFT adapter of the base"
    )
    if onto:
        parser.add_argument("--onto", metavar="MODEL", required=required, help="the target: the other version")


def _arithmetic(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("arithmetic")
    group.add_argument("--scale", type=float, default=1.0, help="factor of the diff vector (default: 1)")
    group.add_argument(
        "--rule",
        metavar="REGEX=SCALE",
        action="append",
        default=[],
        help="another scale for tensors whose name the expression is found in; the last match wins; 0 leaves a tensor "
        "as the target has it (repeatable)",
    )
    group.add_argument(
        "--drop",
        metavar="REGEX",
        action="append",
        default=[],
        help="leave out tensors that have no place in the target (repeatable)",
    )
    _rename(group)
    group.add_argument(
        "--dtype", help="store tensors of the target's main dtype as bfloat16, float16, float32 or float64"
    )
    group.add_argument(
        "--rounding", choices=["nearest", "stochastic"], default="nearest", help="of the result (default: %(default)s)"
    )
    group.add_argument("--seed", type=int, default=0, help="for stochastic rounding (default: %(default)s)")


def _rename(parser: Any) -> None:
    parser.add_argument(
        "--rename",
        metavar="REGEX=REPLACEMENT",
        action="append",
        default=[],
        help="replace what the expression finds in tensor names of base, tuned or adapter, before they are compared with the "
        r"target's; split at the last =, \1 is the first group (repeatable, one after another)",
    )


def _policies(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("config, tokenizer, vocabulary")
    group.add_argument(
        "--config",
        metavar="FIELD=SIDE",
        action="append",
        default=[],
        help="take a config field from base, tuned or target; generation.FIELD and tokenizer.FIELD for the other files, "
        "tokenizer.SECTION for one section of tokenizer.json (repeatable)",
    )
    group.add_argument(
        "--sidecar",
        metavar="NAME=SIDE",
        action="append",
        default=[],
        help="take a sidecar from base, tuned or target (repeatable)",
    )
    group.add_argument(
        "--new-tokens",
        choices=["append", "all", "drop"],
        default="append",
        help="append the tokens that only the tuned model has; all: also those that base and tuned have and the target "
        "lacks; drop: none (default: append)",
    )
    _vocabulary(group)
    group.add_argument(
        "--digest-inputs", action="store_true", help="digest every tensor of the inputs into the manifest"
    )
    group.add_argument(
        "--shard-size", metavar="SIZE", default="5GB", help="most bytes in a file (default: %(default)s)"
    )


def _vocabulary(group: Any) -> None:
    group.add_argument(
        "--vocabulary",
        metavar="strings|positions",
        action="append",
        default=[],
        help="match rows of embeddings and heads by token string or by position; REGEX=strings or REGEX=positions decides for "
        "the tensors whose name the expression is found in (repeatable)",
    )


def _running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument("--strict", action="store_true", help="stop where something looks wrong, instead of warning")
    group.add_argument("--allow-nonfinite", action="store_true", help="write NaN and infinity instead of stopping")
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an output of tuneport that is there already; anything else stays",
    )
    group.add_argument(
        "--dry-run", action="store_true", help="show the plan, from headers and a sample of values, and write nothing"
    )
    _resources(group)


def _resources(parser: Any) -> None:
    parser.add_argument(
        "--max-memory", metavar="SIZE", help="bound on memory (default: 128MiB; 256MiB where tokenizers differ)"
    )
    parser.add_argument("--workers", metavar="N", type=int, help="worker threads (default: the usable CPUs)")


def _transfer(options: argparse.Namespace) -> dict[str, Any]:
    from tuneport.checkpoint.open_model import open_checkpoint
    from tuneport.engine.plan import plan_transfer
    from tuneport.engine.run import transfer

    choices, running = _choices(options), _running_of(options)
    if options.dry_run:
        roles = ((options.base, "base"), (options.tuned, "tuned"), (options.onto, "target"))
        inputs = [open_checkpoint(spec, role) for spec, role in roles]
        return _dry_run(plan_transfer(inputs[0], inputs[1], inputs[2], choices), options, running)
    return _outcome(transfer(options.base, options.tuned, options.onto, options.out, choices, running, _warn))


def _diff(options: argparse.Namespace) -> dict[str, Any]:
    from tuneport.checkpoint.open_model import open_checkpoint
    from tuneport.diffvector.extract import plan_diff
    from tuneport.diffvector.run import diff
    from tuneport.engine.options import Choices, parse_rename, parse_vocabulary

    vocabulary, rules = parse_vocabulary(options.vocabulary)
    choices = Choices(
        drop=options.drop,
        renames=tuple(parse_rename(text) for text in options.rename),
        vocabulary=vocabulary,
        vocabulary_rules=rules,
        shard_size=options.shard_size,
    )
    running = _running_of(options)
    if options.dry_run:
        parents = open_checkpoint(options.base, "base"), open_checkpoint(options.tuned, "tuned")
        return _dry_run(plan_diff(*parents, choices), options, running)
    return _outcome(diff(options.base, options.tuned, options.out, choices, running, _warn))


def _apply(options: argparse.Namespace) -> dict[str, Any]:
    from tuneport.diffvector.run import apply, plan_of

    choices, running = _choices(options), _running_of(options)
    diffs = [_diff_and_scale(text, options.scale) for text in options.diffs]
    if options.dry_run:
        return _dry_run(plan_of(diffs, options.onto, choices), options, running)
    return _outcome(apply(diffs, options.onto, options.out, choices, running, _warn))


def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    from tuneport.inspection import in_words, inspect

    description = inspect(options.path)
    return {**description, "words": in_words(description)}


def _verify(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from tuneport.engine.options import Running
    from tuneport.verification import verify

    proof = verify(
        options.out,
        options.base,
        options.tuned,
        options.onto,
        diffs=options.diff,
        full=options.full,
        seed=options.seed,
        running=Running(max_memory=options.max_memory, workers=options.workers),
    )
    return {"verified": True, **asdict(proof), "words": f"{options.out}: {proof}"}


def _demo(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from tuneport.families.demo import demo
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The demo needs {error.name}, which the core does without. Install it: pip install 'tuneport[models]'."
        ) from None
    show = _say_nothing if options.json else print  # stdout then holds one object and nothing else
    summary = demo(options.out, seed=options.seed, show=show)
    return {**summary.record, "words": f"{options.out}: {'already done' if summary.already_done else 'done'}"}


def _say_nothing(text: str) -> None:
    """What --json leaves out."""


def _choices(options: argparse.Namespace) -> Any:
    from tuneport.engine.options import Choices, parse_rename, parse_rule, parse_side, parse_vocabulary

    vocabulary, vocabulary_rules = parse_vocabulary(options.vocabulary)
    return Choices(
        scale=options.scale,
        rules=tuple(parse_rule(text) for text in options.rule),
        drop=options.drop,
        renames=tuple(parse_rename(text) for text in options.rename),
        dtype=options.dtype,
        rounding=options.rounding,
        seed=options.seed,
        config=dict(parse_side(text, "--config") for text in options.config),
        sidecar=dict(parse_side(text, "--sidecar") for text in options.sidecar),
        new_tokens=options.new_tokens,
        vocabulary=vocabulary,
        vocabulary_rules=vocabulary_rules,
        digest_inputs=options.digest_inputs,
        shard_size=options.shard_size,
    )


def _running_of(options: argparse.Namespace) -> Any:
    from tuneport.engine.options import Running

    return Running(
        strict=options.strict,
        allow_nonfinite=options.allow_nonfinite,
        max_memory=options.max_memory,
        workers=options.workers,
        overwrite=options.overwrite,
    )


def _diff_and_scale(text: str, default: float) -> tuple[str, float]:
    """``DIFF`` or ``DIFF=SCALE``; a folder whose own name holds ``=`` is taken as it stands."""
    folder, separator, scale = text.rpartition("=")
    if not separator or Path(text).is_dir():
        return text, default
    try:
        return folder, float(scale)
    except ValueError:
        raise UsageError(f"{text!r}: write DIFF or DIFF=SCALE, for example v1-to-chat=0.5.") from None


def _dry_run(plan: Any, options: argparse.Namespace, running: Any) -> dict[str, Any]:
    from tuneport.engine.checks.before_writing import look
    from tuneport.engine.plan_text import plan_as_json, plan_in_words

    told = plan_as_json(plan, running, look(plan), Path(options.out))
    refused = told["refused"]
    if refused and options.json:
        error = {"type": "Refused", "message": f"{len(refused)} thing(s) stand against this {plan.operation}."}
        return {**told, "error": error, "status": 1}
    words = plan_in_words(plan, told)
    return {**told, "warnings": told["warnings"], "words": words, "status": 1 if refused else 0}


def _outcome(outcome: Any) -> dict[str, Any]:
    from tuneport.sidecars.behaviour import behaviour_in_words

    manifest, out = outcome.manifest, outcome.out
    words = f"{out}: already done" if outcome.already_done else f"{out}: done, {len(manifest['tensors'])} tensors"
    norms = manifest["measures"]
    if not outcome.already_done and norms["diff_norm"] is not None:
        words += f", ‖Δ‖ = {norms['diff_norm']:.4g}"
        if norms["shift_norm"] is not None:
            words += f", ‖target − base‖ = {norms['shift_norm']:.4g}"
        if norms["rounding"] is not None and norms["rounding"]["error"] is not None:
            words += f", rounding took {norms['rounding']['error']:.2g} of ‖Δ‖"
    if "behaviour" in manifest:
        words += f"; {behaviour_in_words(manifest['behaviour'])}"
    return {
        "out": str(out),
        "already_done": outcome.already_done,
        "operation": manifest["operation"],
        "formula": manifest["formula"],
        **{name: manifest[name] for name in ("behaviour",) if name in manifest},
        "measures": norms,
        "warnings": list(outcome.warnings),
        "told": outcome.told,
        "words": words,
    }


def _show(result: dict[str, Any], options: argparse.Namespace) -> int:
    words, told = result.pop("words", ""), result.pop("told", ())
    status = int(result.pop("status", 0))
    try:
        _say(_as_one_object(result) if options.json else printable(words))
    except BrokenPipeError:
        raise
    except OSError as error:
        tell(f"tuneport: Done, but the result could not be written to stdout: {error.strerror or error}.")
        status = 1
    for warning in result.get("warnings", []):
        if warning not in told:
            _warn(warning)
    return status


def _as_one_object(result: dict[str, Any]) -> str:
    """One line of JSON that any reader takes, and any terminal."""
    return printable_json(json.dumps(finite(result), ensure_ascii=False, allow_nan=False))


def _warn(warning: str) -> None:
    tell(f"warning: {warning}")


def _say(text: str) -> None:
    try:
        print(text)
        sys.stdout.flush()
    except OSError:
        # What could not be written must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _fail(options: argparse.Namespace, kind: str, message: str, status: int) -> int:
    if options.debug:
        import traceback

        tell(traceback.format_exc())
    if options.json:
        with contextlib.suppress(OSError):  # the reader of stdout went away, or its disk is full; stderr says the same
            _say(_as_one_object({"error": {"type": kind, "message": message}}))
    tell(f"tuneport: {in_brief(message)}")
    return status


def _panic_message(error: BaseException) -> str:
    """What a library in Rust (tokenizers, safetensors) stopped at, and what the usual cause is."""
    told = " ".join(printable(str(error)).split())[:300]
    return (
        f"A library stopped at what it was given: {told}. Where it names `retry-limit`, an expression in the model's "
        "tokenizer.json takes too long on one of the texts: leave that text out, or use another tokenizer."
    )


def _system_message(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "There is not enough memory. Give fewer --workers, or close other programs."
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}. Nothing that was there before has been changed."


if __name__ == "__main__":
    sys.exit(main())
