"""`tune`: run a fine-tuning with TRL, from its options to a finished folder.

DIR is an ordinary checkpoint (or an adapter) with `tune.json` (what was done), a card, `log.jsonl` (every step) and the
digests of the training data. Until it is complete it is named DIR.partial. A killed run resumes from its last complete
checkpoint and ends with the same weights.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneport import __version__
from tuneport.errors import DoubtError, TrainingError, TuneportError, listing, named, recorded, spoken
from tuneport.examples.digests import HASHES, read_digests, write_digests
from tuneport.examples.rendering import rendered_in_a_child
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, read_bytes
from tuneport.libraries import packages, quietly
from tuneport.output.model_card import card_digest, own_text, with_own
from tuneport.output.parent_cards import card_facts
from tuneport.output.replacing import CARD
from tuneport.progress import Progress
from tuneport.public_functions import takes
from tuneport.publishing.tuning_card import render_card
from tuneport.scoring.model_class import first_line
from tuneport.shown import Found, Shown
from tuneport.terminal import is_watched, tell
from tuneport.tuning.checkpoints import CHECKPOINTS, last_whole, mark_whole, step_of
from tuneport.tuning.curve import add_point
from tuneport.tuning.distillation.answer_lessons import learned
from tuneport.tuning.folder import check_place, check_space, discarded_if_nothing_began, refusals_in_words
from tuneport.tuning.forecast import forecast, forecast_in_words
from tuneport.tuning.logbook import Logbook
from tuneport.tuning.prepare import Prepared, prepare
from tuneport.tuning.recipes import TuneOptions, TuningRun, recipe_of
from tuneport.tuning.stored_dtype import CastLoss
from tuneport.tuning.team import Team, join_team, team_workplace

RECORD = "tune.json"


@dataclass(frozen=True, repr=False)
class Tuned(Shown):
    """A finished fine-tuning: its folder, its record, and whether it was there before."""

    out: Path
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()
    already_done: bool = False

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints; ``record`` has all of it."""
        lost = self.record["rounding"]
        return {
            "out": str(self.out),
            "already_done": self.already_done,
            "outcome": self.record["outcome"],
            "rounding": lost and {name: lost[name] for name in ("error", "unchanged", "nonzero")},
            "warnings": list(self.warnings),
        }

    def heading(self) -> str:
        """One line."""
        outcome, lost = self.record["outcome"], self.record["rounding"]
        words = f"{self.out}: {'already done' if self.already_done else 'done'}"
        words += f", {outcome['steps']} steps, loss {outcome['final_loss']:.4f}, {outcome['seconds']:.0f} s"
        return words + (f", rounding lost {lost['error']:.2g} of ‖Δ‖" if lost and lost["error"] else "")


class PlannedTuning(Found):
    """What a fine-tuning would do, by key as its JSON is."""

    def heading(self) -> str:
        """One line."""
        return f"plan of tune: {self['steps']} steps"

    def in_words(self) -> str:
        """All of it, for a person."""
        return forecast_in_words(self.to_dict())


@takes(TuneOptions)
def tune(given: TuneOptions) -> Tuned:
    """Fine-tune a model into the folder ``out``.

    Full parameters, or an adapter with ``lora``. Weights are stored in the start's dtype, or in ``dtype`` (float32
    keeps everything that was learned). Raises `TuneportError` for data that do not fit, a model that cannot be trained,
    or a place with other files (``overwrite`` replaces an earlier output). The same call again resumes, or says that it
    is done.

        tuneport.tune("v1", data="mine.jsonl", out="v1-tuned", steps=300, batch_size=32, chat_template="chatml")
    """
    running, place = given.running, Path(os.path.expanduser(given.out))
    template = [given.chat_template] if given.chat_template else []
    with quietly(to_stderr=True):
        team = join_team()
        prepared = _prepared(given)
        check_place(place, prepared, [*given.data, *running.tasks, *template, *prepared.recipe.reads])
        _refuse_doubts(prepared, running)
        _show_warnings(prepared, team)
        plan = prepared.plan() if team.leads else {}
        said: Sequence[str] | None = None
        with team_workplace(team, place, plan, RECORD, overwrite=running.overwrite) as folder:
            if folder is not None:
                with discarded_if_nothing_began(folder, team), refusals_in_words(folder):
                    said = _run(prepared, place, folder, plan, team, running)
        team.wait()
        record = read_json(read_bytes(place / RECORD, place, MOST_RECORD_BYTES))
        warnings = spoken(record["outcome"]["warnings"] if said is None else said)
        return Tuned(place, record, warnings, already_done=folder is None)


