"""Merge the files of sentence-transformers: modules, pooling, prompts.

They are merged three ways like other behaviour, file by file (modules.json together with the folders it names): the
output gets what the fine-tuning changed. A target that has none takes the tuned model's. Only a module's config is
copied: one with its own weights is named, and sentence-transformers refuses the output until the user adds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneport.checkpoint.small_files import (
    EMBEDDING_CONFIG,
    MODULE_FOLDER,
    MODULES,
    TRANSFORMER_CONFIG,
    SidecarFolder,
    module_config,
)
from tuneport.errors import CheckpointError, named
from tuneport.files.json_text import read_json
from tuneport.files.printable import printable_line, quoted
from tuneport.sidecars.three_way import MergeFindings, Three, same, three_way

NAMES = (MODULES, EMBEDDING_CONFIG, TRANSFORMER_CONFIG)
# Modules that are all config (sentence-transformers 6.2).
_WITHOUT_WEIGHTS = (
    "Pooling",
    "Normalize",
    "Dropout",
    "SpladePooling",
    "HierarchicalTokenPooling",
    "LogitScore",
    "MultiVectorMask",
)
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# What a file that is silent says, and what says nothing of an embedding.
_DEFAULTS: Mapping[str, Any] = {
    "similarity_fn_name": "cosine",
    "model_type": "SentenceTransformer",
    "include_prompt": True,
    "pooling_mode": "mean",
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
}
_NOTES = ("__version__", "requirements")


def merge_embedding(
    folders: Three, sides: Mapping[str, str], ids_differ: bool, findings: MergeFindings
) -> dict[str, bytes | Path]:
    """The output's files for sentence-transformers. ``sides`` are choices by file name; ``ids_differ`` those of tokens."""
    files: dict[str, bytes | Path] = {}
    modules = folders.each(_modules)
    side = _side(MODULES, modules.each(_said_of_modules), folders, sides, findings)
    if side is not None:
        folder: SidecarFolder = folders.of(side)
        configs = [one.file for one in modules.of(side) or () if one.file is not None and folder.has(one.file)]
        files |= {name: folder.content(name) for name in (MODULES, *configs)}
        _tell_what_is_not_carried(modules.of(side) or (), side, folders, findings)
        if ids_differ and side != "target":
            _tell_ids(configs, folder, findings)
    for name in (EMBEDDING_CONFIG, TRANSFORMER_CONFIG):
        contents = Three(*(folder.json(name) for folder in folders))
        said = (
            contents.each(lambda one: one and _without_defaults(one))
            if name == EMBEDDING_CONFIG
            else _said_of_transformer(contents)
        )
        side = _side(name, said, folders, sides, findings)
        if side is not None:
            files[name] = folders.of(side).content(name)
    return files


@dataclass(frozen=True)
class _Module:
    """One line of modules.json: the folder of a module (the model's own has none), its class, and its config."""

    path: str
    type: str
    config: Mapping[str, Any]

    @property
    def file(self) -> str | None:
        """The name of its config in the model's folder; None for a path that is not followed."""
        return module_config(self.path) if MODULE_FOLDER.fullmatch(self.path) else None

    @property
    def name(self) -> str:
        """The name of its class, wherever a version of sentence-transformers keeps it."""
        return self.type.rpartition(".")[2]


def module_names(folder: SidecarFolder) -> list[str]:
    """The modules that sentence-transformers makes of a folder, in order; none where it has no modules.json."""
    return [one.name for one in _modules(folder) or ()]


def _modules(folder: SidecarFolder) -> tuple[_Module, ...] | None:
    """The modules of a folder, in order. Raises `CheckpointError` if modules.json is not a list of modules."""
    text = folder.text(MODULES)
    if text is None:
        return None
    where = f"{folder.role} {folder.label}: {MODULES}"
    try:
        listed = read_json(text)
    except ValueError as error:
        raise CheckpointError(f"{where} is not valid JSON ({error}).") from None
    if not isinstance(listed, list) or not all(
        isinstance(one, dict) and isinstance(one.get("path"), str) and isinstance(one.get("type"), str)
        for one in listed
    ):
        raise CheckpointError(f"{where} is not a list of modules, each with `path` and `type`.")
    found = [_Module(one["path"], one["type"], {}) for one in listed]
    return tuple(replace(one, config=folder.json(one.file) or {}) if one.file else one for one in found)


