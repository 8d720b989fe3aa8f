"""Save a fine-tuned model as an ordinary checkpoint, or an adapter, with the small files of the model it came from.

Files differ from the start's only where the fine-tuning changed something: weights, rows for new tokens, the template,
the end token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.reading import reading
from tuneport.checkpoint.small_files import LICENCE_PREFIXES, PROCESSOR_FILES, TOKENIZER_FILES
from tuneport.examples.conversation_template import Chat
from tuneport.files.json_text import read_json
from tuneport.files.opening import check_file, read_text
from tuneport.files.writing import write_new
from tuneport.scoring.model_class import ids_that_end
from tuneport.sidecars.dtype_and_sizes import set_dtype
from tuneport.tuning.growth import grown_config
from tuneport.tuning.stored_dtype import CastLoss, as_stored, cast_loss


def save_model(
    folder: Path,
    model: Any,
    state: Mapping[str, Any],
    tokenizer: Any,
    start: Checkpoint,
    chat: Chat,
    *,
    dtype: str | None,
    shard_size: str,
) -> CastLoss:
    """Write weights, config, generation config, tokenizer and licence to ``folder``; what storing the weights took.

    With ``dtype`` (torch's name) tensors of the start's main dtype are stored in it; others (a router in float32) stay.
    """
    named = _by_the_starts_names(model, state)
    stored = as_stored(named, start, dtype)
    written = {**stored, **_unread(start, model, state)}
    model.save_pretrained(folder, state_dict=written, max_shard_size=shard_size, save_original_format=False)
    share_weights(folder)
    _write_config(folder, model, start, chat, dtype)
    _write_generation_config(folder, start, chat)
    save_tokenizer(folder, tokenizer, start, chat)
    for file in start.path.iterdir():
        licence = file.name.upper().startswith(LICENCE_PREFIXES)
        if (licence or file.name in PROCESSOR_FILES) and check_file(file, start.path):
            write_new(folder / file.name, file)
    return cast_loss(named, stored, start)


def save_adapter(
    folder: Path, model: Any, state: Mapping[str, Any], tokenizer: Any, start: Checkpoint, chat: Chat
) -> None:
    """Write the adapter that peft made; the start is named by its Hub id or its folder's name, never by a path."""
    name = start.hub_id or start.label
    for config in model.peft_config.values():
        config.base_model_name_or_path = name
        config.revision = start.revision if start.hub_id else None
        for field, value in vars(config).items():
            if isinstance(value, set):  # names of modules, which peft would write in another order in every process
                setattr(config, field, sorted(value))
    # Where rows were added, peft keeps the whole embedding; it is not asked to find that out, which goes to the Hub.
    grown = grown_config(start, model.get_base_model()) != start.config
    model.save_pretrained(folder, state_dict=state, save_embedding_layers=grown)
    share_weights(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty form of a model card
    if chat.new_tokens or chat.sets_end:
        save_tokenizer(folder, tokenizer, start, chat)
    if chat.sets_end:  # else a transfer would carry the template, and not that generation stops where it ends a turn
        _write_generation_config(folder, start, chat)


def share_weights(folder: Path) -> None:
    """Give weights the permissions of the JSON files beside them: safetensors makes its files for their owner alone."""
    usual = next(folder.glob("*config.json")).stat().st_mode
    for file in folder.glob("*.safetensors"):
        file.chmod(usual)


def save_tokenizer(folder: Path, tokenizer: Any, start: Checkpoint, chat: Chat) -> None:
    """Write the tokenizer: the start's very files where nothing changed, its vocabulary's where no token is new."""
    if chat.new_tokens or chat.sets_end:
        tokenizer.save_pretrained(folder)
        _forget_the_place(folder / "tokenizer_config.json")
    names = [] if chat.new_tokens else [*TOKENIZER_FILES]
    if not chat.sets_end and not chat.new_tokens:
        names += ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"]
    for name in names:
        if check_file(start.path / name, start.path):
            write_new(folder / name, start.path / name)


def _forget_the_place(path: Path) -> None:
    """transformers notes whether it read a folder and was offline, so the same fine-tuning would not be the same bytes."""
    settings = read_json(read_text(path, path.parent))
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def stops_of(settings: Mapping[str, Any]) -> list[int]:
    """The tokens that a config or generation config lets generation stop at. Raises `CheckpointError` for what is none."""
    return ids_that_end(settings.get("eos_token_id"), "the model's config or generation config")


def _by_the_starts_names(model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """The model's tensors under the names, and in the shapes, that transformers found in the start."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    named: dict[str, Any] = revert_weight_conversion(model, remove_tied_weights_from_state_dict(dict(state), model))
    return named


def _unread(start: Checkpoint, model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of the start that its class has no place for (layers that predict further tokens): they stay as they are."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    everything = dict(state)
    for name, source in model.all_tied_weights_keys.items():
        everything.setdefault(name, everything.get(source))
    empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in everything.items() if tensor is not None}
    read = revert_weight_conversion(model, empty).keys()
    found = {}
    with reading(start) as reader:
        for name, tensor in start.tensors.items():
            if name not in read:
                content = torch.empty(tensor.shape, dtype=getattr(torch, DTYPES[tensor.dtype].torch))
                reader.read_into(tensor, 0, content.reshape(-1).view(torch.uint8).numpy().data)
                found[name] = content
    return found


def _write_config(folder: Path, model: Any, start: Checkpoint, chat: Chat, dtype: str | None) -> None:
    """The start's config, with the rows that were added, the token that ends an answer, and the dtype if one is asked for."""
    config = grown_config(start, model)
    if dtype is not None:
        set_dtype(config, dtype)
    if chat.sets_end and chat.end_id not in stops_of(config):
        config["eos_token_id"] = chat.end_id
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _write_generation_config(folder: Path, start: Checkpoint, chat: Chat) -> None:
    """The start's, with the end-of-turn token first among those that generation stops at."""
    path = folder / "generation_config.json"
    path.unlink(missing_ok=True)  # what transformers made of the model, and of what the trainer did to it
    kept = start.sidecars.json("generation_config.json")
    if kept is None and not chat.sets_end:
        return
    settings = dict(kept or {})
    before = stops_of(settings) or stops_of(start.config)
    if chat.sets_end and chat.end_id is not None and chat.end_id not in before:
        settings["eos_token_id"] = [chat.end_id, *before] if before else chat.end_id
        # Transformers 4 takes config.json's end token instead, where a file says that it was made of that config.
        settings.pop("_from_model_config", None)
    path.write_text(json.dumps(settings, indent=2) + "\n")
