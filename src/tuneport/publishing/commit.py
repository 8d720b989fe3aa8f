"""Push a finished folder to the Hub in one commit.

The commit contains exactly the named files. The repository is checked first: nothing that tuneport did not push is
replaced without the user's option, and an interrupted push leaves the repository unchanged. The Hub client honours
HF_TOKEN, HF_ENDPOINT and offline mode.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.checkpoint.hub import status_of, transport_error
from tuneport.errors import PublishError, named
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, read_bytes
from tuneport.files.printable import listed_names
from tuneport.output.model_card import card_digest, own_text_in
from tuneport.output.replacing import CARD, weights_or_sidecar
from tuneport.shown import Shown
from tuneport.terminal import is_watched

# The records by which a folder that tuneport wrote is known, and how their formats begin.
RECORDS = {"tuneport.json": "tuneport.manifest/", "tune.json": "tuneport.tune/"}
# What the Hub puts into every repository; no push touches it.
_HUBS_OWN = ".gitattributes"


@dataclass(frozen=True)
class Destination:
    """A repository as it is before a push; ``commit`` is None where there is none yet.

    ``holds`` is a text that says what is there, ``replaced`` whether a push replaces it. ``removable`` are files that
    go where the new folder has none of that name, ``others`` those that stay beside it.
    """

    repo: str
    url: str
    commit: str | None = None
    holds: str = "a new repository"
    replaced: bool = False
    removable: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    own_text: str = ""  # what the user wrote into the card's own section there


@dataclass(frozen=True, repr=False)
class Published(Shown):
    """What a push left on the Hub. ``unchanged``: the repository held these very files before."""

    repo: str
    url: str
    commit: str
    commit_url: str
    files: tuple[str, ...]
    bytes: int
    replaced: str | None = None
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    unchanged: bool = False
    warnings: tuple[str, ...] = ()

    def heading(self) -> str:
        """One line."""
        return str(self)

    def __str__(self) -> str:
        """One line for a person."""
        done = (
            "has these files already" if self.unchanged else f"published, {len(self.files)} files, {self.bytes:,} bytes"
        )
        more = f"; {len(self.removed)} older files removed" if self.removed else ""
        more += f"; {len(self.kept)} other files left as they were" if self.kept else ""
        more += f"; replaced commit {self.replaced[:12]}" if self.replaced and not self.unchanged else ""
        return f"{self.url}: {done}, commit {self.commit[:12]}{more}"


def look_at(repo: str, overwrite: bool = False) -> Destination:
    """Check the repository to push to; nothing is written. Raises `PublishError` if the push cannot work. Called before
    the work as well as after it, so that a token without write access is found before hours of work.
    ``overwrite`` allows to replace what tuneport did not push.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise PublishError(
            f"Cannot push to {repo}: offline mode is on. Unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE), or leave "
            f"out the push."
        )
    with _told(repo):
        if get_token() is None:
            raise PublishError(
                f"Cannot push to {repo}: there is no token. Create one with write access at "
                f"{constants.ENDPOINT}/settings/tokens, then log in (hf auth login) or set HF_TOKEN."
            )
        _check_rights(repo, HfApi().whoami())
        url = f"{constants.ENDPOINT}/{repo}"
        try:
            info = HfApi().model_info(repo, files_metadata=True)
        except RepositoryNotFoundError:
            return Destination(repo, url)
        names = sorted(entry.rfilename for entry in info.siblings or () if entry.rfilename != _HUBS_OWN)
        if not names:
            return Destination(repo, url, str(info.sha), "a repository that is empty")
        return _look_inside(repo, url, str(info.sha), names, overwrite)