def _side(name: str, said: Three, folders: Three, sides: Mapping[str, str], findings: MergeFindings) -> str | None:
    """The side that a file comes from, or None where the output has none; the decision is noted."""
    choice = sides.get(name)
    if choice is not None and not folders.of(choice).has(name):
        findings.refusals.append(f"{named('sidecar', f'{name}={choice}')}: the {choice} model has no {name}.")
        return None
    if choice is not None:
        findings.decided(name, choice, "set by --sidecar")
        return choice
    if said.tuned is None or said.alike:
        return "target" if said.target is not None else None
    if said.target is None:
        findings.decided(name, "tuned", "the target has none")
        return "tuned"
    verdict = three_way(said, behaviour=True)
    findings.settled(name, verdict, said, said.of(verdict.side))
    if verdict.side == "tuned" and not same(said.base, said.target):
        findings.warnings.append(
            f"{name}: base, tuned and target all differ, and the output has the tuned model's. Choose with "
            f"{named('sidecar')} {name}=base|tuned|target."
        )
    return verdict.side


def _said_of_modules(modules: tuple[_Module, ...] | None) -> list[dict[str, Any]] | None:
    """What modules do, whichever version of sentence-transformers wrote them down."""
    if modules is None:
        return None
    return [{"module": one.name, **_without_defaults(_with_one_mode(one.config))} for one in modules]


def _with_one_mode(config: Mapping[str, Any]) -> dict[str, Any]:
    """A pooling config as versions from 5.4 on write it: one field for the mode, in place of six flags."""
    renamed = {"embedding_dimension" if key == "word_embedding_dimension" else key: one for key, one in config.items()}
    modes = [mode for flag, mode in _OLD_MODES.items() if renamed.pop(flag, False) is True]
    if modes:
        renamed.setdefault("pooling_mode", modes[0] if len(modes) == 1 else modes)
    return renamed


def _said_of_transformer(contents: Three) -> Three:
    """The settings that base and tuned both have: a later version keeps some of them elsewhere (max_seq_length)."""
    if contents.base is None or contents.tuned is None:
        return contents
    shared = contents.base.keys() & contents.tuned.keys()
    target = (
        None if contents.target is None else {name: contents.target.get(name, contents.base[name]) for name in shared}
    )
    return Three(
        {name: contents.base[name] for name in shared}, {name: contents.tuned[name] for name in shared}, target
    )


def _without_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    prompts = config.get("prompts")
    said = {
        **config,
        "prompts": {key: one for key, one in prompts.items() if one} if isinstance(prompts, dict) else prompts,
    }
    return {
        name: value
        for name, value in said.items()
        if name not in _NOTES and value is not None and value != {} and not same(value, _DEFAULTS.get(name))
    }


def _tell_what_is_not_carried(modules: tuple[_Module, ...], side: str, folders: Three, findings: MergeFindings) -> None:
    """Modules with weights or code of their own."""
    for module in modules:
        code = f"{module.type.partition('.')[0]}.py"  # `ORG/NAME--FILE.CLASS` is fetched from the Hub
        official = module.type.startswith("sentence_transformers.")
        if not official and "--" not in module.type and not folders.target.has(code):
            findings.warnings.append(
                f"{MODULES} (of the {side} model) names {printable_line(module.type)}, code that the target lacks and "
                f"that is not copied. If you trust it, put the {side} model's {printable_line(code)} beside the "
                f"output's weights."
            )
        if module.path and module.name not in _WITHOUT_WEIGHTS:
            findings.warnings.append(
                f"{MODULES} (of the {side} model) names {printable_line(module.path)} "
                f"({printable_line(module.name)}), which has its own weights. They are not copied, and "
                f"sentence-transformers cannot load the output without them. Copy {printable_line(module.path)} from "
                f"the {side} model, or choose with {named('sidecar', f'{MODULES}=base|tuned|target')}."
            )


def _tell_ids(configs: list[str], folder: SidecarFolder, findings: MergeFindings) -> None:
    for name in configs:
        ids = [field for field in folder.json(name) or {} if "token_id" in field]
        if ids:
            findings.warnings.append(
                f"{name} has {', '.join(quoted(field) for field in ids)} with ids of the {folder.role} model's "
                f"tokenizer, but the output's tokenizer has other ids. Correct them by hand."
            )
