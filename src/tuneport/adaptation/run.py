"""`adapt`: climb from plain addition to what is better, as far as the data allow, and write the best.

Read `adapt` from top to bottom: check all inputs, part the prompts, ask source and target, climb, write. Until it is
complete the folder is DIR.partial; a run that was killed goes on.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.adaptation.adapt_record import Adaptation, record_of
from tuneport.adaptation.climb import MOST_FITTED, Climb, kept, loaded, parents
from tuneport.adaptation.ladder import climb_all, figure
from tuneport.adaptation.learning_rates import with_rates
from tuneport.adaptation.prompt_parts import Parts, read_parts
from tuneport.adaptation.rehearsal import PlannedAdaptation, planned
from tuneport.adaptation.retained_texts import halves, own_texts
from tuneport.adaptation.rung_measures import AskedParts, RungMeasures, judged_by, retention
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.diagnosis.probing.probe_prompts import Questions, hear_source
from tuneport.diffvector.run import diff, transfer
from tuneport.engine.manifest import read_manifest, render_manifest
from tuneport.engine.run import execute
from tuneport.engine.summands.pair_summand import plan_transfer
from tuneport.engine.transfer_card import render_card as render_transfer_card
from tuneport.errors import DoubtError, UsageError, listing, named, recorded
from tuneport.examples.questions import OwnTask, digest_of_task
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, content_digest, opened, read_bytes
from tuneport.files.writing import whole, write_whole
from tuneport.libraries import how_to_install, missing, quietly
from tuneport.options import Place
from tuneport.output.adapted_card import ADAPTED
from tuneport.output.model_card import card_digest, own_text, with_own
from tuneport.output.replacing import CARD, TUNING
from tuneport.output.workdir import workplace
from tuneport.output.write import MANIFEST
from tuneport.progress import Progress
from tuneport.public_functions import takes
from tuneport.publishing.tuning_card import render_card as render_tuning_card
from tuneport.results.schema import ADAPT_FORMAT
from tuneport.scoring.evaluate_options import USUAL_ANSWER
from tuneport.scoring.harness import in_words
from tuneport.scoring.models import Loading, need_device, need_harness
from tuneport.scoring.run import template_text, versions
from tuneport.tuning.distillation.record_answers import record_answers
from tuneport.tuning.distillation.recording import key_of, recorded_texts

WORK, DIFF, TEACHER = "rungs", "diff", "teacher"  # TEACHER: what the source answered, within WORK
_DONE = "done.json"
_ROOM = 2  # answers may be twice as long as the longest of the tuned source, where nobody says how long


@takes(AdaptOptions)
def adapt(given: AdaptOptions) -> Adaptation:
    """Carry a fine-tuning to another version, and close the gap that plain addition leaves, without labels.

    Rungs from cheap to dear: ``add`` (target + Δ), ``scale`` (target + α·Δ), ``distil`` (the tuned source teaches it on
    ``prompts``), ``tune`` (on ``examples``). Each replaces the best so far only if it is better on prompts that it was not
    fitted on; the figures that are reported come from yet others. ``out`` is a checkpoint with manifest, card and
    adapt.json. The same call again resumes, or says that it is done. Raises `TuneportError`.

        tuneport.adapt("v1", "v1-tuned", "v2", "v2-tuned", prompts="prompts.jsonl")
    """
    out = Path(os.path.expanduser(given.out))
    _need_extras(given)
    loading = Loading("hf", given.device, None, given.eval_batch_size, template_text(given.chat_template))
    need_device(loading)
    models = _models(given)
    given = replace(given, fitting=with_rates(given.fitting, _folder_of(models[1])))
    parts = read_parts(given, _folder_of(models[1]))
    plan = _plan(given, parts, models, loading)
    with quietly(to_stderr=True):
        on_the_way = (WORK,)
        with workplace(out, plan, ADAPTED, overwrite=given.running.overwrite, on_the_way=on_the_way) as folder:
            if folder is not None:
                _run(given, parts, models, loading, folder, plan)
    record = read_json(read_bytes(out / ADAPTED, out, MOST_RECORD_BYTES))
    return Adaptation(out, record, already_done=folder is None)


@takes(AdaptOptions)
def rehearse_adapt(given: AdaptOptions) -> PlannedAdaptation:
    """What `adapt` would do with these options; nothing is trained or written."""
    _need_extras(given)
    models = _models(given)
    given = replace(given, fitting=with_rates(given.fitting, _folder_of(models[1])))
    parts = read_parts(given, _folder_of(models[1]))
    with quietly(to_stderr=True):
        return planned(given, parts, plan_transfer(*models, given.choices), _measure(parts))


def _folder_of(model: Checkpoint) -> Path | None:
    """Where `tune` may have left what a model was trained on."""
    return None if model.hub_id else model.path


def _need_extras(given: AdaptOptions) -> None:
    need_harness("hf")
    needed = ("trl", "accelerate", "datasets", *(("peft",) if given.fitting.lora else ()))
    if {"distil", "tune"} & set(given.wanted) and (absent := missing(*needed)):
        raise UsageError(
            f"{' and '.join(absent)}: not installed, and distil and tune need it. {how_to_install('models')}"
        )


def _models(given: AdaptOptions) -> tuple[Checkpoint, Checkpoint, Checkpoint]:
    """The three models, after a look at whether a transfer is possible at all."""
    models = parents(given)
    plan_transfer(*models, given.choices).stop_if_refused()
    return models


def _plan(given: AdaptOptions, parts: Parts, models: tuple[Checkpoint, ...], loading: Loading) -> dict[str, Any]:
    """What makes two runs the same."""
    near = tuple(replace(text, name="near", examples=parts.near) for text in parts.texts if parts.near)
    tasks = (parts.fit, parts.select, parts.test, *parts.texts, *near)
    return {
        "format": ADAPT_FORMAT,
        "inputs": [{"role": model.role, **_identity(model)} for model in models],
        "rungs": list(given.wanted),
        "data": [{"part": task.name, "examples": len(task.examples), "digest": digest_of_task(task)} for task in tasks],
        "settings": {
            "fitting": {**asdict(given.fitting), "lora": given.fitting.lora and given.fitting.lora.record()},
            "match": given.asking.match,
            "max_new_tokens": given.asking.max_new_tokens,
            "chat_template": loading.chat_template,
            "device": given.device,
            "keep_harmed": given.keep_harmed,
            "keep_diff": given.keep_diff,
            "choices": json.loads(json.dumps(asdict(given.choices), default=str)),
        },
        "versions": versions(),
    }


def _identity(model: Checkpoint) -> dict[str, Any]:
    found = model.identity()
    return {name: found[name] for name in ("name", "revision", "digest")}


def _run(
    given: AdaptOptions,
    parts: Parts,
    models: tuple[Checkpoint, Checkpoint, Checkpoint],
    loading: Loading,
    folder: Path,
    plan: dict[str, Any],
) -> None:
    """Climb in ``folder``, which becomes DIR."""
    work = folder / WORK
    work.mkdir(exist_ok=True)
    if not (work / _DONE).is_file():
        record, chosen = _climbed(given, parts, models, loading, work)
        if given.keep_diff:
            diff(given.onto, chosen, work / DIFF, workers=given.running.workers)
        done = {"record": record, "place": chosen.name}
        write_whole(work / _DONE, json.dumps(done))
    done = read_json(read_bytes(work / _DONE, work, MOST_RECORD_BYTES))
    _put(folder, work / done["place"], done["record"], plan, Path(os.path.expanduser(given.out)))


def _climbed(
    given: AdaptOptions,
    parts: Parts,
    models: tuple[Checkpoint, Checkpoint, Checkpoint],
    loading: Loading,
    work: Path,
) -> tuple[dict[str, Any], Path]:
    warnings: list[str] = list(parts.notes)
    with Progress("adapt", len(given.wanted) + 2, "steps", rate=False) as progress:
        progress.note = "add"
        added = execute(plan_transfer(*models, given.choices), work / "add", replace(given.running, overwrite=False))
        warnings += added.manifest.get("warnings", ())
        source: Place = given.tuned
        if models[1].adapter is not None:
            source = work / "source"
            transfer(given.base, given.tuned, given.base, source, workers=given.running.workers)
        if given.running.strict and warnings:
            raise DoubtError(f"{named('strict')} stopped this run, because of these warnings:{listing(warnings)}")
        progress.note = "the tuned source answers"
        answers = kept(
            work / "source.answers.json",
            lambda: _answers(source, parts, loading, given, warnings, work),
            lambda found: found,
            lambda found: dict(found),
        )
        progress.add()
        asked = _asked(parts, answers, given, warnings)
        progress.note = "the target"
        texts = kept(
            work / "retain.texts.json",
            lambda: _texts(given, parts, loading, warnings),
            lambda found: found,
            lambda found: list(found),
        )
        near = parts.near
        if not parts.texts:
            measured, near = halves(texts)
            asked = replace(asked, texts=(measured,))
        said = tuple(answers["fit"])
        climb = Climb(given, work, parts, loading, asked, work / TEACHER, said, near, progress, warnings)
        references: dict[str, Any] = {}
        target = climb.measured("target", given.onto, template_of=work / "add")
        references["target"] = _reference(target, target)
        if "quality" in (measure := _measure(parts)).values():
            references["source"] = _reference(climb.measured("source", source), target)
        progress.add()
        rungs = climb_all(climb, target)
    record = record_of(rungs, climb.standing.rung, measure, references)
    record["warnings"] = recorded(dict.fromkeys(climb.warnings))
    return record, climb.standing.place


def _measure(parts: Parts) -> dict[str, str]:
    return {part.name: "quality" if parts.labelled(part) else "agreement" for part in (parts.select, parts.test)}


def _answers(
    source: Place, parts: Parts, loading: Loading, given: AdaptOptions, warnings: list[str], work: Path
) -> dict[str, Any]:
    """What the tuned source says to the prompts of each part (of those to fit on to a few), and its longest answer.

    For `distil` all answers to prompts to fit on are recorded, with what the source expected at each token: however often
    that rung trains, they are given once.
    """
    wanted = {"select": parts.select, "test": parts.test, "fit": parts.fit}
    asked = {name: replace(part, name=name, kind="prompt") for name, part in wanted.items() if part.examples}
    found: dict[str, Any] = {"select": [], "test": [], "fit": []}
    whole = [asked.get(name, parts.fit) for name in ("select", "test")]
    everything = AskedParts(whole[0], whole[1], (), given.asking)
    few = asked.pop("fit", None)
    with loaded(source, loading, everything, warnings) as model, in_words(f"{model.name} could not be asked"):
        model.shapes = []
        for name, task in asked.items():
            found[name] = [text for text, _ in _said(task, model, given)]
        if few is not None and "distil" in given.wanted:
            longest = given.asking.max_new_tokens or USUAL_ANSWER
            about = {"teacher": model.name, "warnings": []}
            record_answers(model, (few,), work / TEACHER, longest=longest, about=about)
            texts = recorded_texts(work / TEACHER)
            found["fit"] = [texts[key_of(example)] for example in few.examples[:MOST_FITTED]]
        elif few is not None and {"scale", "layers"} & set(given.wanted):
            few = replace(few, examples=few.examples[:MOST_FITTED])
            found["fit"] = [text for _, text in _said(few, model, given)]
        found["longest"] = max(shape.tokens for shape in model.shapes)
    return found


def _said(task: OwnTask, model: Any, given: AdaptOptions) -> list[tuple[str, str]]:
    """What a model says to each prompt, and the same as it stands behind the prompt."""
    heard, answers = hear_source(Questions((task,), ()), model, given.asking)
    return [(words, words if each is None else each.text) for words, each in zip(heard.said, answers, strict=True)]


def _asked(parts: Parts, answers: dict[str, Any], given: AdaptOptions, warnings: list[str]) -> AskedParts:
    """Prompts with what counts as right: the user's answers, or the source's."""
    found: list[OwnTask] = []
    for part in (parts.select, parts.test):
        if parts.labelled(part):
            found.append(part)
            continue
        judged, lost = judged_by(part, answers[part.name], given.asking.match)
        if lost:
            warnings.append(
                f"{lost:,} of {len(part.examples):,} prompts of {part.name} cannot be judged: the tuned source says "
                f"nothing to them{'' if given.asking.match is None else ' that ' + named('match') + ' finds'}."
            )
        if not judged.examples:
            raise UsageError(f"The tuned source answers none of the prompts of {part.name}. Look at its chat template.")
        found.append(judged)
    usual = min(USUAL_ANSWER, max(1, _ROOM * answers["longest"]))
    return AskedParts(found[0], found[1], parts.texts, given.asking, usual)


def _texts(given: AdaptOptions, parts: Parts, loading: Loading, warnings: list[str]) -> list[str]:
    """The target's own texts, where the user gave none."""
    if parts.texts:
        return []
    nothing = AskedParts(replace(parts.fit, examples=()), replace(parts.fit, examples=()), (), given.asking)
    with loaded(given.onto, loading, nothing, warnings) as model:
        return own_texts(model)


