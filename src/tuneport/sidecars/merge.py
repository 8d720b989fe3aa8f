"""Merge the files beside the weights: which file the output gets, and why.

Returns the output's files, as contents or as files to copy, with every decision and its reason. The output has the
target's architecture and the tuned model's behaviour, and only files on the list of known names. All reasons to stop
are reported together.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tuneport.checkpoint.dtypes import DTYPES, FLOAT_SPELLINGS
from tuneport.checkpoint.small_files import PROCESSOR_FILES, TOKENIZER_FILES, SidecarFolder
from tuneport.errors import in_short, named
from tuneport.files.json_text import read_json
from tuneport.files.opening import contents
from tuneport.files.printable import printable_line
from tuneport.sidecars import generation_config, ineffective_choices, tokenizer_config
from tuneport.sidecars.chat_behaviour import behaviour, end_ids
from tuneport.sidecars.chat_template import NAMES, SUBJECT, merge_template
from tuneport.sidecars.config import DTYPE, resolve
from tuneport.sidecars.config_merge import ConfigChoices, bare, choosable_fields, merge_config
from tuneport.sidecars.copied_files import copy_code, licences_of, merge_licences, tell_left_behind
from tuneport.sidecars.embedding_modules import NAMES as EMBEDDING_FILES
from tuneport.sidecars.embedding_modules import merge_embedding
from tuneport.sidecars.processors import merge_processors
from tuneport.sidecars.read import (
    CONFIG,
    GENERATION_CONFIG,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    SidecarFiles,
    read_sidecars,
)
from tuneport.sidecars.three_way import (
    SIDES,
    Decision,
    FieldDifference,
    MergeFindings,
    Three,
    choices_under,
    render,
    same,
)
from tuneport.sidecars.token_ids import TokenNames
from tuneport.sidecars.tokenizer_json.tokenizer_merge import PREFIX, TOKENIZER, choosable, merge_tokenizer
from tuneport.tokenizer.consistency import NAMES as CHECKED
from tuneport.tokenizer.consistency import tokenizer_faults
from tuneport.tokenizer.edit import edit_tokenizer, stale_files
from tuneport.tokenizer.token_changes import edit_added_tokens_decoder
from tuneport.tokenizer.tokenizer import added_tokens_by_id

__all__ = ["Decision", "FieldDifference", "Sidecars", "merge_sidecars"]

Files = dict[str, bytes | Path]


@dataclass
class Sidecars(MergeFindings):
    """The files beside the output's weights, and the findings of the merge.

    ``noted`` are fields of the manifest: ``behaviour`` (whose template, which end tokens), and ``tokenizer_faults`` that the
    target has itself, if any.
    """

    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    noted: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class _Merge:
    """What every part of the merge looks at; ``findings`` gathers what it has to say."""

    folders: Three
    read: SidecarFiles
    config_sides: Mapping[str, str]
    file_sides: Mapping[str, str]
    names: TokenNames
    findings: MergeFindings


def merge_sidecars(
    folders: Three,
    names: TokenNames,
    config_choices: Mapping[str, str],
    sidecar_choices: Mapping[str, str],
    dtype: str | None,
    vocab_rows: Mapping[int, int],
) -> Sidecars:
    """Merge the sidecars of three models (SEMANTICS, "Sidecars: a three-way merge").

    ``config_choices`` maps config fields (dotted; ``generation_config.FIELD`` and ``tokenizer.FIELD`` for the other files) and
    ``sidecar_choices`` file names to base, tuned or target. ``dtype`` is a safetensors name, ``vocab_rows`` the rows of
    vocabulary matrices that grew, by how many they had. Raises `CheckpointError` for files that cannot be read; reasons to stop
    come back as ``refusals``.
    """
    read, findings, target = read_sidecars(folders), MergeFindings(), folders.target
    findings.refusals += _unknown_choices(read, folders, config_choices, sidecar_choices)
    file_sides = {SUBJECT if name in NAMES else name: side for name, side in sidecar_choices.items()}
    task = _Merge(folders, read, config_choices, file_sides, names, findings)
    files: Files = {}
    files |= _config(task, None if dtype is None else DTYPES[FLOAT_SPELLINGS.get(dtype, dtype)].torch, vocab_rows)
    files |= _generation(task)
    findings.refusals += ineffective_choices.of_no_file(
        task.file_sides, {name for name in task.file_sides if any(folder.has(name) for folder in folders)}
    )
    findings.refusals += ineffective_choices.beside_dtype(task.config_sides, dtype)
    tokenizer, template, plain = _tokenizer(task)
    files |= tokenizer
    files |= merge_processors(folders, task.file_sides, findings)
    files |= merge_embedding(folders, task.file_sides, names.tokenizers is not None, findings)
    files |= merge_licences(folders, task.file_sides, findings)
    files |= copy_code(target, findings)
    tell_left_behind(folders, findings)
    _tell_contested_ends(findings)
    noted = {"behaviour": _behaviour(task, files, template), **_check_tokenizer(task, files, plain)}
    _tell_lost_end(task, noted["behaviour"], GENERATION_CONFIG in files)
    return Sidecars(**vars(findings), files=dict(sorted(files.items())), noted=noted)


def _tell_contested_ends(findings: MergeFindings) -> None:
    if not findings.contested_ends:
        return
    told = "; ".join(
        f"{printable_line(name)}: {', '.join(f'{side} {in_short(value)}' for side, value in zip(SIDES, shown, strict=True))}"
        for name, shown in findings.contested_ends.items()
    )
    flags = " ".join(f"{named('config', f'{name}=tuned')}" for name in findings.contested_ends)
    findings.warnings.append(
        f"The fine-tuning and the new version both changed the end token; the output has the tuned model's ({told}). "
        f"{flags} confirms it, =target takes the target's."
    )


def _tell_lost_end(task: _Merge, output: Mapping[str, Any], has_generation: bool) -> None:
    """Warn where the target knows when to stop and the output does not, unless a person asked for it."""
    config, generation_config = task.read.configs.target, task.read.generations.target
    asked = any(name.rpartition(".")[2] == "eos_token_id" for name in task.config_sides)
    if output["end_tokens"] or asked or task.file_sides.keys() & {CONFIG, GENERATION_CONFIG}:
        return
    if not end_ids(config or {}, generation_config):
        return
    what, flag = (GENERATION_CONFIG, "generation.eos_token_id") if has_generation else (CONFIG, "eos_token_id")
    if not has_generation and "eos_token_id" not in resolve(config or {}).values:
        flag = "text_config.eos_token_id"
    task.findings.warnings.append(
        f"The tuned model's {what} names no end token, so the output has none and never stops. Keep the target's with "
        f"{named('config', f'{flag}=target')}."
    )


def _behaviour(task: _Merge, files: Mapping[str, bytes | Path], template: Sequence[str]) -> dict[str, Any]:
    def read(name: str) -> dict[str, Any] | None:
        content = files.get(name)
        if content is None:
            return None
        return dict(read_json(contents(content)))

    listed = functools.cache(
        lambda: {} if task.names.tokenizers is not None else added_tokens_by_id(task.folders.target)
    )
    return behaviour(
        template,
        read(CONFIG) or {},
        read(GENERATION_CONFIG),
        {**(read(SPECIAL_TOKENS) or {}), **(read(TOKENIZER_CONFIG) or {})},
        lambda id: task.names.output_token(id) or listed().get(id),
    )


def _config(task: _Merge, dtype: str | None, vocab_rows: Mapping[int, int]) -> Files:
    configs = task.read.configs
    if configs.target is None:
        task.findings.warnings.append("None of the three models has a config.json; the output has none either.")
        return {}
    # The file's dtype describes the weights, which stay the target's whoever gives the other fields.
    fields = {name for name in choosable_fields(configs) if not name.endswith(DTYPE)}
    sides = _sides(task, CONFIG, fields, task.config_sides)
    output = merge_config(configs, ConfigChoices(sides, dtype, vocab_rows), task.names, task.findings)
    return {CONFIG: _file(task, CONFIG, configs.target, output)}


def _generation(task: _Merge) -> Files:
    generations = task.read.generations
    configs = Three(*(config or {} for config in task.read.configs))
    asked = choices_under(generation_config.PREFIXES, task.config_sides)
    sides = _sides(task, GENERATION_CONFIG, generation_config.choosable_settings(generations), asked)
    whole = task.file_sides.get(GENERATION_CONFIG)
    if whole is not None and generations.of(whole) is None:
        return {}
    output = generation_config.merge_generation(generations, configs, sides, task.names, task.findings)
    if whole is None:
        chosen = {name: side for name, side in task.config_sides.items() if bare(name) not in asked}
        needed = _needed(task, chosen)
        task.findings.refusals += ineffective_choices.decided_by_generation(chosen, needed, configs, output, task.names)
    if output is None:
        return {}
    if generations.target is None and whole is None:
        task.findings.decided(GENERATION_CONFIG, "tuned", "the target has none")
    return {GENERATION_CONFIG: _file(task, GENERATION_CONFIG, generations.target, output)}


def _needed(task: _Merge, choices: Mapping[str, str]) -> set[str]:
    """The choices without which config.json could not be merged."""
    needed = set()
    for name in choices:
        if bare(name) == "eos_token_id" and task.read.configs.target is not None:
            findings = MergeFindings()
            others = {other: side for other, side in task.config_sides.items() if other != name}
            merge_config(task.read.configs, ConfigChoices(others, None, {}), task.names, findings)
            needed |= {name} if name in findings.undecided else set()
    return needed


def _tokenizer(task: _Merge) -> tuple[Files, tuple[str, ...], set[str]]:
    """The tokenizer's files, the models that have the output's template, and added tokens that must stay plain."""
    target: SidecarFolder = task.folders.target
    templates, tokenizers = task.read.templates, task.read.tokenizers
    if templates.target is None and not any(target.has(name) for name in (*TOKENIZER_FILES, TOKENIZER_CONFIG)):
        if any(template is not None for template in templates):
            task.findings.decided(SUBJECT, "left behind", "the target has no tokenizer")
        return {}, (), set()
    files: Files = {name: target.path / name for name in TOKENIZER_FILES if target.has(name)}
    asked = choices_under(PREFIX, task.config_sides)
    json_sides = _sides(task, TOKENIZER, choosable(task.folders), asked) if TOKENIZER in task.file_sides else asked
    merged = merge_tokenizer(task.folders, tokenizers, json_sides, task.names, task.findings)
    files |= edit_tokenizer(target, merged.changes, task.folders.tuned, merged.sections, task.names.tokenizers)
    for name in stale_files(target, task.names.changes):
        del files[name]
        task.findings.decided(name, "left behind", "it cannot be edited and lacks tokens of tokenizer.json")
    special_tokens = tokenizer_config.choosable_special_tokens(tokenizers)
    settings = tokenizer_config.choosable_settings(tokenizers)
    sides = choices_under(tokenizer_config.PREFIXES, task.config_sides)
    sides = _sides(task, SPECIAL_TOKENS, special_tokens, sides)
    sides = _sides(task, TOKENIZER_CONFIG, special_tokens | settings, sides)
    flagged, post_processor = merged.flagged, merged.post_processor
    settings_merge = tokenizer_config.TokenizerConfigMerge(
        tokenizers, sides, task.names, task.findings, flagged, post_processor
    )
    config, special = settings_merge.merged()
    has_config = bool(config) or target.has(TOKENIZER_CONFIG)
    choice = task.file_sides.get(SUBJECT)
    placed = merge_template(task.folders, templates, choice, has_config, task.names, task.findings)
    files |= placed.files
    config.pop("chat_template", None) if placed.in_config is None else config.update(chat_template=placed.in_config)
    config = edit_added_tokens_decoder(config, merged.changes)
    if has_config:
        files[TOKENIZER_CONFIG] = _file(task, TOKENIZER_CONFIG, tokenizers.target.config, config)
    if special or target.has(SPECIAL_TOKENS):
        files[SPECIAL_TOKENS] = _file(task, SPECIAL_TOKENS, tokenizers.target.special, special)
    return files, placed.sides, merged.plain


def _check_tokenizer(task: _Merge, files: Files, plain: set[str]) -> dict[str, Any]:
    """What is wrong with the tokenizer is a reason to stop; what the target has itself is noted."""
    faults = tokenizer_faults(files, plain)
    if not faults:
        return {}
    target: SidecarFolder = task.folders.target
    own = tokenizer_faults({name: target.path / name for name in CHECKED if target.has(name)})
    task.findings.refusals += [fault.in_words() for fault in faults if fault not in own]
    noted = [asdict(fault) for fault in faults if fault in own]
    return {"tokenizer_faults": noted} if noted else {}


def _sides(task: _Merge, file: str, fields: set[str], asked: Mapping[str, str]) -> dict[str, str]:
    """Choices by field: those of a whole file (``--sidecar``), overruled by those of one field (``--config``)."""
    side = task.file_sides.get(file)
    if side is None:
        return dict(asked)
    task.findings.decided(file, side, "set by --sidecar")
    return dict.fromkeys(fields, side) | dict(asked)


def _file(task: _Merge, name: str, own: Mapping[str, Any] | None, output: Mapping[str, Any]) -> bytes | Path:
    """The target's own file where nothing in it changes, byte for byte; else the merged contents."""
    unchanged = own is not None and same(output, own) and list(output) == list(own)
    return task.folders.target.content(name) if unchanged else render(output)


