"""Load a model folder or Hub id for lm-evaluation-harness.

A `Seat` says where the model is and what identifies it. The result is the harness's own class for the backend, which
also checks every prompt. A model is loaded once for all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuneport.checkpoint.local_folder import check_for_loaders
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.small_files import SidecarFolder, most_bytes
from tuneport.checkpoint.weight_sets import ADAPTER_PICKLE, MODEL_WEIGHTS
from tuneport.errors import ABSENT, CheckpointError, Fault, RenderingError, TuneportError, UsageError, named
from tuneport.examples.conversation_template import spoken_by
from tuneport.examples.questions import OwnTask
from tuneport.examples.rendering import render
from tuneport.files.opening import check_file, read_bytes, resolved
from tuneport.libraries import how_to_install, loading_is_said, missing
from tuneport.scoring import score_spoilers
from tuneport.scoring.adapter_settings import check_adapter
from tuneport.scoring.devices import best_device, check_dtype, mps_has_bfloat16
from tuneport.scoring.layer_counts import check_layer_counts
from tuneport.scoring.model_class import first_line, ids_that_end
from tuneport.scoring.prompt_checks import checking
from tuneport.scoring.prompts import check_written
from tuneport.sidecars.chat_template import read_template

_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Small files that change what a model says, beside its weights.
_BEHAVIOUR = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_SETTINGS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Seat:
    """A model to score: its name in the record, where it is loaded from, and what identifies it. ``told`` names what is
    beside its weights and is not read.
    """

    name: str
    source: str
    revision: str | None = None
    adapter: str | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loading:
    """How a model is loaded; none of it is about the questions."""

    backend: str = "hf"
    device: str | None = None
    dtype: str | None = None
    batch_size: int | str = 16
    chat_template: str | None = None


def find_models(models: Sequence[str | Path]) -> list[Seat]:
    """Every model, found and named. Raises `CheckpointError` or `UsageError` before anything is loaded."""
    specs = [str(model) for model in models]
    twice = sorted({spec for spec in specs if specs.count(spec) > 1})
    if twice:
        raise UsageError(
            Fault("models", ABSENT, f"{', '.join(twice)} is listed more than once; each model is scored once")
        )
    return [_find(spec, name) for spec, name in zip(specs, names_of(specs), strict=True)]


def names_of(specs: Sequence[str]) -> list[str]:
    """What the models are called in the record: a Hub id as it stands, a folder by as much of its path as tells it apart."""
    folders = {spec: resolved(Path(spec).expanduser()).parts for spec in specs if Path(spec).expanduser().is_dir()}
    names = []
    for spec in specs:
        parts = folders.get(spec)
        if parts is None:
            names.append(spec)
            continue
        length = 1
        while length < len(parts) and any(
            other != spec and others[-length:] == parts[-length:] for other, others in folders.items()
        ):
            length += 1
        names.append("/".join(parts[-length:]))
    return names


def _find(spec: str, name: str) -> Seat:
    from blake3 import blake3

    folder = Path(spec).expanduser()
    if folder.is_dir():
        check_for_loaders(folder)
    if check_file(folder / _ADAPTER, folder):
        own = [file for file in MODEL_WEIGHTS if (folder / file).is_file()]
        if own:
            raise CheckpointError(
                f"model {name}: its folder contains a model ({own[0]}) and an adapter, and transformers would load "
                f"only the adapter. Keep each in its own folder."
            )
        return _find_adapter(folder, name)
    checkpoint = open_checkpoint(spec, "model")
    check_layer_counts(checkpoint)
    if checkpoint.hub_id is not None:
        at = {"name": checkpoint.hub_id, "revision": checkpoint.revision}
        if checkpoint.adapter is not None:
            from tuneport.checkpoint.hub import fetch

            seat = _find_adapter(fetch(checkpoint).path, name)
            return replace(seat, identity=at | {"base": seat.identity["base"]})
        return Seat(name, checkpoint.hub_id, checkpoint.revision, None, at, checkpoint.warnings)
    for file in _SETTINGS:  # transformers reads them again, without a bound of depth
        SidecarFolder("model", name, folder).json(file)
    hasher = blake3()
    for file in _BEHAVIOUR:
        if (folder / file).is_file():
            hasher.update(f"{file}\0".encode() + read_bytes(folder / file, folder, most_bytes(file)))
    identity = {
        "name": name,
        "digest": checkpoint.identity()["digest"],
        "behaviour": hasher.hexdigest(),
        "changed": {file.name: [file.mtime_ns, file.ctime_ns] for file in checkpoint.files.values()},
    }
    return Seat(name, str(folder), None, None, identity, checkpoint.warnings)


def _find_adapter(folder: Path, name: str) -> Seat:
    from blake3 import blake3

    settings = SidecarFolder("model", name, folder).json(_ADAPTER) or {}
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"model {name}: {_ADAPTER} does not say which model it adapts; set `base_model_name_or_path`."
        )
    under = _find_base(base, settings.get("revision"), folder, name)
    if not (folder / _ADAPTER_WEIGHTS).is_file():
        pickled = (folder / ADAPTER_PICKLE).is_file()
        raise CheckpointError(
            f"model {name}: {_ADAPTER_WEIGHTS} is missing beside {_ADAPTER}. "
            + (f"{ADAPTER_PICKLE} is a pickle; load the adapter with peft and save it again." if pickled else "")
        )
    files = sorted(folder.glob("adapter_model.*"))
    identity = {
        "name": name,
        "adapter": blake3(read_bytes(folder / _ADAPTER, folder)).hexdigest(),
        "changed": {file.name: [status.st_mtime_ns, status.st_ctime_ns] for file in files if (status := file.stat())},
        "base": dict(under.identity),
    }
    return Seat(name, under.source, under.revision, str(folder), identity, under.told)


def _find_base(base: str, revision: Any, folder: Path, name: str) -> Seat:
    """The model that an adapter's config names: a folder, here or beside the adapter's, or a Hub id at its revision."""
    place = next((place for place in (Path(base), resolved(folder).parent / base) if place.is_dir()), None)
    if place is not None and (place / _ADAPTER).is_file():
        raise CheckpointError(f"model {name}: it adapts {base}, which is an adapter itself. Merge that one first.")
    try:
        if place is not None:
            return _find(str(place), place.name)
        return _find(f"{base}@{revision}" if isinstance(revision, str) and "@" not in base else base, base)
    except CheckpointError as error:
        raise CheckpointError(
            f"model {name}: its base model was not found. {error} {_ADAPTER} names the base: a folder here or beside "
            f"the adapter's, or a Hub id."
        ) from error


def need_harness(backend: str) -> None:
    """Raise `UsageError` where the harness or the backend is not installed."""
    if backend == "olmes":
        return  # a program of its own
    if missing("lm_eval", "torch"):
        raise UsageError(
            f"Scoring needs lm-evaluation-harness, which the core does not install. {how_to_install('models')}"
        )
    if backend == "vllm" and missing("vllm"):
        told = "Install it (pip install vllm), or use hf"
        raise UsageError(Fault("backend", "vllm", "vLLM is not installed", told))


def need_device(loading: Loading) -> None:
    """Raise `UsageError` for a missing device: the harness would silently use another one."""
    if loading.backend != "hf":
        return
    with loading_is_said():  # PyTorch knows
        check_dtype(loading.device or best_device(), loading.dtype, "dtype")
    if loading.device is None:
        return
    import torch

    kind, _, number = loading.device.partition(":")
    there = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}[kind]
    if int(number or 0) >= there:
        told = "torch finds no such device here"
        raise UsageError(
            Fault("device", loading.device, told, f"Leave out {named('device')} to use the best available")
        )


def load(seat: Seat, loading: Loading, tell: Callable[[list[str]], None], weights: Any = None) -> Any:
    """The harness's model for `seat`. `tell` gets the warnings of each lot of prompts before they are asked.

    ``weights`` is a model of transformers that is in memory; of the seat's folder tokenizer and generation settings are then read.
    """
    from lm_eval.api.registry import get_model

    kind = checking(get_model(loading.backend))
    arguments: dict[str, Any] = {"batch_size": loading.batch_size}
    if weights is None:
        arguments |= _from_disk(seat, loading)
    else:
        weights.generation_config = _generation_settings(seat)
        arguments |= {"pretrained": weights, "tokenizer": tokenizer_of(seat)}
    try:
        model = kind(**arguments)
    except (TuneportError, MemoryError):
        raise
    except Exception as error:
        # The harness, transformers, peft and safetensors raise anything; the cause is kept for --debug.
        raise CheckpointError(f"model {seat.name}: it cannot be loaded: {first_line(error)}") from error
    if model.tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"model {seat.name}: its tokenizer has no `eos_token`, which the harness needs. "
            "Name it in tokenizer_config.json."
        )
    _speak(model.tokenizer, seat)
    if not model.tokenizer.chat_template and loading.chat_template is not None:
        model.tokenizer.chat_template = spoken_by(model.tokenizer, loading.chat_template)
    model.name, model.tell = seat.name, tell
    return model


def _from_disk(seat: Seat, loading: Loading) -> dict[str, Any]:
    """The harness's arguments for a model that it loads."""
    arguments: dict[str, Any] = {"pretrained": seat.source}
    if seat.revision is not None:
        arguments["revision"] = seat.revision
    if loading.backend == "hf":
        device = loading.device or best_device()
        usual = "float32" if device == "cpu" or (device == "mps" and not mps_has_bfloat16()) else "auto"
        arguments |= {"device": device, "dtype": loading.dtype or usual}
        if seat.adapter is not None:
            arguments |= {"peft": seat.adapter, "tokenizer": _tokenizer_place(seat)}
        return arguments
    arguments |= {"dtype": loading.dtype or "auto"}
    if seat.adapter is not None:
        arguments["lora_local_path"] = seat.adapter
        check_adapter(seat.adapter, (name.rpartition(".")[0] for name in open_checkpoint(seat.source, "model").tensors))
    return arguments