def upload(
    folder: Path,
    names: Sequence[str],
    to: Destination,
    message: str,
    description: str = "",
    instead: Mapping[str, Path] | None = None,
) -> Published:
    """Push the files ``names`` of ``folder`` in one commit; nothing is replaced that was not there when ``to`` was
    checked.

    ``instead`` are files that stand for those of the folder: the card with the repository's name, and its record.

    Raises `PublishError`. Files that an interrupted push already sent are not sent again.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not is_watched():
        disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it remarks upon commits that would be empty
    api, stays = HfApi(), {*names, _HUBS_OWN}
    places = {name: (instead or {}).get(name, folder / name) for name in names}
    removed = tuple(name for name in to.removable if name not in stays)
    with _told(to.repo), warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        parent = to.commit
        if parent is None:
            api.create_repo(to.repo, exist_ok=True)
            info = api.model_info(to.repo)
            if any(entry.rfilename != _HUBS_OWN for entry in info.siblings or ()):
                raise PublishError(f"{to.url} was changed by someone else just now. Check it, then run again.")
            parent = str(info.sha) if info.sha else None
        # One commit, where `upload_folder` makes several of a large folder: the main branch is never half a model.
        commit = api.create_commit(
            to.repo,
            [
                *(CommitOperationDelete(name) for name in removed),
                *(CommitOperationAdd(name, place) for name, place in places.items()),
            ],
            commit_message=message,
            commit_description=description,
            parent_commit=parent,
        )
    return Published(
        to.repo,
        to.url,
        commit.oid,
        str(commit.commit_url),
        tuple(sorted(names)),
        sum(place.stat().st_size for place in places.values()),
        to.commit if to.replaced else None,
        removed,
        tuple(name for name in to.others if name not in stays),
        commit.oid == to.commit,
        tuple(str(remark.message) for remark in remarks if issubclass(remark.category, UserWarning)),
    )


def _check_rights(repo: str, me: Any) -> None:
    """Raise where the token's own account says that it cannot push there; what it leaves open the push will tell."""
    from huggingface_hub import constants

    token = (me.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise PublishError(
            f"Cannot push to {repo}: the token has read access only. Create one with write access at "
            f"{constants.ENDPOINT}/settings/tokens, and set HF_TOKEN to it."
        )
    (owner, name), user = repo.split("/"), str(me.get("name", ""))
    if not user or not isinstance(me.get("orgs"), list):
        return
    owners = [user, *(str(org.get("name")) for org in me["orgs"])]
    if owner.lower() not in {known.lower() for known in owners}:
        raise PublishError(
            f"Cannot push to {repo}: the token belongs to {user}, who is not {owner} or a member of it. Push to one "
            f"of: {', '.join(f'{known}/{name}' for known in owners[:10])}."
        )


def _look_inside(repo: str, url: str, commit: str, names: list[str], overwrite: bool) -> Destination:
    """What a repository with files in it holds: an earlier push of tuneport, or files that must not be replaced without
    consent.
    """
    if overwrite:
        holds = f"a repository whose {len(names)} files are replaced ({named('push_overwrite')})"
        return Destination(repo, url, commit, holds, True, tuple(names))
    found = next((name for name in RECORDS if name in names), None)
    record = None if found is None else _record(repo, commit, found)
    if found is None or record is None:
        raise PublishError(
            f"{url} contains files that tuneport did not push:{listed_names(names, 8)}\nPush to another name, or give "
            f"{named('push_overwrite')} to replace all of them (its history keeps them)."
        )
    card = (record.get("files") or {}).get(CARD)
    content = _downloaded(repo, commit, CARD) if card is not None and CARD in names else None
    if content is not None and card != card_digest(content):
        raise PublishError(
            f"{CARD} was edited at {url} after tuneport pushed it, and a push would replace it. Move your text "
            f"between the card's two marks, which a push keeps; or push to another name, or give "
            f"{named('push_overwrite')} (its history keeps the text)."
        )
    listed = record.get("files") or {}
    ours = tuple(name for name in names if name in listed or name in RECORDS or weights_or_sidecar(name))
    holds = f"an earlier push of tuneport ({_in_words(record)})"
    return Destination(
        repo,
        url,
        commit,
        holds,
        True,
        ours,
        tuple(name for name in names if name not in ours),
        own_text_in(content or b""),
    )


def _record(repo: str, commit: str, name: str) -> dict[str, Any] | None:
    """The record that an earlier push left, or None where the file is none of tuneport's."""
    from huggingface_hub import hf_hub_download

    try:
        record = read_json(read_bytes(hf_hub_download(repo, name, revision=commit), most=MOST_RECORD_BYTES))
        told = record["format"] if name == "tuneport.json" else record["plan"]["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if str(told).startswith(RECORDS[name]) and isinstance(record.get("files", {}), dict) else None


def _downloaded(repo: str, commit: str, name: str) -> bytes:
    from huggingface_hub import hf_hub_download

    return read_bytes(hf_hub_download(repo, name, revision=commit), most=MOST_RECORD_BYTES)


def _in_words(record: dict[str, Any]) -> str:
    """What a record is of."""
    if "formula" in record:
        return f"{record.get('operation')}: {record['formula']}"
    return f"tune: {((record.get('plan') or {}).get('model') or {}).get('name')}"


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Turn the Hub's answer to a push into a message with the next action."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    where = f"Cannot push to {repo}"
    tokens = f"{constants.ENDPOINT}/settings/tokens"
    try:
        try:
            yield
        except RuntimeError as error:  # how the client wraps what befell one file
            raise (error.__cause__ if isinstance(error.__cause__, Exception) else error) from None
    except PublishError:
        raise
    except (OfflineModeIsEnabled, transport_error()) as error:
        raise PublishError(
            f"{where}: the Hub at {constants.ENDPOINT} cannot be reached ({_first_line(error)}). Try again later; "
            f"uploaded files are not sent again."
        ) from None
    except HfHubHTTPError as error:
        status = status_of(error)
        if status == 401 and not isinstance(error, RepositoryNotFoundError):
            told = (
                f"the Hub does not accept the token. Create one with write access at {tokens}, and set HF_TOKEN to it"
            )
        elif status in (401, 403) or isinstance(error, RepositoryNotFoundError):
            told = (
                f"the token has no write access there ({status}). Set HF_TOKEN to one that has ({tokens}), or push to "
                f"a name of your own"
            )
        elif status in (409, 412):
            told = "someone else changed the repository meanwhile. Check it, then run the same command again"
        elif status == 429:
            told = "the Hub limits requests (429). Run the same command again in a few minutes"
        else:
            told = f"the Hub answered {status} ({_first_line(error)}). Run the same command again later"
        raise PublishError(f"{where}: {told}.") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise PublishError(
            f"{where}: the push stopped ({_first_line(error)}). Run the same command again; uploaded files are not "
            f"sent again."
        ) from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
