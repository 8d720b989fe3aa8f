"""`tune`: a fine-tuning from its choices to a finished folder, on TRL.

In come a model, data and a recipe, out comes DIR: an ordinary checkpoint (or an adapter) with `tune.json` (what was
done), a card, `log.jsonl` (every step) and the digests of what it was trained on. Until all of that is there it is called
DIR.partial; a killed run goes on from its last whole checkpoint and ends with the same weights.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import platform
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport import __version__
from tuneport.checkpoint.publish import CARD
from tuneport.errors import OutputError, TrainingError, TuneportError
from tuneport.place import write_whole
from tuneport.tune.card import render_card
from tuneport.tune.data import Share
from tuneport.tune.leakage import HASHES, read_digests, write_digests
from tuneport.tune.logbook import LOG, Logbook
from tuneport.tune.prepare import Prepared, forecast, forecast_in_words, prepare
from tuneport.tune.recipes import Lora, Recipe, Running, recipe_of
from tuneport.tune.team import Team, join_team, team_workplace

RECORD = "tune.json"
CURVE = "curve.jsonl"
CHECKPOINTS = "checkpoints"
WHOLE = "whole"  # stands in a checkpoint whose every file is written
# What a system says when something cannot be written.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
_PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "numpy")


@dataclass(frozen=True)
class Tuned:
    """A finished fine-tuning: its folder, its record, and whether it was there before."""

    out: Path
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()
    already_done: bool = False


def tune(
    model: str | os.PathLike[str],
    data: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    recipe: str | Recipe = "sft",
    *,
    out: str | os.PathLike[str],
    mix: Sequence[Share] = (),
    chat_template: str | None = None,
    end_token: str | None = None,
    lora: Lora | None = None,
    dtype: str | None = None,
    running: Running | None = None,
) -> Tuned:
    """Fine-tune ``model`` on ``data`` into the folder ``out``; ``recipe`` is a name or a `Recipe` with choices.

    Full parameters, or an adapter with ``lora``. Weights are stored as the start's are, or in ``dtype`` (float32 keeps all
    that was learned). Raises `TuneportError` in words: data that do not fit, a model that cannot be trained, a place that
    is taken (`Running.overwrite` replaces it). The same call again goes on, or says that it is done.

        tuneport.tune("v1", ["mine.jsonl"], SftRecipe(steps=300, batch_size=32), out="v1-tuned", chat_template="chatml")
    """
    names = [data] if isinstance(data, str | os.PathLike) else list(data)
    running, place = running or Running(), Path(os.path.expanduser(out))
    with _quietly():
        team = join_team()
        prepared = prepare(
            model,
            names,
            recipe_of(recipe),
            mix=mix,
            chat_template=chat_template,
            end_token=end_token,
            lora=lora,
            dtype=dtype,
            running=running,
        )
        _check_place(place, prepared, [*names, *running.tasks, *([chat_template] if chat_template else [])])
        _show_warnings(prepared, team)
        plan = prepared.plan() if team.leads else {}
        with team_workplace(team, place, plan, RECORD, overwrite=running.overwrite) as folder:
            if folder is not None:
                with _discarded_if_nothing_began(folder, team), _told(folder):
                    _run(prepared, folder, plan, team, running)
        team.wait()
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        return Tuned(place, record, prepared.warnings, already_done=folder is None)


def rehearse(
    model: str | os.PathLike[str],
    data: Sequence[str | os.PathLike[str]],
    recipe: str | Recipe = "sft",
    **choices: Any,
) -> dict[str, Any]:
    """What `tune` would do with these choices, with words for a person; nothing is trained or written."""
    with _quietly():
        told = forecast(prepare(model, data, recipe_of(recipe), **choices))
    return {**told, "words": forecast_in_words(told)}


def _run(prepared: Prepared, folder: Path, plan: dict[str, Any], team: Team, running: Running) -> None:
    """Train, and write everything into ``folder``."""
    from tuneport.tune.trainers import build_trainer, load_model

    checkpoints = folder / CHECKPOINTS
    if team.leads:
        checkpoints.mkdir(exist_ok=True)
        # A run that is gone on from may have been scored on other examples, which stay what they are.
        before = read_digests(folder / HASHES, selection=True) if (folder / HASHES).exists() else frozenset[str]()
        write_digests(folder / HASHES, (), before | prepared.selection.digests())
        for scored in folder.glob("step-*"):  # a model that was being scored when an earlier run was killed
            shutil.rmtree(scored)
    resumed = team.share(_last_whole(checkpoints) if team.leads else None)
    logbook = Logbook(folder, 0 if resumed is None else _step_of(Path(resumed)), writes=team.leads)
    if running.report_to == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    # What the trainers do to the tokenizer (a padding token, a side) is for training only.
    padding, side = prepared.tokenizer.pad_token, prepared.tokenizer.padding_side
    if padding is None:
        prepared.tokenizer.pad_token = prepared.chat.end_token
    try:
        model = load_model(prepared)
        try:
            trainer = build_trainer(prepared, model, checkpoints, team, running)
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, ImportError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]  # TRL's and peft's own refusals
            raise TrainingError(f"{prepared.start.label} cannot be trained with these choices: {first}") from error
        _check_space(folder, trainer.model, prepared, running)
        _take_callbacks(trainer, prepared, folder, logbook, team, running)
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        unwrapped = trainer.accelerator.unwrap_model(trainer.model)
        state = trainer.accelerator.get_state_dict(trainer.model)
        prepared.tokenizer.pad_token, prepared.tokenizer.padding_side = padding, side
        if team.leads:
            _write_model(folder, unwrapped, state, prepared, running)
            write_digests(folder / HASHES, prepared.encoded.digests, read_digests(folder / HASHES, selection=True))
            record: dict[str, Any] = {
                "plan": plan,
                "outcome": _outcome(prepared, logbook),
                "environment": _environment(trainer),
            }
            record["selection"] = prepared.selection.record()
            card = render_card(record)
            (folder / CARD).write_bytes(card)
            record["files"] = {CARD: blake3(card).hexdigest()}  # a card that was edited since is known by it
            (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            shutil.rmtree(checkpoints)
    finally:
        logbook.close()


def _write_model(folder: Path, model: Any, state: Any, prepared: Prepared, running: Running) -> None:
    from tuneport.tune.save import save_adapter, save_model

    parts = (model, state, prepared.tokenizer, prepared.start, prepared.chat)
    if prepared.lora is None:
        save_model(folder, *parts, dtype=prepared.dtype, shard_size=running.shard_size)
    else:
        save_adapter(folder, *parts)


def _take_callbacks(
    trainer: Any, prepared: Prepared, folder: Path, logbook: Logbook, team: Team, running: Running
) -> None:
    """Our eyes on TRL's loop: the log, marks on whole checkpoints, evaluation on the way."""
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    class Watcher(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            state.num_input_tokens_seen = 0  # GRPO would count on from the checkpoint's number, which the logbook adds

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            logs = given["logs"]
            if "loss" in logs:
                logbook.note(state.global_step, logs)
                state.log_history.clear()  # log.jsonl has it; every checkpoint would hold all of it again
                _show_progress(state.global_step, prepared.steps, logs["loss"], team)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= state.max_steps:
                control.should_save = False  # the model itself is written next

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            team.wait()  # each process writes a part
            if team.leads:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    class Evaluator(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            assert running.eval_every is not None, "it is only here where there is something to do"
            if state.global_step % running.eval_every == 0 or state.global_step >= state.max_steps:
                _evaluate(trainer, prepared, folder, state.global_step, logbook, team, running)

    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(Watcher())
    if running.eval_every is not None:
        trainer.add_callback(Evaluator())


def _evaluate(
    trainer: Any, prepared: Prepared, folder: Path, step: int, logbook: Logbook, team: Team, running: Running
) -> None:
    """Save the model as it is, score it, and add a line to the curve. Random states are left as they were."""
    import tuneport
    from tuneport.tune.save import save_model

    model = trainer.accelerator.unwrap_model(trainer.model)
    if prepared.lora is not None:  # merged into a copy: taking a merge back would not give the same bits
        model = copy.deepcopy(model).merge_and_unload()
        state = model.state_dict()
    else:
        state = trainer.accelerator.get_state_dict(trainer.model)
    if team.leads:
        place = folder / f"step-{step}"
        shutil.rmtree(place, ignore_errors=True)
        parts = (model, state, prepared.tokenizer, prepared.start, prepared.chat)
        with _random_states_kept():
            save_model(place, *parts, dtype=prepared.dtype, shard_size=running.shard_size)
            scores = tuneport.evaluate(
                models=[place],
                tasks=list(running.tasks),
                out=place / "scores.json",
                # a model of a short context cannot say as much as a long one
                max_new_tokens=min(running.max_new_tokens, max(prepared.length // 2, 1)),
                batch_size=running.eval_batch_size,
            )
        (scored,) = scores["models"]
        line = {"step": step, "tokens": logbook.tokens, "seconds": round(logbook.seconds, 3), "tasks": scored["tasks"]}
        _add_to_curve(folder / CURVE, line)
        shutil.rmtree(place)
    trainer.model.train()
    team.wait()


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """What the block draws leaves no trace: Python's, numpy's and torch's generators, the device's too."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _add_to_curve(path: Path, line: dict[str, Any]) -> None:
    """The curve with this step's line; lines of the same or later steps, from a run that was killed, go."""
    old = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    kept = [*(point for point in old if point["step"] < line["step"]), line]
    write_whole(path, "".join(json.dumps(point) + "\n" for point in kept))


def _outcome(prepared: Prepared, logbook: Logbook) -> dict[str, Any]:
    return {
        "steps": prepared.steps,
        "epochs": round(prepared.epochs, 4),
        "tokens": logbook.tokens,
        "seconds": round(logbook.seconds, 3),
        "final_loss": logbook.final_loss(),
        "examples": prepared.encoded.counts.record(),
        "warnings": list(prepared.warnings),
    }


def _environment(trainer: Any) -> dict[str, Any]:
    import torch

    return {
        "tuneport": __version__,
        "python": platform.python_version(),
        "packages": _versions(),
        "device": trainer.accelerator.device.type,
        "processes": trainer.accelerator.num_processes,
        "distributed_type": trainer.accelerator.distributed_type.value,
        "threads": torch.get_num_threads(),
        "computed_in": "bfloat16" if trainer.args.bf16 else "float32",
        "device_batch_size": trainer.args.per_device_train_batch_size,
        "accumulation_steps": trainer.args.gradient_accumulation_steps,
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _last_whole(checkpoints: Path) -> str | None:
    """The last checkpoint that was written to its end; what was cut short is removed."""
    whole = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / WHOLE).exists():
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    return str(max(whole, key=_step_of)) if whole else None


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _check_place(out: Path, prepared: Prepared, read: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse places that cannot be meant, and such as hold a file that is read."""
    start = prepared.start.path.resolve()
    if out.resolve() == start or start in out.resolve().parents or out.resolve() in start.parents:
        raise OutputError(f"--out {out} is the model {prepared.start.label}, or holds it, or lies in it; give another.")
    for name in read:
        file = Path(os.path.expanduser(name))
        if file.exists() and out.resolve() in (file.resolve(), *file.resolve().parents):
            raise OutputError(f"--out {out} holds {name}, which is read; give a folder of its own.")
    if not out.resolve().parent.is_dir():
        raise OutputError(f"--out {out}: the folder {out.resolve().parent} does not exist. Make it first.")


def _check_space(folder: Path, model: Any, prepared: Prepared, running: Running) -> None:
    """Raise `OutputError` where the disk cannot hold the model and the checkpoints on the way."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    written = sum(parameter.numel() for parameter in model.parameters()) if prepared.lora is None else trained
    on_the_way = 3 if prepared.steps > running.save_every else 0  # two stay, one more is being written
    needed = 4 * written + on_the_way * (4 * written + 8 * trained)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: the model and its checkpoints take up to {needed:,} bytes, the disk has {free:,} free. Free some "
            "space, or choose another --out."
        )


def _show_warnings(prepared: Prepared, team: Team) -> None:
    """On a terminal, before the hours begin; the record has them too, and whoever called is given them at the end."""
    if team.leads and sys.stderr.isatty():
        for warning in prepared.warnings:
            print(f"warning: {warning}", file=sys.stderr)


def _show_progress(step: int, steps: int, loss: float, team: Team) -> None:
    if team.leads and sys.stderr.isatty():
        end = "\n" if step >= steps else ""
        print(f"\rstep {step}/{steps}, loss {loss:.4f} ", end=end, file=sys.stderr, flush=True)


@contextmanager
def _discarded_if_nothing_began(folder: Path, team: Team) -> Iterator[None]:
    """Where a run is refused before its first step, DIR.partial goes: other choices may then take its place."""
    try:
        yield
    except TuneportError:
        log = folder / LOG
        if team.leads and not (log.exists() and log.stat().st_size):
            shutil.rmtree(folder)
        raise


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say in words what disk and memory refuse in the middle of a run."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in _REFUSALS:
            raise
        raise OutputError(
            f"Cannot write below {folder}: {getattr(error, 'strerror', None) or error}. Mend the cause and run the same "
            "command again, it goes on from the last whole checkpoint."
        ) from error
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if "unexpected pos" in text or "failed writing" in text or "No space left" in text:  # torch.save, disk full
            raise OutputError(
                f"Cannot write below {folder}: {text.splitlines()[0]}. Is the disk full? Mend the cause and run the same "
                "command again, it goes on from the last whole checkpoint."
            ) from error
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
            raise TrainingError(
                "There is not enough memory. Give a smaller --device-batch-size (the update stays the same), "
                "--gradient-checkpointing, or --lora; `--dry-run` estimates what is needed."
            ) from error
        raise


@contextmanager
def _quietly() -> Iterator[None]:
    """The libraries' bars and remarks off; what matters is in the log, the record and our warnings."""
    import logging
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    _let_libraries_set_levels()
    loggers = [logging.getLogger(name) for name in ("trl", "transformers", "accelerate", "peft", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bars = _transformers_bars(False)
    try:
        # What libraries and rewards print is no result: stdout may be somebody's JSON.
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            _transformers_bars(True)


def _let_libraries_set_levels() -> None:
    """Two of them set their logger's level when it is first asked for, and would take back what is set before."""
    for library in ("transformers", "datasets"):
        if find_spec(library) is not None:  # else prepare() says what is missing
            import_module(f"{library}.utils.logging").get_verbosity()


def _transformers_bars(on: bool) -> bool:
    """Switch transformers' progress bars; whether they were on."""
    try:
        from transformers.utils import logging
    except ModuleNotFoundError:
        return False  # prepare() says what is missing
    before = bool(logging.is_progress_bar_enabled())
    switch: Any = logging.enable_progress_bar if on else logging.disable_progress_bar
    switch()
    return before
