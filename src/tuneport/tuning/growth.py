"""Add rows for new tokens to every tensor of a model that has one row per token.

Names do not identify these tensors (embedding, head, a head's bias, per-layer embeddings): the class is built twice
without weights, once with a larger vocabulary, and the tensors that differ have a row per token. Transformers resizes
most of them. If it misses one, the output could not be loaded, so the run is refused before training.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.errors import TrainingError, named
from tuneport.files.printable import quoted
from tuneport.scoring.model_class import read_config

_SIZE = "vocab_size"
Field = tuple[str, ...]  # names on the way to a field of a config


@dataclass(frozen=True)
class TokenRows:
    """A tensor that counts tokens: along which dimension, and how many."""

    name: str
    axis: int
    size: int


def give_rows(model: Any, label: str, ids: Sequence[int], tokens: int) -> None:
    """Make room for new tokens at ``ids`` (padded rows are used up first), and let their rows begin as the others' mean.

    ``tokens`` is the size of the tokenizer. Raises `TrainingError` where the model cannot hold them.
    """
    import torch

    counted = _counted(model, label)
    _check_alike(counted, label, ids)
    size, wanted = min(one.size for one in counted), max(ids) + 1
    if wanted > size:
        model.resize_token_embeddings(wanted, mean_resizing=False)
        stuck = [one.name for one in counted if _shapes(model).get(one.name, ())[one.axis : one.axis + 1] != (wanted,)]
        if stuck:
            raise TrainingError(
                f"{label}: transformers gives {_listed(stuck)} no rows for new tokens, so the output could not be "
                f"loaded. Choose a {named('chat_template')} and an {named('end_token')} whose tokens the model has."
            )
    old = torch.tensor([id for id in range(min(size, tokens)) if id not in set(ids)])
    with torch.no_grad():
        for one in counted:
            tensor = dict(_tensors(model))[one.name]
            if tensor.is_floating_point():
                mean = tensor.index_select(one.axis, old).mean(dim=one.axis, keepdim=True)
                tensor.index_copy_(
                    one.axis, torch.tensor(list(ids)), mean.expand(_with(tensor.shape, one.axis, len(ids)))
                )


def grown_config(start: Checkpoint, model: Any) -> dict[str, Any]:
    """The start's config.json with the sizes of the vocabulary that the model has now.

    Where the file is flat and the class's config nested (or the other way round), a size goes where the file has it.
    """
    found: dict[str, Any] = copy.deepcopy(dict(start.config))
    before = dict(_sizes(read_config(start).to_dict()))
    for path, size in _sizes(model.config.to_dict()):
        if before.get(path) == size:
            continue
        holder = found
        for part in path[:-1]:
            holder = holder[part] if isinstance(holder.get(part), dict) else holder
        holder[path[-1]] = size
        if len(path) > 1 and path[-1] in found:
            found[path[-1]] = size
    return found


def check_config(start: Checkpoint, model: Any) -> None:
    """Raise `TrainingError` where the config.json that will be written would make a model of other shapes."""
    with TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(grown_config(start, model)), encoding="utf-8")
        made = _empty(type(model), read_config(replace(start, path=Path(place))))
    shapes, wanted = _shapes(model), _shapes(made)
    wrong = [name for name, shape in shapes.items() if wanted.get(name) != shape]
    if wrong:
        raise TrainingError(
            f"{start.label}: with new tokens, its config.json cannot hold the size of {_listed(wrong)}, so the output "
            f"could not be loaded. Choose a {named('chat_template')} and an {named('end_token')} whose tokens the "
            f"model has."
        )


def counted_elsewhere(model: Any, label: str) -> list[str]:
    """Tensors that count tokens and are no part of the embedding or the head: an adapter brings no rows for them."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    own = {id(tensor) for layer in layers for tensor in layer.parameters()}
    tensors = dict(_tensors(model))
    return [one.name for one in _counted(model, label) if id(tensors[one.name]) not in own]


def _counted(model: Any, label: str) -> list[TokenRows]:
    """Every tensor of the model that counts tokens."""
    larger = copy.deepcopy(model.config)
    text = larger.get_text_config()
    size = text.vocab_size
    for config in {id(config): config for config in (larger, text)}.values():
        for name, value in list(config.to_dict().items()):
            if isinstance(value, int) and (name.startswith(_SIZE) or (_SIZE in name and value == size)):
                setattr(config, name, value + 1)
    shapes, found = _shapes(model), []
    for name, shape in _shapes(_empty(type(model), larger)).items():
        axes = [
            axis for axis, (one, other) in enumerate(zip(shapes.get(name, ()), shape, strict=False)) if one != other
        ]
        if axes:
            found.append(TokenRows(name, axes[0], shapes[name][axes[0]]))
    if not found:
        raise TrainingError(f"{label}: none of its tensors has a row per token, so tokens cannot be added.")
    return found


def _check_alike(counted: Sequence[TokenRows], label: str, ids: Sequence[int]) -> None:
    """A token is known to all of these tensors or to none: some models have ids that only a part of them knows."""
    short = [one for one in counted if one.size <= max(ids)]
    if short and len({one.size for one in counted}) > 1:
        sizes = ", ".join(f"{one.size} in {quoted(one.name)}" for one in counted)
        raise TrainingError(
            f"{label} has vocabularies of different sizes ({sizes}), but the new tokens would have the ids {min(ids)} "
            f"to "
            f"{max(ids)}. Choose a {named('chat_template')} and an {named('end_token')} whose tokens the model has."
        )


def _empty(kind: Any, config: Any) -> Any:
    """A model without weights."""
    import torch

    with torch.device("meta"):
        return kind(copy.deepcopy(config))


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _tensors(model)}


def _sizes(config: Mapping[str, Any], path: Field = ()) -> Iterator[tuple[Field, int]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _sizes(value, (*path, name))
        elif isinstance(value, int) and _SIZE in str(name):
            yield (*path, name), value


def _with(shape: Any, axis: int, size: int) -> list[int]:
    return [*shape[:axis], size, *shape[axis + 1 :]]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(quoted(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