@dataclass(frozen=True)
class Looked:
    """What is known of a model before it is loaded: whether it has a chat template, and warnings."""

    template: bool
    warnings: list[str]


def look_over(
    seat: Seat,
    loading: Loading,
    own: Sequence[OwnTask],
    *,
    limit: int | None = None,
    others: bool = False,
    needs_template: bool = False,
) -> Looked:
    """How the model's tokenizer and generation settings would affect scores, checked before anything is loaded.

    `own` are the tasks that it is to be asked, the first `limit` examples of each; `others`: tasks of the harness besides,
    which may need a template (`needs_template`). Raises `CheckpointError` where it has none, `RenderingError` where it writes not all of the examples.
    """
    tokenizer = tokenizer_of(seat)
    whose, remedy = f"model {seat.name}: its chat template", "correct the template"
    if not tokenizer.chat_template and loading.chat_template is not None:
        tokenizer.chat_template = spoken_by(tokenizer, loading.chat_template)
        whose, remedy = f"model {seat.name}: {named('chat_template')}", "choose another template"
    spoken = [task for task in own if any(example.messages for example in task.examples[:limit])]
    if (needs_template or spoken) and not tokenizer.chat_template:
        raise CheckpointError(
            f"model {seat.name}: the examples are `messages` (or {named('chat')}, {named('variant', 'tuned')}), but "
            f"it has no chat template. Give {named('chat_template', 'NAME|FILE|MODEL')}, or examples with a `prompt`."
        )
    if needs_template:
        try:
            render(tokenizer, [{"role": "user", "content": "a"}])
        except RenderingError as error:
            if error.broken:
                raise RenderingError(f"{whose} cannot be rendered: {error}", broken=True) from None
            # What it says to this very message the checks tell, and whoever asks.
    check_written(tokenizer, spoken, whose, remedy, limit)
    found = list(seat.told)
    if others or _generated(own, limit):
        found += score_spoilers.ending_warnings(tokenizer, seat.name)
    if tokenizer.chat_template:
        found += score_spoilers.template_warnings(tokenizer, seat.name)
        found += score_spoilers.end_of_turn_warnings(tokenizer, _ends(seat, tokenizer), seat.name)
    if any(task.kind != "match" for task in spoken):
        found += score_spoilers.answer_warnings(tokenizer, seat.name)
    return Looked(bool(tokenizer.chat_template), found)


