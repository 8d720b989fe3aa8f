"""The prompts in three parts: those that rungs are fitted on, those that decide (select), those that are reported (test).

No prompt is in two parts, and no nearly equal one. What the source was fine-tuned on, by its digests, is fitted on at
most. Which part a prompt is in depends on its text, not on its place in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneport.adaptation.adapt_options import FEWEST_FITTED, HELD_OUT, AdaptOptions
from tuneport.errors import DataError, Fault, UsageError, listing, named
from tuneport.examples.digests import HASHES, example_digest, read_digests
from tuneport.examples.leakage import example_digests
from tuneport.examples.near_duplicates import grouped
from tuneport.examples.questions import Example, OwnTask, read_tasks

FEWEST_SELECTED = 16  # fewer could not decide even if all of them agreed


@dataclass(frozen=True)
class Parts:
    """``fit`` may be empty: then nothing but `add` can be tried. ``few`` says why, and how many prompts it would need.

    ``texts`` of the user's are measured, ``near`` are those to stay near the target on.
    """

    fit: OwnTask
    select: OwnTask
    test: OwnTask
    texts: tuple[OwnTask, ...]
    near: tuple[Example, ...] = ()
    few: str | None = None
    notes: tuple[str, ...] = ()

    def labelled(self, part: OwnTask) -> bool:
        """Whether all prompts of a part have an answer of the user's."""
        return part.kind == "match"


def read_parts(given: AdaptOptions, source: Path | None) -> Parts:
    """Read and part the files. ``source`` is the tuned model's folder, where it has one. Raises `TuneportError`."""
    which = "examples" if given.examples else "prompts"
    notes: list[str] = []
    pool = _read(getattr(given, which), which, given, notes)
    if which == "examples" and pool.kind != "match":
        without = "these have prompts without an answer"
        raise UsageError(Fault("examples", pool.file, without, f"Give them as {named('prompts')}, or add the answers"))
    select = _read(given.select, "select", given, notes)
    test = _read(given.test, "test", given, notes)
    texts, near = _texts(given, notes)
    trained = _trained_on(source)
    select, test = _apart(select, test, trained, notes)
    fit, few = pool, None
    if not given.select or not given.test:
        fit, select, test, few = _held_out(pool, select, test, trained)
    fit = _without_near(fit, (*select.examples, *test.examples), notes)
    most = given.fitting.steps * given.fitting.batch_size
    if which == "prompts" and len(fit.examples) > most:
        notes.append(
            f"{named('prompts')}: {most:,} of {len(fit.examples):,} prompts are used; {given.fitting.steps} steps of "
            f"{given.fitting.batch_size} see no more."
        )
        fit = replace(fit, examples=fit.examples[:most])
    if few is None and len(select.examples) < FEWEST_SELECTED:
        few = (
            f"{named('select')} has {len(select.examples)} prompts; at least {FEWEST_SELECTED} are needed to decide "
            f"anything."
        )
    if few is None and not fit.examples:
        few = "No prompt is left to fit on: all are too similar to those of select and test. Give other prompts."
    return Parts(fit, select, test, texts, near, few, tuple(dict.fromkeys(notes)))


def _read(given: Sequence[Any], option: str, options: AdaptOptions, notes: list[str]) -> OwnTask:
    """All examples of some files as one task; without an answer in any of them all are only asked."""
    if not given:
        return OwnTask(option, "prompt", ())
    tasks = read_tasks(given, asked=True, columns=options.columns, option=option)
    if any(task.kind == "choice" for task in tasks):
        told = "has `choices`, but adapt compares written answers"
        raise UsageError(Fault(option, tasks[0].file, told, "Leave `choices` out"))
    notes += [warning for task in tasks for warning in (*task.warnings, *task.notes)]
    several = len(tasks) > 1
    examples = tuple(
        replace(example, id=f"{task.name}/{example.id}" if several else example.id)
        for task in tasks
        for example in task.examples
    )
    kinds = {task.kind for task in tasks}
    answered = kinds == {"match"}
    if len(kinds) > 1:
        without = ", ".join(task.name for task in tasks if task.kind == "prompt")
        notes.append(f"{named(option)}: answers are not used, because {without} has none.")
    if not answered:
        examples = tuple(replace(example, answer="") for example in examples)
    return replace(tasks[0], name=option, kind="match" if answered else "prompt", examples=examples)


def _texts(given: AdaptOptions, notes: list[str]) -> tuple[tuple[OwnTask, ...], tuple[Example, ...]]:
    """Half of the user's texts to measure, the other half to stay near the target on, where a rung trains."""
    if not given.retain:
        return (), ()
    tasks = read_tasks(given.retain, loss=True, columns=given.columns, option="retain")
    if asks := [task.name for task in tasks if task.examples[0].way != "text"]:
        raise UsageError(Fault("retain", ", ".join(asks), "must be texts", "Give rows with a `text`"))
    examples = [replace(example, id=f"{task.name}/{example.id}") for task in tasks for example in task.examples]
    notes += [warning for task in tasks for warning in (*task.warnings, *task.notes)]
    halves: tuple[list[Example], list[Example]] = ([], [])
    places = grouped([example.answer for example in examples])
    for place in sorted(set(places), key=lambda place: example_digest(examples[place].answer)):
        shorter = min(halves, key=len)
        shorter += [example for example, group in zip(examples, places, strict=True) if group == place]
    if not halves[1]:
        notes.append(f"{named('retain')}: one text (or one and its near copies) is measured and not trained on.")
    return (replace(tasks[0], name="retain", examples=tuple(halves[0])),), tuple(halves[1])


