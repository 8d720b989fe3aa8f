"""Publish what tuneport wrote, once it is proved whole: `--push-to ORG/NAME` of the verbs that write models.

In come a finished folder and a repository's name, out comes the commit on the Hub. The folder is checked first: an
output against the digests in its manifest, a fine-tuning for the files that its record belongs to. Files that are of
neither stop the push; nobody meant to publish them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneport.errors import OutputError, PublishError, UsageError, listing
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_bytes

if TYPE_CHECKING:
    from tuneport.engine.options import Running
    from tuneport.publishing.commit import Destination, Published

Verb = Callable[[argparse.Namespace], dict[str, Any]]


def publish(
    folder: str | os.PathLike[str], repo: str, *, overwrite: bool = False, running: Running | None = None
) -> Published:
    """Push a finished folder (an output, a diff vector, a fine-tuning) to the repository ``repo`` on the Hub.

    The repository is made if there is none; an earlier push of tuneport is replaced, anything else only with
    ``overwrite``. Raises `TuneportError`: a folder that is not whole, a token that cannot write, no network.

        tuneport.publish("v2-tuned", "me/my-model-v2")
    """
    from tuneport.publishing.commit import check_name, look_at, upload

    check_name(repo)
    place = Path(os.path.expanduser(folder))
    names, message, description = _whole(place, running)
    return upload(place, names, look_at(repo, overwrite), message, description)


def add_arguments(parser: Any) -> None:
    """The flags of a verb whose output can be published."""
    group = parser.add_argument_group("publishing")
    group.add_argument(
        "--push-to",
        metavar="ORG/NAME",
        help="when the output is whole, push it to this repository on the Hub (public, unless it is there already and "
        "private, or your organisation's default is another); needs a token that may write",
    )
    group.add_argument(
        "--push-overwrite", action="store_true", help="replace files there that tuneport did not push (default: stop)"
    )


def pushing(verb: Verb) -> Verb:
    """The verb, and after it the push that `--push-to` asks for; the place is looked at before the work begins."""

    def run(options: argparse.Namespace) -> dict[str, Any]:
        if options.push_to is None:
            if options.push_overwrite:
                raise UsageError("--push-overwrite goes with --push-to ORG/NAME.")
            return verb(options)
        if os.environ.get("RANK", "0") != "0":
            return verb(options)  # of several processes the first one pushes, as it alone writes
        from tuneport.publishing.commit import look_at

        place = look_at(options.push_to, options.push_overwrite)
        result = verb(options)
        if options.dry_run:
            return _rehearsed(result, place)
        try:
            published = publish(
                options.out, options.push_to, overwrite=options.push_overwrite, running=_running(options)
            )
        except PublishError as error:
            raise PublishError(f"{error}\n{options.out} is finished; the same command publishes it.") from None
        told = {name: value for name, value in asdict(published).items() if name != "warnings"}
        return {
            **result,
            "published": told,
            "warnings": [*result.get("warnings", []), *published.warnings],
            "words": f"{result['words']}\n{published}",
        }

    return run


def _running(options: argparse.Namespace) -> Running:
    from tuneport.engine.options import Running

    return Running(max_memory=getattr(options, "max_memory", None), workers=getattr(options, "workers", None))


def _rehearsed(result: dict[str, Any], place: Destination) -> dict[str, Any]:
    """What a dry run adds: where to, and what is there; nothing is pushed."""
    push = {
        "repo": place.repo,
        "url": place.url,
        "holds": place.holds,
        "replaces": place.commit if place.replaced else None,
    }
    words = f"{result.get('words', '')}\nwould be pushed to {place.url} ({place.holds})"
    return {**result, "push": push, "words": words}


def _whole(folder: Path, running: Running | None) -> tuple[list[str], str, str]:
    """Names of the files to push, and what the commit says, of a folder that is proved to be finished and unharmed."""
    from tuneport.output.write import MANIFEST

    if (folder / MANIFEST).is_file():
        from tuneport.engine.manifest import read_manifest
        from tuneport.verification import verify

        names = _files(folder)
        verify(folder, running=running)  # no stray files, and every byte as the manifest says
        manifest = read_manifest(folder)
        inputs = "\n".join(
            f"{entry['role']}: {entry['name']} {entry['revision'] or ''}" for entry in manifest["inputs"]
        )
        return names, f"tuneport {manifest['operation']}: {manifest['formula']}", inputs
    if (folder / "tune.json").is_file():
        return _whole_tuning(folder)
    raise OutputError(f"{folder} is no finished folder of tuneport: it holds neither {MANIFEST} nor tune.json.")


def _whole_tuning(folder: Path) -> tuple[list[str], str, str]:
    from tuneport.checkpoint.local_folder import open_folder
    from tuneport.checkpoint.small_files import LICENCE_PREFIXES
    from tuneport.output.replacing import CARD, MOST_MANIFEST_BYTES, weights_or_sidecar

    try:
        record = read_json(read_bytes(folder / "tune.json", folder, MOST_MANIFEST_BYTES))
        plan, steps = record["plan"], record["outcome"]["steps"]
        message = f"tuneport tune: {plan['recipe']['recipe']} of {plan['model']['name']}, {steps} steps"
        revision = plan["model"].get("revision")
        written = (record.get("files") or {}).get(CARD)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"{folder / 'tune.json'} is damaged ({error!r}); tune again, or restore it.") from None
    names = _files(folder)
    open_folder(folder, "output")  # every header, and every shard at its full size
    if written is not None and (not (folder / CARD).is_file() or _digest(folder / CARD) != written):
        raise PublishError(
            f"{folder / CARD} is not as tune wrote it. Restore it and push; then edit the card on the Hub, where later "
            "pushes will not replace it unasked."
        )
    strays = [
        name
        for name in names
        if not (weights_or_sidecar(name) or name == CARD or name.upper().startswith(LICENCE_PREFIXES))
        and not name.startswith("tensorboard/")
    ]
    if strays:
        raise PublishError(f"{folder} holds files that are not of the fine-tuning; move them away:{listing(strays)}")
    return names, message, f"model: {plan['model']['name']} {revision or ''}"


def _digest(path: Path) -> str:
    from blake3 import blake3

    return blake3(read_bytes(path, path.parent)).hexdigest()


def _files(folder: Path) -> list[str]:
    """Names of all that is below a folder. Raises `PublishError` for what is no plain file of its own there."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in found]
    odd = [name for name, path in zip(names, found, strict=True) if path.is_symlink() or not path.is_file()]
    if odd:
        raise PublishError(
            f"{folder} holds links, or what is no plain file; nothing from elsewhere is published:{listing(odd)}\n"
            "Replace a link by a copy of the file it leads to, if that is meant to be public, and move the rest away."
        )
    return names