def _generated(own: Sequence[OwnTask], limit: int | None) -> bool:
    """Whether prompts are gone on from, to which the tokenizer adds what it adds to any text."""
    return any(task.kind == "match" and any(e.way == "prompt" for e in task.examples[:limit]) for task in own)


def tokenizer_of(seat: Seat) -> Any:
    """The tokenizer that the model is asked with: an adapter's own, where its folder has one. Raises `CheckpointError`."""
    from transformers import AutoTokenizer

    where = _tokenizer_place(seat)
    revision = seat.revision if where == seat.source else None
    try:  # code that comes with a model is not run; None would ask on the terminal
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
    except Exception as error:  # the tokenizers library has no exceptions of its own
        raise CheckpointError(f"model {seat.name}: its tokenizer cannot be loaded: {first_line(error)}") from error
    _speak(tokenizer, seat)
    return tokenizer


def _tokenizer_place(seat: Seat) -> str:
    return seat.adapter if seat.adapter and _files_of(seat.adapter, seat).has_own_vocabulary else seat.source


def _speak(tokenizer: Any, seat: Seat) -> None:
    """Give a base's tokenizer the template of an adapter's folder without a vocabulary."""
    if seat.adapter is not None and _tokenizer_place(seat) == seat.source:
        files = _files_of(seat.adapter, seat)
        template = read_template(files, files.json("tokenizer_config.json") or {})
        if template is not None:
            tokenizer.chat_template = (
                dict(template.texts) if len(template.texts) > 1 else next(iter(template.texts.values()))
            )


def _files_of(adapter: str, seat: Seat) -> SidecarFolder:
    return SidecarFolder("model", seat.name, Path(adapter))


def _ends(seat: Seat, tokenizer: Any) -> set[int]:
    """The ids at which generation stops: the model's own, and the tokenizer's end token, which the harness adds."""
    settings = _generation_settings(seat)
    ends = set(ids_that_end(settings.eos_token_id, f"model {seat.name}: its generation settings"))
    return ends if tokenizer.eos_token_id is None else ends | {int(tokenizer.eos_token_id)}


def _generation_settings(seat: Seat) -> Any:
    """The model's generation settings, as transformers reads them. Raises `CheckpointError`."""
    from transformers import AutoConfig, GenerationConfig

    try:
        try:
            settings = GenerationConfig.from_pretrained(seat.source, revision=seat.revision or "main")
        except OSError:  # no generation_config.json: transformers takes them from the config
            config = AutoConfig.from_pretrained(seat.source, revision=seat.revision, trust_remote_code=False)
            settings = GenerationConfig.from_model_config(config)
    except Exception as error:  # a file of others: transformers raises anything
        raise CheckpointError(
            f"model {seat.name}: its generation settings cannot be read: {first_line(error)}. Correct "
            f"generation_config.json or config.json."
        ) from error
    return settings
