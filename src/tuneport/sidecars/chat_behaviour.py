"""Which chat template the output has, and which tokens end its answers.

Read from the output's files for the manifest, and printed in one line at the end of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuneport.sidecars.config import TEXT_CONFIGS, resolve

_OWNERS = {2: "the {} and the {} model", 3: "all three models"}


def behaviour(
    template: Sequence[str],
    config: Mapping[str, Any],
    generation: Mapping[str, Any] | None,
    tokenizer: Mapping[str, Any],
    token: Callable[[int], str | None],
) -> dict[str, Any]:
    """The field ``behaviour`` of a manifest.

    ``template`` are the models that have the output's chat template, the one it was taken from first. The other values
    are the output's config, generation config (None: it has none) and special tokens; ``token`` names an id.
    """
    ids = end_ids(config, generation)
    named = tokenizer.get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    return {
        "template": list(template),
        "end_tokens": [{"id": id, "token": token(id)} for id in ids],
        "tokenizer_end_token": named if isinstance(named, str) else None,
    }


def behaviour_in_words(record: Mapping[str, Any]) -> str:
    """One line: whose template, and which end token."""
    template = record["template"]
    whose = "no chat template"
    if template:
        whose = f"chat template of {_OWNERS.get(len(template), 'the {} model').format(*template)}"
    ends = [f"id {one['id']}" if one["token"] is None else _printable(one["token"]) for one in record["end_tokens"]]
    named = record["tokenizer_end_token"]
    told = ", ".join(ends) or ("none in the configs" if named is not None else "none")
    also = "" if named is None or _printable(named) in ends else f" (the tokenizer's is {_printable(named)})"
    return f"{whose}; end token {told}{also}"


def _printable(token: object) -> str:
    text = str(token)  # a manifest may come from anywhere
    return text if text.isprintable() else repr(text)


def end_ids(config: Mapping[str, Any], generation: Mapping[str, Any] | None) -> list[int]:
    """As transformers has it: generation_config.json where there is one, else the config, or its text part."""
    found: Any = None
    if generation is not None:
        found = generation.get("eos_token_id")
    elif config:
        texts = [config[name] for name in TEXT_CONFIGS if isinstance(config.get(name), dict)]
        found = next(
            (ids for one in (config, *texts) if (ids := resolve(one).values.get("eos_token_id")) is not None), None
        )
    ids = found if isinstance(found, list) else [found]
    return [id for id in ids if isinstance(id, int) and not isinstance(id, bool)]
