"""Choose which of the weight files in a folder to read.

A folder often contains several sets: shards beside a single file, pickles, an adapter, optimiser states. The rule
(SEMANTICS, "Which weights count"): the files that the index names; else model.safetensors; else the only .safetensors
file; else pytorch_model.bin; else an error with a list. If another loader would use a second complete set, it is never
ignored: it is returned as ``beside``, to be compared. No path in an index may leave its folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from tuneport.checkpoint.weights import MOST_FILES, parse_index
from tuneport.errors import CheckpointError
from tuneport.files.printable import listed_names, printable_line

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LEGACY_INDEX = "pytorch_model.bin.index.json"
LEGACY_SINGLE = "pytorch_model.bin"
MODEL_WEIGHTS = (INDEX, SINGLE, LEGACY_INDEX, LEGACY_SINGLE)
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
# The field of config.json that tells transformers 5 which file to load.
NAMED_IN_CONFIG = "transformers_weights"

# An index of weights of another kind (fp16, say), as transformers and as diffusers name it.
_VARIANT_INDEX = re.compile(r"model\.safetensors\.index\..+\.json|model\..+\.safetensors\.index\.json")
# What lies in a folder that has no weights of a kind that is read, and what to do about it.
_INSTEAD = (
    (r"(checkpoint-\d+|\d+_Transformer|merged|model|final)/", "Is the model in {}? Then pass that folder."),
    (r"([^/]+/)adapter_config\.json", "There is an adapter in {}: pass that folder."),
    (r"zero_to_fp32\.py|global_step\d+/", "{} is DeepSpeed's; its zero_to_fp32.py gathers the weights."),
    (r".*\.distcp|pytorch_model_fsdp_\d+/", "{} is FSDP's; `accelerate merge-weights` gathers the weights."),
    (r".*\.gguf", "{} is GGUF, which tuneport does not read. Pass the checkpoint that it was made from."),
    (r"pytorch_model(_fsdp|\.[a-z]\w*)\.bin", "If {} holds the whole model, rename it to pytorch_model.bin."),
    (
        r"tf_model\.h5|flax_model\.msgpack|.*\.(ckpt|pth?)",
        "tuneport does not read {}. Save the model with save_pretrained.",
    ),
)


@dataclass(frozen=True)
class Weights:
    """Files that together contain a model; ``name`` is what to call them, ``index`` their weight map if there is one.

    Of the set that counts, ``beside`` are other whole sets of the folder, ``loaders`` says who loads which of them, and
    ``warnings`` name what else is there and is not read. ``pickled`` is a whole pickle beside safetensors.
    """

    name: str
    files: tuple[str, ...]
    index: Mapping[str, str] | None = None
    legacy: bool = False
    adapter: bool = False
    beside: tuple[Weights, ...] = ()
    loaders: str = ""
    warnings: tuple[str, ...] = ()
    pickled: str | None = None


def choose_weights(
    names: Collection[str],
    read_index: Callable[[str], bytes],
    where: str,
    stem: str = "model",
    named: object = None,
) -> Weights:
    """Which of the files ``names`` count; names of folders end with a slash.

    ``read_index`` fetches an index, ``where`` is what to call the folder, ``stem`` how its weight files begin, ``named`` what
    config.json has under `NAMED_IN_CONFIG`. Raises `CheckpointError`, with what is there and what to do.
    """
    present = {name for name in names if not name.startswith(".")}
    single_name, index_name = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    gone: dict[str, list[str]] = {}  # by index: files that it names and that are not there

    def indexed(name: str, single: str, legacy: bool = False) -> Weights | None:
        if name not in present:
            return None
        content = read_index(name)
        try:
            index = parse_index(content, f"{where}: {name}", legacy)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} Or remove it: {single} is in the same folder." if single in present else str(error)
            ) from None
        files = tuple(sorted(set(index.values())))
        if len(files) > MOST_FILES:
            raise CheckpointError(
                f"{where}: {name} names {len(files):,} files, over the limit of {MOST_FILES:,}. Save the model again with "
                "larger shards (save_pretrained's `max_shard_size`)."
            )
        missing = [file for file in files if file not in present]
        if missing:
            gone[name] = missing
            return None
        return Weights(name, files, index, legacy)

    def one_file(name: str, legacy: bool = False) -> Weights | None:
        return Weights(name, (name,), legacy=legacy) if name in present else None

    own, single, told = indexed(index_name, single_name), one_file(single_name), None
    if isinstance(named, str) and named not in (index_name, single_name):
        told = indexed(named, single_name) if named.endswith(".index.json") else one_file(named)
    sets = [own, single, told]
    if not any(sets):
        bins, bin = indexed(LEGACY_INDEX, LEGACY_SINGLE, legacy=True), one_file(LEGACY_SINGLE, legacy=True)
        only = None if index_name in gone or ADAPTER in present else _only_safetensors(present, where)
        sets = [only, bins, bin]
    if not any(sets) and ADAPTER in present and (not gone or ADAPTER_WEIGHTS in present):
        sets = [_adapter_weights(present, where)]
    whole = [one for one in sets if one is not None]
    if not whole:
        _refuse(present, gone, where)
    chosen = whole[0]
    if own is None and not chosen.legacy and not chosen.adapter:
        whole += [Weights(f"{files[0]} … {files[-1]}", files) for files in _numbered(present, stem)]
    beside = tuple(one for one in whole[1:] if not set(one.files) & set(chosen.files))
    return replace(
        chosen,
        beside=beside,
        loaders=_loaders(present, told, own, stem),
        warnings=tuple(_warnings(present, chosen, beside, gone, stem, where)),
        pickled=LEGACY_SINGLE if LEGACY_SINGLE in present and not chosen.legacy else None,
    )


def _only_safetensors(present: set[str], where: str) -> Weights | None:
    """The one .safetensors file of a folder that has none of the usual names."""
    candidates = sorted(name for name in present if name.endswith(".safetensors") and name != ADAPTER_WEIGHTS)
    if len(candidates) > 1:
        variant = next((name for name in sorted(present) if _VARIANT_INDEX.fullmatch(name)), None)
        instead = "add the index" if variant is None else f"copy {variant} to {INDEX}, if you need those files"
        raise CheckpointError(
            f"{where}: {len(candidates)} safetensors files and no {INDEX}, so it is unclear which to read:"
            f"{listed_names(candidates)}\nKeep one of them, or {instead}."
        )
    return Weights(candidates[0], (candidates[0],)) if candidates else None


def _numbered(present: set[str], stem: str) -> Iterator[tuple[str, ...]]:
    """Whole rows of shards by their names: STEM-00001-of-00002.safetensors and its like."""
    rows: dict[str, dict[int, str]] = {}
    for name in sorted(present):
        found = re.fullmatch(rf"{stem}-(\d+)-of-(\d+)\.safetensors", name)
        if found:
            rows.setdefault(found[2], {})[int(found[1])] = name
    for count, shards in rows.items():
        if (min(shards), max(shards), len(shards)) == (1, int(count), int(count)) and len(shards) <= MOST_FILES:
            yield tuple(shards.values())


def _adapter_weights(present: set[str], where: str) -> Weights:
    """A PEFT adapter's one file, without a model beside it."""
    if ADAPTER_WEIGHTS in present:
        return Weights(ADAPTER_WEIGHTS, (ADAPTER_WEIGHTS,), adapter=True)
    pickled = (
        f"{ADAPTER_PICKLE} is a pickle; load the adapter with peft and save it again (save_pretrained writes safetensors)."
        if ADAPTER_PICKLE in present
        else f"the folder holds{listed_names(sorted(present))}"
    )
    raise CheckpointError(f"{where} is a PEFT adapter without {ADAPTER_WEIGHTS}: {pickled}")