def _trained_on(source: Path | None) -> frozenset[str]:
    """Digests of what the source was fine-tuned on, where `tune` left them."""
    file = None if source is None else source / HASHES
    if file is None or not file.is_file():
        return frozenset()
    return read_digests(file) | read_digests(file, selection=True)


def _held_out(
    pool: OwnTask, select: OwnTask, test: OwnTask, trained: frozenset[str]
) -> tuple[OwnTask, OwnTask, OwnTask, str | None]:
    """Take what is not given as a file from the pool: test first, then select; the rest is fitted on.

    Of too few prompts to decide nothing is fitted on: all of them measure plain addition. Raises `DataError`.
    """
    wanted = {name: not part.examples for name, part in (("test", test), ("select", select))}
    parts = sum(wanted.values())
    usable = len(pool.examples)
    size = HELD_OUT if usable >= parts * HELD_OUT + FEWEST_FITTED else usable // (2 + parts)
    few = None
    if size < FEWEST_SELECTED:
        few = _few(usable, pool.name, [name for name in ("select", "test") if wanted[name]])
        size = max(1, usable // parts)
    groups = _groups(pool.examples)
    held: dict[str, list[Example]] = {"test": [], "select": []}
    rest: list[Example] = []
    for group in sorted(groups, key=lambda own: min(example_digest(example.asked) for example in own)):
        seen = any(example_digests(example) & trained for example in group)
        name = next((n for n in held if wanted[n] and len(held[n]) + len(group) <= size), None)
        (rest if seen or name is None else held[name]).extend(group)
    order = {example.id: place for place, example in enumerate(pool.examples)}
    ordered = {name: _in_order(part, order) for name, part in held.items()}
    if missing := [name for name, part in ordered.items() if wanted[name] and not part]:
        files = " and ".join(named(name, "FILE") for name in missing)
        raise DataError(
            f"{named(pool.name)}: none of its prompts can be held out, because there is one only, they are all (nearly) the "
            f"same, or the tuned model was trained on them. Give other prompts, or {files}."
        )
    if wanted["test"]:
        test = replace(pool, name="test", examples=ordered["test"])
    if wanted["select"]:
        select = replace(pool, name="select", examples=ordered["select"])
    fit = () if few is not None else _in_order(rest, order)
    return replace(pool, examples=fit), select, test, few


def _in_order(examples: Iterable[Example], order: dict[str, int]) -> tuple[Example, ...]:
    return tuple(sorted(examples, key=lambda example: order[example.id]))


def _groups(examples: Sequence[Example]) -> list[list[Example]]:
    """Equal and nearly equal prompts together."""
    found: dict[int, list[Example]] = {}
    for example, place in zip(examples, grouped([example.asked for example in examples]), strict=True):
        found.setdefault(place, []).append(example)
    return list(found.values())


def _apart(select: OwnTask, test: OwnTask, trained: frozenset[str], notes: list[str]) -> tuple[OwnTask, OwnTask]:
    """Named files without what the source was trained on, and without what both have."""
    kept = []
    for part in (select, test):
        own = tuple(example for example in part.examples if not example_digests(example) & trained)
        if lost := len(part.examples) - len(own):
            notes.append(
                f"{named(part.name)}: {lost:,} of {len(part.examples):,} prompts are left out, because the tuned model "
                f"was trained on them."
            )
        if part.examples and not own:
            raise DataError(
                f"{part.file}: the tuned model was trained on all of these prompts, so they measure memory. Give "
                f"{named(part.name)} other prompts."
            )
        kept.append(replace(part, examples=own))
    apart = _without_near(kept[0], kept[1].examples, notes)
    if select.examples and not apart.examples:
        raise DataError(
            f"{select.file}: all of its prompts are (nearly) the same as those of {named('test')}. Give {named('select')} other "
            f"prompts."
        )
    return apart, kept[1]


def _without_near(part: OwnTask, others: Sequence[Example], notes: list[str]) -> OwnTask:
    """A part without prompts that are equal or nearly equal to some of ``others``."""
    if not part.examples or not others:
        return part
    places = grouped([example.asked for example in (*others, *part.examples)])
    taken = set(places[: len(others)])
    near = [example for example, place in zip(part.examples, places[len(others) :], strict=True) if place in taken]
    if not near:
        return part
    dropped = {example.id for example in near}
    notes.append(
        f"{named(part.name)}: {len(near):,} of {len(part.examples):,} prompts are left out, because they are (nearly) "
        f"the same as prompts that measure:{listing([part.place(example) for example in near], 3)}"
    )
    return replace(part, examples=tuple(example for example in part.examples if example.id not in dropped))


def _few(have: int, option: str, absent: Sequence[str]) -> str:
    """How many prompts it takes where those of the ``absent`` parts are held out."""
    fewest, enough = FEWEST_SELECTED * (2 + len(absent)), HELD_OUT * len(absent) + FEWEST_FITTED
    return (
        f"{named(option)} has {have} prompts: too few to fit on some and decide on others. At least {fewest} are needed "
        f"({enough:,} for {HELD_OUT} in each part), or {' and '.join(named(name, 'FILE') for name in absent)}."
    )
