"""Check that the files of a written tokenizer agree: every special token that they name is one of its tokens.

Readers add a named token that is missing, with an id that the model may have no row for; and they make a named token
special, whatever it was. Checked before anything is written, and again by `verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tuneport.checkpoint.small_files import TOKENIZER_FILES
from tuneport.errors import named
from tuneport.files.opening import contents
from tuneport.files.printable import quoted
from tuneport.tokenizer.json_sections import first_members, locate_sections, parse_json
from tuneport.tokenizer.special_tokens import TokenizerFiles
from tuneport.tokenizer.tokenizer import check_entries, decoder_entries

Files = Mapping[str, bytes | Path]
_CONFIG, _SPECIAL, _JSON = "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"
NAMES = (*TOKENIZER_FILES, _CONFIG, _SPECIAL)


@dataclass(frozen=True)
class TokenizerFault:
    """A token that ``file`` names at ``place``: not there, not special where it comes from, or with another id."""

    kind: Literal["not there", "plain", "two ids"]
    token: str
    file: str
    place: str

    def in_words(self) -> str:
        """What is wrong, and what to do."""
        if self.kind == "two ids":
            return f"the token {self.token!r} has another id in {self.file} than in {self.place}"
        if self.kind == "plain":
            return (
                f"{self.file} names {self.token!r} in {quoted(self.place)}, which makes it special, but in its own "
                f"model it is a plain token. Choose with {named('config', f'tokenizer.{self.place}=tuned')}."
            )
        return (
            f"{self.file} names {self.token!r} in {quoted(self.place)}, but the output's tokenizer lacks it. Choose "
            f"with {named('config', f'tokenizer.{self.place}=base|tuned|target')}."
        )


def tokenizer_faults(files: Files, plain: Set[str] = frozenset()) -> list[TokenizerFault]:
    """What is wrong with a tokenizer's files, by name; ``plain`` are tokens that must not be special.

    Raises `CheckpointError` for files that cannot be read. Where no file holds the vocabulary as text (tokenizer.model
    alone), tokens that are not listed are taken to be in it.
    """
    named = {name: _object(files, name) for name in (_CONFIG, _SPECIAL)}
    listed = _listed(files, named[_CONFIG])
    faults = [fault for name, holder in named.items() for fault in _named_wrong(name, holder, files, listed, plain)]
    for token, ids in listed.items():
        (first, id), *others = ids.items()
        faults += [TokenizerFault("two ids", token, name, first) for name, other in others if other != id]
    return faults


def tokenizer_in_a_folder(folder: Path, noted: Any) -> list[str]:
    """The faults of a finished output's tokenizer, but for those that are ``noted`` as the target's own."""
    faults = tokenizer_faults({name: folder / name for name in NAMES if (folder / name).is_file()})
    known = noted if isinstance(noted, list) else []
    return [fault.in_words() for fault in faults if asdict(fault) not in known]


def _named_wrong(
    name: str, holder: Mapping[str, Any], files: Files, listed: Mapping[str, Any], plain: Set[str]
) -> Iterator[TokenizerFault]:
    in_vocabulary: Callable[[str], bool] | None = None
    for place, token in TokenizerFiles(holder, None, name).names():
        if token in plain:
            yield TokenizerFault("plain", token, name, place)
        if token not in listed:
            in_vocabulary = in_vocabulary or _vocabulary(files)
            if not in_vocabulary(token):
                yield TokenizerFault("not there", token, name, place)


def _listed(files: Files, config: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Added tokens, each with its id by the name of the file that lists it."""
    listed: dict[str, dict[str, int]] = {}
    data = _read(files, _JSON)
    members = {} if data is None else first_members(data, _JSON, "added_tokens")
    entries = check_entries(members.get("added_tokens") or [], f"{_JSON}: added_tokens")
    for name, found in ((_JSON, entries), (_CONFIG, decoder_entries(config, _CONFIG))):
        for entry in found:
            listed.setdefault(entry["content"], {})[name] = entry["id"]
    for token, id in _object(files, "added_tokens.json").items():
        listed.setdefault(token, {})["added_tokens.json"] = id
    return listed


def _vocabulary(files: Files) -> Callable[[str], bool]:
    """Whether a token is in the vocabulary proper."""
    if (data := _read(files, _JSON)) is not None:
        vocabulary = locate_sections(data, _JSON).model_member("vocab")
        return (
            {pair[0] for pair in vocabulary}.__contains__ if isinstance(vocabulary, list) else vocabulary.__contains__
        )
    if "vocab.json" in files:
        return _object(files, "vocab.json").__contains__
    if (data := _read(files, "vocab.txt")) is not None:
        return set(data.decode("utf-8", "replace").splitlines()).__contains__
    return lambda token: True


def _read(files: Files, name: str) -> bytes | None:
    content = files.get(name)
    return None if content is None else contents(content)


def _object(files: Files, name: str) -> dict[str, Any]:
    data = _read(files, name)
    value = {} if data is None else parse_json(data, name)
    return value if isinstance(value, dict) else {}
