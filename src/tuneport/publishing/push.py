"""Publish an output after checking that it is complete: `publish`, and `--push-to ORG/NAME` of the commands.

An output is checked against the digests in its manifest, a fine-tuning against the files of its record. Files that
belong to neither stop the push, because the user probably did not want them to be public.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuneport.engine.choices import Running
from tuneport.engine.run_options import PublishOptions
from tuneport.errors import OutputError, PublishError
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_bytes
from tuneport.files.printable import listed_names
from tuneport.output.adapted_card import parents_of
from tuneport.public_functions import takes
from tuneport.publishing.commit import Published, look_at, upload
from tuneport.publishing.published_card import published_card, scores_of


@takes(PublishOptions)
def publish(given: PublishOptions) -> Published:
    """Push a finished folder (an output, a diff vector, a fine-tuning) to a repository on the Hub.

    The repository is made if there is none; an earlier push of tuneport is replaced, anything else only with
    ``overwrite``. Raises `TuneportError` for an incomplete folder, a token without write access, or no network.

        tuneport.publish("v2-tuned", "me/my-model-v2")
    """
    place = Path(os.path.expanduser(given.folder))
    scores = None if given.scores is None else scores_of(given.scores, place.name, given.repo)
    names, message, description = _whole(place, given.running)
    to = look_at(given.repo, given.overwrite)
    with published_card(place, to, scores, given.license) as instead:
        return upload(place, sorted({*names, *instead}), to, message, description, instead)


def _whole(folder: Path, running: Running) -> tuple[list[str], str, str]:
    """Names of the files to push, and what the commit says, of a folder that was checked to be finished and undamaged."""
    from tuneport.output.signature import SIGNATURE
    from tuneport.output.write import MANIFEST

    if (folder / MANIFEST).is_file():
        from tuneport.engine.manifest import read_manifest
        from tuneport.verification import verify

        # The published manifest names its repository, so a signature of this one would not fit it.
        names = [name for name in _files(folder) if name != SIGNATURE]
        verify(
            folder, max_memory=running.max_memory, workers=running.workers
        )  # no stray files, and every byte as the manifest says
        manifest = read_manifest(folder)
        if parents := parents_of(manifest):
            return names, _adapted(manifest), _listed(parents)
        return names, f"tuneport {manifest['operation']}: {manifest['formula']}", _listed(manifest["inputs"])
    if (folder / "tune.json").is_file():
        return _whole_tuning(folder)
    raise OutputError(
        f"{folder} is not a finished output folder of tuneport: it contains neither {MANIFEST} nor tune.json."
    )


def _whole_tuning(folder: Path) -> tuple[list[str], str, str]:
    from tuneport.checkpoint.local_folder import open_folder
    from tuneport.checkpoint.small_files import LICENCE_PREFIXES
    from tuneport.files.opening import MOST_RECORD_BYTES
    from tuneport.output.model_card import card_digest
    from tuneport.output.replacing import CARD, weights_or_sidecar

    try:
        record = read_json(read_bytes(folder / "tune.json", folder, MOST_RECORD_BYTES))
        plan, steps = record["plan"], record["outcome"]["steps"]
        message = f"tuneport tune: {plan['recipe']['recipe']} of {plan['model']['name']}, {steps} steps"
        told = _listed([{"role": "model", "revision": None, **plan["model"]}])
        if parents := parents_of(record):
            told, message = _listed(parents), _adapted(record)
        listed = dict(record.get("files") or {})
        written = listed.get(CARD)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"{folder / 'tune.json'} is damaged ({error!r}); run `tune` again, or restore it.") from None
    names = _files(folder)
    open_folder(folder, "output")  # every header, and every shard at its full size
    if written is not None and (
        not (folder / CARD).is_file() or card_digest(read_bytes(folder / CARD, folder)) != written
    ):
        raise PublishError(
            f"{folder / CARD} has changed since `tune` wrote it. Restore it, write your own text between its two "
            f"marks, and push again."
        )
    strays = [
        name
        for name in names
        if not (name in listed or weights_or_sidecar(name) or name == CARD or name.upper().startswith(LICENCE_PREFIXES))
        and not name.startswith("tensorboard/")
    ]
    if strays:
        raise PublishError(f"{folder} contains files that `tune` did not write; move them away:{listed_names(strays)}")
    return names, message, told


def _adapted(record: Mapping[str, Any]) -> str:
    """The summary of the commit of what `adapt` wrote."""
    return f"tuneport adapt: {record['adapted']['chosen']}"


def _listed(parents: Iterable[Mapping[str, Any]]) -> str:
    """Names of models, one a line."""
    return "\n".join(f"{entry['role']}: {entry['name']} {entry['revision'] or ''}" for entry in parents)


def _files(folder: Path) -> list[str]:
    """Names of all that is below a folder. Raises `PublishError` for anything but a plain file of its own there."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in found]
    odd = [name for name, path in zip(names, found, strict=True) if path.is_symlink() or not path.is_file()]
    if odd:
        raise PublishError(
            f"{folder} contains links or special files, which are not published:{listed_names(odd)}\nReplace each "
            f"link by a copy of its file if that may be public, and move the rest away."
        )
    return names
