"""The small files of an adapted model: whose tokenizer, whose template, and where texts end.

Some come from the adapter's folder, the rest from its base. Unless the trainer wrote a generation config, none of them
says where generation stops; then the end token of the adapter's tokenizer is added to the base's end tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import HUB_ID
from tuneport.errors import TuneportError
from tuneport.files.opening import check_file
from tuneport.sidecars.merge import Decision
from tuneport.tokenizer.special_tokens import TokenizerFiles
from tuneport.tokenizer.tokenizer import read_added_entries, read_tokenizer, tokenizer_text

_GENERATION = "generation_config.json"
# Where a model has no generation_config.json, transformers takes these from its config.json.
_FROM_CONFIG = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def with_an_end(model: Checkpoint, base: Checkpoint, rows: int | None) -> tuple[Checkpoint, list[Decision], list[str]]:
    """The tuned model with a generation config that stops where the adapter's tokenizer ends texts, and what to say of it.

    ``model`` is the adapter with its base behind it, ``rows`` those of its vocabulary.
    """
    if check_file(model.path / _GENERATION, model.path):
        return model, [], []
    own, before = _end_token(model), _end_token(base)
    if own is None or own == before:
        return model, [], []
    settings = base.sidecars.json(_GENERATION)
    if settings is None:
        settings = {name: base.config[name] for name in _FROM_CONFIG if base.config.get(name) is not None}
    stops = settings.get("eos_token_id")
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    end = _id_of(model, own)
    if end is None or (rows is not None and end >= rows):
        why = "its id cannot be read" if end is None else f"the model has no row for it (id {end} of {rows} rows)"
        warning = (
            f"the adapter's tokenizer ends texts with {own!r}, the base's with {before!r}, and {why}: the output may "
            "not stop after its answers. Put a generation_config.json beside the adapter, with the id of the token "
            "that ends an answer as `eos_token_id`."
        )
        return model, [], [warning]
    if end in stops:
        return model, [], []
    # Transformers 4 takes config.json's end token instead, where a file says that it was made of that config.
    settings = {name: value for name, value in settings.items() if name != "_from_model_config"}
    content = json.dumps({**settings, "eos_token_id": [end, *stops] if stops else end}, indent=2) + "\n"
    decision = Decision(
        "adapter.end_token",
        f"{own} ({end})",
        f"the adapter's tokenizer ends texts with it, the base's with {before}, and its folder has no {_GENERATION}",
    )
    return replace(model, made={**model.made, _GENERATION: content.encode()}), [decision], []


def file_decisions(model: Checkpoint) -> Iterable[Decision]:
    """Whose small files the tuned model has."""
    sidecars = model.sidecars
    own = sidecars.has_own_vocabulary
    yield Decision(
        "adapter.tokenizer",
        "the adapter's" if own else "the base's",
        f"its folder holds {'tokenizer files' if own else 'no vocabulary'}",
    )
    if sidecars.has_own_template:
        yield Decision("adapter.template", "the adapter's", "its folder holds a chat template")
    yield Decision("adapter.config", "the base's", "an adapter has no config of its own")


def base_decisions(adapter: Checkpoint) -> Iterable[Decision]:
    """The base that the adapter says it was trained on."""
    named = adapter.adapter.base_model if adapter.adapter else None
    if named:
        yield Decision("adapter.base_model", _told(named), "the base that its adapter_config.json names")


def base_doubts(adapter: Checkpoint, base: Checkpoint, target: Checkpoint | None) -> Iterable[str]:
    """The base that adapter_config.json names should be the one that is given, not the target."""
    named = adapter.adapter.base_model if adapter.adapter else None
    if named is None or _is_called(base, named):
        return
    if target is not None and _is_called(target, named):
        yield (
            f"base and target look swapped: the adapter says that it was trained on {_told(named)}, which is the name of "
            f"the target ({target.label}), not of the base ({base.label})."
        )
    elif base.hub_id and HUB_ID.fullmatch(named):
        yield (
            f"the adapter says that it was trained on {_told(named)}, and the base given is {base.label}. Its "
            f"difference has no meaning on another base, unless both have the same weights."
        )


def _end_token(model: Checkpoint) -> str | None:
    """The end token that a tokenizer's settings name."""
    sidecars = model.sidecars
    files = (sidecars.json("tokenizer_config.json"), sidecars.json("special_tokens_map.json"))
    return TokenizerFiles(*files, f"{model.role} {model.label}: tokenizer_config.json").roles().get("eos_token")


def _id_of(model: Checkpoint, token: str) -> int | None:
    """A token's id. The vocabulary, which may be large, is parsed only where no list of added tokens has the token."""
    listed: Any = (model.sidecars.json("tokenizer_config.json") or {}).get("added_tokens_decoder")
    for id, entry in listed.items() if isinstance(listed, dict) else ():
        if isinstance(entry, dict) and entry.get("content") == token and id.isascii() and id.isdigit():
            return int(id)
    try:
        text = tokenizer_text(model.sidecars)
        for added in [] if text is None else read_added_entries(text):
            if added["content"] == token:
                return int(added["id"])
        return read_tokenizer(model.sidecars).ids.get(token)
    except TuneportError:
        return None  # a tokenizer that cannot be read is reported where it is needed


def _is_called(checkpoint: Checkpoint, named: str) -> bool:
    own = checkpoint.hub_id or checkpoint.label
    return _last(named).casefold() == _last(own).casefold()


def _last(name: str) -> str:
    """What a path or a Hub id ends with."""
    return name.rstrip("/").rpartition("/")[2]


def _told(name: str) -> str:
    """A Hub id as it stands; of a path on the machine that trained the adapter its last part."""
    return name if HUB_ID.fullmatch(name) else _last(name)