@takes(TuneOptions)
def rehearse(given: TuneOptions) -> PlannedTuning:
    """What `tune` would do with these options; nothing is trained or written."""
    with quietly(to_stderr=True):
        return PlannedTuning(forecast(_prepared(given), given.running))


def _prepared(given: TuneOptions) -> Prepared:
    return prepare(
        given.model,
        given.data,
        recipe_of(given.recipe, **given.choices),
        mix=given.mix,
        chat_template=None if given.chat_template is None else os.fspath(given.chat_template),
        end_token=given.end_token,
        lora=given.lora,
        dtype=given.dtype,
        running=given.running,
        columns=given.columns,
    )


def _run(
    prepared: Prepared, place: Path, folder: Path, plan: dict[str, Any], team: Team, running: TuningRun
) -> Sequence[str]:
    """Train, and write everything into ``folder``, which becomes ``place``. Returns the warnings."""
    from tuneport.tuning.loading import load_model
    from tuneport.tuning.trainers import build_trainer

    checkpoints = folder / CHECKPOINTS
    if team.leads:
        checkpoints.mkdir(exist_ok=True)
        # A run that is gone on from may have been scored on other examples, which stay what they are.
        before = read_digests(folder / HASHES, selection=True) if (folder / HASHES).exists() else frozenset[str]()
        write_digests(folder / HASHES, (), before | prepared.selection.digests())
        for scored in folder.glob("step-*"):  # a model that was being scored when an earlier run was killed
            shutil.rmtree(scored)
        for torn in folder.glob(".tmp??????"):  # weights that were being written: safetensors names them at the end
            torn.unlink()
    resumed = team.share(last_whole(checkpoints) if team.leads else None)
    logbook = Logbook(folder, 0 if resumed is None else step_of(resumed), writes=team.leads)
    if running.report_to == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    # What the trainers do to the tokenizer (a padding token, a side) is for training only.
    padding, side = prepared.tokenizer.pad_token, prepared.tokenizer.padding_side
    if padding is None:
        prepared.tokenizer.pad_token = prepared.chat.end_token
    with ExitStack() as stack:
        stack.callback(logbook.close)
        stack.enter_context(rendered_in_a_child())  # TRL renders prompts of messages too
        prepared = _taught(prepared, folder, team)
        warnings = (*prepared.warnings, *prepared.notes)
        model = load_model(prepared)
        try:
            trainer = build_trainer(prepared, model, checkpoints, team, running)
        except TuneportError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, ImportError) as error:
            # TRL's and peft's own refusals
            told = f"{prepared.start.label} cannot be trained with these options: {first_line(error)}"
            raise TrainingError(told) from error
        check_space(folder, trainer.model, prepared, running)
        progress = Progress("tune", prepared.steps, "steps", before=0 if resumed is None else step_of(resumed))
        if team.leads:
            stack.enter_context(progress)
        _take_callbacks(trainer, prepared, folder, logbook, team, running, progress)
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        unwrapped = trainer.accelerator.unwrap_model(trainer.model)
        state = trainer.accelerator.get_state_dict(trainer.model)
        prepared.tokenizer.pad_token, prepared.tokenizer.padding_side = padding, side
        progress.note = "writing the model"
        if team.leads:
            loss = _write_model(folder, unwrapped, state, prepared, running)
            write_digests(folder / HASHES, prepared.encoded.digests, read_digests(folder / HASHES, selection=True))
            warnings += () if loss is None else loss.warnings
            record: dict[str, Any] = {
                "plan": plan,
                "outcome": _outcome(prepared, logbook, warnings),
                "environment": _environment(trainer),
            }
            record["data"] = [source.origin() for source in prepared.sources]
            record["selection"] = prepared.selection.record()
            record["rounding"] = None if loss is None else loss.record()
            record["card"] = card_facts([prepared.start])
            card = render_card(record)
            (folder / CARD).write_bytes(with_own(card, own_text(place / CARD)))
            record["files"] = {CARD: card_digest(card)}  # a card that was edited since is known by it
            (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return warnings


def _taught(prepared: Prepared, folder: Path, team: Team) -> Prepared:
    """With the lessons of a distillation, whose teacher is asked by the first process, once."""
    from tuneport.tuning.distillation.teaching import answer_all, lessons_of, wait_for_answers

    if prepared.teaching is None:
        return prepared
    told: list[str] = []
    if team.leads:
        told = answer_all(prepared.teaching, prepared.start, prepared.tokenizer, folder, prepared.length)
    else:
        wait_for_answers(prepared.teaching, folder)
    team.wait()
    assert prepared.chat.end_id is not None, "a run without an end token is refused"
    lessons = lessons_of(prepared.teaching, folder, prepared.tokenizer, prepared.chat.end_id, prepared.length)
    warnings = (*prepared.warnings, *told, *lessons.counts.warnings(prepared.teaching.longest))
    return replace(prepared, lessons=lessons, warnings=tuple(dict.fromkeys(warnings)))


def _write_model(folder: Path, model: Any, state: Any, prepared: Prepared, running: TuningRun) -> CastLoss | None:
    """Returns what storing the weights lost; None for an adapter, whose float32 is stored as it is."""
    from tuneport.tuning.save import save_adapter, save_model

    parts = (model, state, prepared.tokenizer, prepared.start, prepared.chat)
    if prepared.lora is None:
        return save_model(folder, *parts, dtype=prepared.dtype, shard_size=running.shard_size)
    save_adapter(folder, *parts)
    return None


def _take_callbacks(
    trainer: Any, prepared: Prepared, folder: Path, logbook: Logbook, team: Team, running: TuningRun, progress: Progress
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
                progress.note = f"loss {logs['loss']:.4f}"

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.set(state.global_step)
            if state.global_step >= state.max_steps:
                control.should_save = False  # the model itself is written next

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            team.wait()  # each process writes a part
            if team.leads:
                mark_whole(Path(args.output_dir), state.global_step)

    class Evaluator(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            assert running.eval_every is not None, "it is only here where there is something to do"
            if state.global_step % running.eval_every == 0 or state.global_step >= state.max_steps:
                add_point(trainer, prepared, folder, state.global_step, logbook, team, running)

    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(Watcher())
    if running.eval_every is not None:
        trainer.add_callback(Evaluator())


def _outcome(prepared: Prepared, logbook: Logbook, warnings: Sequence[str]) -> dict[str, Any]:
    return {
        "steps": prepared.steps,
        "epochs": round(prepared.epochs, 4),
        "tokens": logbook.tokens,
        "seconds": round(logbook.seconds, 3),
        "final_loss": logbook.final_loss(),
        "examples": prepared.encoded.counts.record(),
        **({} if prepared.lessons is None else {"distillation": learned(prepared.lessons.counts, logbook.lines)}),
        "warnings": recorded(warnings),
    }


def _environment(trainer: Any) -> dict[str, Any]:
    import torch

    return {
        "tuneport": __version__,
        "python": platform.python_version(),
        "packages": packages(),
        "device": trainer.accelerator.device.type,
        "processes": trainer.accelerator.num_processes,
        "distributed_type": trainer.accelerator.distributed_type.value,
        "threads": torch.get_num_threads(),
        "computed_in": "bfloat16" if trainer.args.bf16 else "float32",
        "per_device_train_batch_size": trainer.args.per_device_train_batch_size,
        "accumulation_steps": trainer.args.gradient_accumulation_steps,
    }


def _refuse_doubts(prepared: Prepared, running: TuningRun) -> None:
    if running.strict and prepared.warnings:
        told = listing(list(prepared.warnings))
        raise DoubtError(f"{named('strict')} stopped this run before training, because of these warnings:{told}")


def _show_warnings(prepared: Prepared, team: Team) -> None:
    """On a terminal, before the hours begin; the record has them too, and whoever called is given them at the end."""
    if team.leads and is_watched():
        for warning in spoken((*prepared.warnings, *prepared.notes)):
            tell(f"warning: {warning}")
