"""The card as it is pushed: with the repository's name in its code, and with scores, which are recorded too.

The folder itself does not change. The user's own section of the card is pushed with it; if the folder has none, the
Hub's section is kept.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneport.errors import Fault, OutputError, PublishError, UsageError, named
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, read_bytes
from tuneport.files.printable import listed_names
from tuneport.files.writing import create
from tuneport.output.model_card import card_digest, own_text, with_own
from tuneport.output.replacing import CARD, TUNING
from tuneport.output.write import MANIFEST
from tuneport.publishing.commit import Destination
from tuneport.results.evaluation_reading import read_evaluation


def scores_of(file: str | os.PathLike[str], folder: str, repo: str) -> list[dict[str, Any]]:
    """The scores in a file of `tuneport evaluate` of one model, task by task.

    Of several models the one that is called like the folder or the repository. Raises `ReportError`, `UsageError`.
    """
    found = read_evaluation(file)
    wanted = {folder, repo, repo.rpartition("/")[2]}
    named = [model for model in found.models if model in wanted or Path(model).name in wanted]
    if len(found.models) == 1:
        named = list(found.models)
    if len(named) != 1:
        problem = f"holds scores of {len(found.models)} models, but none is called {folder} or {repo}"
        remedy = f"Give a file with the scores of this model alone; it has:{listed_names(found.models, 8)}"
        raise UsageError(Fault("scores", os.fspath(file), problem, remedy))
    return [
        {
            "task": task,
            "metric": each.score.metric,
            "value": each.score.value,
            "interval": None if each.interval is None else list(each.interval),
            "n": each.score.n,
        }
        for task in found.tasks
        if (each := found.scores.get((named[0], task))) is not None
    ]


@contextmanager
def published_card(
    folder: Path, to: Destination, scores: Sequence[Mapping[str, Any]] | None, licence: str | None
) -> Iterator[dict[str, Path]]:
    """Card and record as they are pushed, by name, in files that last as long. Raises `PublishError`, `OutputError`."""
    here = own_text(folder / CARD)
    if here.strip() and to.own_text.strip() and here != to.own_text:
        raise PublishError(
            f"{CARD} has a section of your own both in {folder} and at {to.url}, and they differ. Make them equal, or "
            f"give {named('push_overwrite')} to push the folder's (the history keeps the other)."
        )
    with tempfile.TemporaryDirectory(prefix="tuneport-push-") as made:
        place = Path(made)
        name, card = _write_record(
            folder, place, {"repository": to.repo, "scores": list(scores or ()), "license": licence}
        )
        (place / CARD).write_bytes(with_own(card, here if here.strip() else to.own_text))
        yield {name: place / name, CARD: place / CARD}


def _write_record(folder: Path, place: Path, more: Mapping[str, Any]) -> tuple[str, bytes]:
    """The record with what its card says more, written to ``place``; its name, and the card."""
    if (folder / MANIFEST).is_file():
        from tuneport.engine.manifest import read_manifest, render_manifest
        from tuneport.engine.transfer_card import render_card

        record = read_manifest(folder)
        record["card"] = {**(record.get("card") or {}), **more}
        card = render_card(record)
        record["files"] = {**record["files"], CARD: card_digest(card)}
        with create(place / MANIFEST) as file:
            file.writelines(render_manifest(record))
        return MANIFEST, card
    from tuneport.publishing.tuning_card import render_card as render_tuning_card

    record = read_json(read_bytes(folder / TUNING, folder, MOST_RECORD_BYTES))
    try:
        record["card"] = {**(record.get("card") or {}), **more}
        card = render_tuning_card(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OutputError(f"{folder / TUNING} is damaged ({error!r}); run `tune` again, or restore it.") from None
    record["files"] = {**(record.get("files") or {}), CARD: card_digest(card)}
    (place / TUNING).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return TUNING, card
