"""The small files of three models, read and checked.

In come three folders, out go their configs, generation configs, tokenizer settings and templates as values. The
promise: whatever cannot be read or understood is told here, of all three models at once, and nothing later fails on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tuneport.checkpoint.chat_template import read_template
from tuneport.checkpoint.config import checked
from tuneport.checkpoint.config_merge import choosable_fields
from tuneport.checkpoint.folder import SidecarFolder
from tuneport.checkpoint.merge3 import SIDES, Three
from tuneport.checkpoint.tokenizer_settings import TokenizerFiles
from tuneport.errors import CheckpointError, listing

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"

T = TypeVar("T")


@dataclass(frozen=True)
class SidecarFiles:
    """What the three folders hold: configs and generation configs (None where there is no file), the tokenizers'
    small files (`TokenizerFiles`) and templates (`Template` or None)."""

    configs: Three
    generations: Three
    tokenizers: Three
    templates: Three


def read_sidecars(folders: Three) -> SidecarFiles:
    """Read the files that are merged. Raises one `CheckpointError` that names all that cannot be."""
    faults: list[str] = []

    def attempt(what: Callable[[], T], where: str = "") -> T | None:
        try:
            return what()
        except CheckpointError as error:
            faults.append(where + str(error))
            return None

    def load(folder: SidecarFolder, name: str) -> Any:
        value = folder.json(name)
        return None if value is None else checked(value, f"{folder.role} {folder.label}: {name}")

    def three(name: str) -> Three:
        return Three(*(attempt(lambda folder=folder: load(folder, name)) for folder in folders))

    configs, generations = three(CONFIG), three(GENERATION_CONFIG)
    settings, special = three(TOKENIZER_CONFIG), three(SPECIAL_TOKENS)
    if any(folder.has(CONFIG) for folder in folders):
        for side in SIDES:
            if not folders.of(side).has(CONFIG):
                faults.append(f"{side} {folders.of(side).label}: there is no config.json; a checkpoint needs one.")
    tokenizers = []
    for side in SIDES:
        where = f"{side} {folders.of(side).label}: "
        config = configs.of(side) or {}
        attempt(lambda config=config: choosable_fields(Three(config, {}, {})), where)  # resolves every sub-config
        one = TokenizerFiles(settings.of(side), special.of(side), where + TOKENIZER_CONFIG)
        attempt(one.more)
        tokenizers.append(one)
    templates = Three(
        *(
            attempt(lambda folder=folder, one=one: read_template(folder, one.config or {}))
            for folder, one in zip(folders, tokenizers, strict=True)
        )
    )
    if len(faults) == 1:
        raise CheckpointError(faults[0])
    if faults:
        raise CheckpointError("Files beside the weights cannot be read:" + listing(faults))
    return SidecarFiles(configs, generations, Three(*tokenizers), templates)