def _loaders(present: set[str], told: Weights | None, own: Weights | None, stem: str) -> str:
    """Who loads what of the folder: transformers 5.23 was tried, vLLM's loader was read."""
    usual = (f"{stem}.safetensors", f"{stem}.safetensors.index.json", LEGACY_SINGLE, LEGACY_INDEX)
    first = told.name if told is not None else next((name for name in usual if name in present), "none of them")
    if own is not None:
        other = f"the files that {own.name} names"
    else:
        kind = ".safetensors" if any(name.endswith(".safetensors") for name in present) else ".bin"
        other = f"every {kind} file, each overwriting the one before"
    return f"transformers loads {first}, vLLM {other}"


def _warnings(
    present: set[str],
    chosen: Weights,
    beside: Collection[Weights],
    gone: Mapping[str, list[str]],
    stem: str,
    where: str,
) -> Iterator[str]:
    """Files beside the chosen weights that are not a complete set, but that the user may have wanted."""
    for index, files in gone.items():
        yield (
            f"{where}: {index} names {len(files)} missing file(s) ({printable_line(files[0])}, for example), so "
            f"tuneport reads {chosen.name} from the same folder. If the index is left over from other weights, remove "
            f"it."
        )
    if chosen.index is not None and len(chosen.files) > 1 and f"{stem}.safetensors" in chosen.files:
        yield (
            f"{where}: {stem}.safetensors is one of {len(chosen.files)} files that {chosen.name} names. tuneport "
            f"reads them all; transformers loads only this one."
        )
    read = {file for one in (chosen, *beside) for file in one.files}
    shards = [name for name in sorted(present) if re.fullmatch(rf"{stem}-\d+-of-\d+\.safetensors", name)]
    left = [name for name in shards if name not in read]
    if left:
        yield (
            f"{where}: {len(left)} shard(s) are in no index and are not read ({printable_line(left[0])}, for "
            f"example); tuneport follows {chosen.name}. If they are left over from other weights, remove them."
        )
    if not chosen.adapter and ADAPTER in present and {ADAPTER_WEIGHTS, ADAPTER_PICKLE} & present:
        yield (
            f"{where}: the folder contains an adapter ({ADAPTER}) beside the model's own weights. tuneport ignores "
            f"the adapter; transformers applies it, vLLM does not. To use the adapter, pass a folder that contains "
            f"only the adapter."
        )


def _refuse(present: set[str], gone: Mapping[str, list[str]], where: str) -> NoReturn:
    """Say why there are no weights, and what to do about it."""
    for index, files in gone.items():
        others = sorted(name for name in present if name.endswith((".safetensors", ".bin")) and name not in files)
        there = f"\nIt does not name these files, which are there:{listed_names(others, 8)}" if others else ""
        raise CheckpointError(
            f"{where}: {index} names missing files:{listed_names(files)}{there}\n"
            "Download the checkpoint again, in full."
        )
    if ADAPTER_WEIGHTS in present:
        raise CheckpointError(
            f"{where}: {ADAPTER_WEIGHTS} belongs to an adapter, but its {ADAPTER} is missing. peft writes both; copy "
            f"it there."
        )
    advice = [
        words.format(printable_line(found.removesuffix(ADAPTER)))
        for pattern, words in _INSTEAD
        for found in sorted(present)
        if re.fullmatch(pattern, found)
    ]
    raise CheckpointError(
        f"{where}: no weights. Looked for {INDEX}, {SINGLE}, a single .safetensors file and {LEGACY_SINGLE}; "
        f"the folder holds{listed_names(sorted(present)) or ' nothing'}" + "".join(f"\n{line}" for line in advice[:3])
    )