def _known_fields(name: str, prefix: str, known: Mapping[str, Set[str]]) -> str:
    """The fields that were probably meant, in any of the files; all of one file if none is near."""
    field = name.removeprefix(prefix)
    first = {id(fields): start for start, fields in reversed([*known.items()])}  # some have a second prefix
    elsewhere = [start + field for start in first.values() if field in known[start]]
    near = elsewhere or [prefix + one for one in get_close_matches(field, known[prefix], 2, 0.7)]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    names = ", ".join(sorted(prefix + field for field in known[prefix]))
    return f"Known fields: {names}" + (", and generation.FIELD and tokenizer.FIELD." if not prefix else ".")


def _unknown_choices(
    read: SidecarFiles, folders: Three, config_choices: Mapping[str, str], sidecar_choices: Mapping[str, str]
) -> list[str]:
    tokens = tokenizer_config.choosable_special_tokens(read.tokenizers)
    tokens |= tokenizer_config.choosable_settings(read.tokenizers)
    known = {
        "": choosable_fields(Three(*(config or {} for config in read.configs))),
        **dict.fromkeys(generation_config.PREFIXES, generation_config.choosable_settings(read.generations)),
        **dict.fromkeys(tokenizer_config.PREFIXES, tokens),
    }
    if any(name.startswith(PREFIX) for name in config_choices):
        known[PREFIX[0]] = tokens | choosable(folders)
    refusals = []
    for name in config_choices:
        prefix = next(prefix for prefix in reversed(known) if name.startswith(prefix))
        if name.removeprefix(prefix) not in known[prefix]:
            refusals.append(
                f"{named('config', name)}: is not a field of these models. {_known_fields(name, prefix, known)}"
            )
    files = {CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS, *NAMES, *PROCESSOR_FILES, *EMBEDDING_FILES}
    files |= {TOKENIZER} if folders.target.has(TOKENIZER) else set()
    files |= {name for folder in folders for name in licences_of(folder)}
    for name in sorted(sidecar_choices.keys() - files):
        refusals.append(
            f"{named('sidecar', name)}: is not a file that can be chosen. Known choices: {', '.join(sorted(files))}."
        )
    return refusals
