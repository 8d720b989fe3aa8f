"""Read and check the small files of three models.

Returns their configs, generation configs, tokenizer settings and templates as values. Everything that cannot be read or
understood is reported here, for all three models together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.errors import CheckpointError, listing
from tuneport.sidecars.chat_template import read_template
from tuneport.sidecars.config import checked
from tuneport.sidecars.config_merge import choosable_fields
from tuneport.sidecars.three_way import SIDES, Three
from tuneport.tokenizer.special_tokens import TokenizerFiles

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"

T = TypeVar("T")


@dataclass(frozen=True)
class SidecarFiles:
    """What the three folders hold; None where a file is missing.

    ``tokenizers`` are `TokenizerFiles`, ``templates`` are `Template` or None.
    """

    configs: Three
    generations: Three
    tokenizers: Three
    templates: Three


def read_sidecars(folders: Three) -> SidecarFiles:
    """Read the files that are merged. Raises one `CheckpointError` that names all that cannot be."""
    faults: list[str] = []

    def attempt(where: str, what: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return what(*arguments)
        except CheckpointError as error:
            faults.append(where + str(error))
            return None

    def three(name: str) -> Three:
        return Three(*(attempt("", _load, folder, name) for folder in folders))

    configs, generations = three(CONFIG), three(GENERATION_CONFIG)
    settings, special = three(TOKENIZER_CONFIG), three(SPECIAL_TOKENS)
    tokenizers, templates = [], []
    for side in SIDES:
        folder: SidecarFolder = folders.of(side)
        where = f"{side} {folder.label}: "
        if not folder.has(CONFIG) and any(other.has(CONFIG) for other in folders):
            faults.append(f"{where}there is no config.json; a checkpoint needs one.")
        attempt(where, choosable_fields, Three(configs.of(side) or {}, {}, {}))  # resolves every sub-config
        files = TokenizerFiles(settings.of(side), special.of(side), where + TOKENIZER_CONFIG)
        attempt("", files.more)
        tokenizers.append(files)
        templates.append(attempt("", read_template, folder, files.config or {}))
    if len(faults) == 1:
        raise CheckpointError(faults[0])
    if faults:
        raise CheckpointError("Files beside the weights cannot be read:" + listing(faults))
    return SidecarFiles(configs, generations, Three(*tokenizers), Three(*templates))


def _load(folder: SidecarFolder, name: str) -> Mapping[str, Any] | None:
    value = folder.json(name)
    return None if value is None else checked(value, f"{folder.role} {folder.label}: {name}")
