"""`--push-to` of the commands that write models: checks the repository before the work, pushes after it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneport.commands.arguments import given_for
from tuneport.commands.dry_run import is_dry
from tuneport.commands.printing import Told
from tuneport.engine.run_options import PublishOptions, PushOptions
from tuneport.errors import ABSENT, Fault, PublishError, UsageError, named

if TYPE_CHECKING:
    from tuneport.publishing.commit import Destination

Command = Callable[[argparse.Namespace], Told]


def pushing(command: Command) -> Command:
    """The command, then the push of `--push-to`."""

    def run(options: argparse.Namespace) -> Told:
        asked = PushOptions(**given_for(PushOptions, options))
        if asked.push_to is None:
            alone = [name for name in ("push_overwrite", "scores", "license") if getattr(asked, name)]
            if alone:
                raise UsageError([Fault(name, ABSENT, f"needs {named('push_to')}") for name in alone])
            return command(options)
        if os.environ.get("RANK", "0") != "0":
            return command(options)  # of several processes the first one pushes, as it alone writes
        from tuneport.publishing.commit import look_at
        from tuneport.publishing.published_card import scores_of
        from tuneport.publishing.push import publish

        place = look_at(asked.push_to, asked.push_overwrite)
        if asked.scores is not None:
            scores_of(
                asked.scores, Path(options.out).name, asked.push_to
            )  # problems with them are reported before the work
        result = command(options)
        if is_dry(options):
            return _rehearsed(result, place)
        resources = {
            name: value
            for name, value in given_for(PublishOptions, options).items()
            if name in ("max_memory", "workers")
        }
        try:
            published = publish(
                options.out,
                asked.push_to,
                overwrite=asked.push_overwrite,
                scores=asked.scores,
                license=asked.license,
                **resources,
            )
        except PublishError as error:
            raise PublishError(
                f"{error}\n{options.out} is finished; run the same command again to publish it."
            ) from None
        told = {name: value for name, value in asdict(published).items() if name != "warnings"}
        warnings = [*result.content.get("warnings", []), *published.warnings]
        return result.adding(str(published), published=told, warnings=warnings)

    return run


def _rehearsed(result: Told, place: Destination) -> Told:
    """What a dry run adds: where to, and what is there; nothing is pushed."""
    push: dict[str, Any] = {
        "repo": place.repo,
        "url": place.url,
        "holds": place.holds,
        "replaces": place.commit if place.replaced else None,
    }
    return result.adding(f"would be pushed to {place.url} ({place.holds})", push=push)
