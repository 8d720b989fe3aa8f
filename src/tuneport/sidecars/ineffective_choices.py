"""Refuse choices that would change nothing: whoever made one expects otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tuneport.errors import in_short, named
from tuneport.sidecars.config import DTYPE, generation_defaults, resolve
from tuneport.sidecars.read import CONFIG, GENERATION_CONFIG, SPECIAL_TOKENS, TOKENIZER_CONFIG
from tuneport.sidecars.three_way import Three, same
from tuneport.sidecars.token_ids import TokenNames, is_token_field

# The settings of generation that models themselves read in config.json as well.
_OF_MODELS = {"use_cache", "output_scores", "return_dict_in_generate"}


def decided_by_generation(
    choices: Mapping[str, str],
    needed: Collection[str],
    configs: Three,
    generation: Mapping[str, Any] | None,
    names: TokenNames,
) -> list[str]:
    """Refusals of choices for config.json that only generation_config.json can carry out.

    ``choices`` are sides by config field, ``needed`` those without which config.json could not be merged, ``generation``
    the output's settings. A choice that generation_config.json agrees with stands.
    """
    if generation is None:
        return []
    told = []
    for name, side in choices.items():
        own = name.rpartition(".")[2]
        if name in needed or own not in {"eos_token_id", *generation_defaults()} - _OF_MODELS:
            continue
        value = resolve(configs.of(side) or {}).values.get(name)
        if is_token_field(own):
            value = names.carried(side, own, value)[0]  # type: ignore[arg-type]  # a side, as was checked before
        has = generation.get(own, generation_defaults().get(own))
        if not same(_in_order(value), _in_order(has)):
            told.append(
                f"{named('config', f'{name}={side}')} has no effect: generation_config.json overrides it with "
                f"{in_short(has)}. Pass {named('config', f'generation.{own}={side}')}, alone or as well."
            )
    return told


def of_no_file(choices: Mapping[str, str], present: Collection[str]) -> list[str]:
    """Refusals of choices for config files that none of the three models has."""
    return [
        f"{named('sidecar', f'{name}={side}')} has no effect: none of the three models has a {name}."
        for name, side in sorted(choices.items())
        if name in (CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS) and name not in present
    ]


def beside_dtype(choices: Mapping[str, str], dtype: str | None) -> list[str]:
    """Refusals of choices for the dtype that ``--dtype`` sets."""
    return [
        f"{named('config', f'{name}={side}')} has no effect: {named('dtype')} sets this field. Use only one of the two."
        for name, side in choices.items()
        if dtype is not None and name in (DTYPE, "torch_dtype")
    ]


def _in_order(value: Any) -> Any:
    """End tokens have no order, and one alone is a list of one."""
    several = value if isinstance(value, list) else [value]
    return sorted(several) if all(isinstance(one, int) for one in several) else value