def _reference(measured: RungMeasures, target: RungMeasures) -> dict[str, Any]:
    return {
        "select": figure(measured.select),
        "test": figure(measured.test),
        "retention": retention(measured, target).record(),
    }


def _put(folder: Path, chosen: Path, record: dict[str, Any], plan: dict[str, Any], out: Path) -> None:
    """Move the chosen rung's files to where DIR has them, say in the card how it came about, and write adapt.json."""
    work = folder / WORK
    if chosen.is_dir():
        for entry in sorted(chosen.iterdir()):
            entry.replace(folder / entry.name)
    if (work / DIFF).is_dir():
        (work / DIFF).replace(folder / DIFF)
    text = (json.dumps({**record, "plan": plan}, indent=1, ensure_ascii=False) + "\n").encode()
    files = {ADAPTED: content_digest(io.BytesIO(text))}
    for stored in sorted((folder / DIFF).rglob("*")):
        if stored.is_file():
            with opened(stored, folder) as file:
                files[stored.relative_to(folder).as_posix()] = content_digest(file)
    _tell_manifest(folder, {**record, "inputs": plan["inputs"]}, files, own_text(out / CARD))
    write_whole(folder / ADAPTED, text)


def _tell_manifest(folder: Path, record: dict[str, Any], files: dict[str, str], own: str) -> None:
    """The manifest of the rung, and its card, say what chose it; the card keeps the user's section ``own``."""
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        card = render_transfer_card(manifest := {**manifest, "adapted": record})
        manifest["files"] = {**manifest["files"], **files, CARD: card_digest(card)}
        with whole(folder / MANIFEST) as file:
            file.writelines(render_manifest(manifest))
    else:
        told = {**read_json(read_bytes(folder / TUNING, folder, MOST_RECORD_BYTES)), "adapted": record}
        card = render_tuning_card(told)
        told["files"] = {**files, CARD: card_digest(card)}
        write_whole(folder / TUNING, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / CARD, with_own(card, own))
