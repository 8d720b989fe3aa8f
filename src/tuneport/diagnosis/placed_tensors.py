"""Where a checkpoint's tensors are in the model that transformers loaded from it, so that they can be overwritten in
place.

transformers may split, join or leave out some while loading; such models are refused, not measured wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tuneport.files.printable import quoted


def placed(model: Any, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """The model's parameter or buffer of each tensor (its name and shape), as one row; those without a place are left out."""
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    prefix = f"{model.base_model_prefix}."
    places: dict[str, Any] = {}
    for name, shape in tensors:
        for spelling in (name, prefix + name, name.removeprefix(prefix)):
            found = own.get(spelling)
            if found is not None and tuple(found.shape) == shape and found.is_contiguous():
                places[name] = found.detach().view(-1)
                break
    return places


def without_tensor(model: Any, places: Iterable[Any]) -> list[str]:
    """Messages for parameters of the model that no tensor fills."""
    filled = {place.data_ptr() for place in places}
    return [
        f"the model's {quoted(name)} is not in the checkpoint"
        for name, parameter in model.named_parameters()
        if parameter.data_ptr() not in filled
    ]


def without_place(names: Iterable[str]) -> list[str]:
    """Messages for tensors that the model lacks."""
    return [f"{quoted(name)} is not in the model" for name in names]


def otherwise(names: Iterable[str]) -> list[str]:
    """Messages for tensors whose values in the model differ from the checkpoint."""
    return [f"{quoted(name)} differs from the checkpoint's" for name in names]


def is_held(place: Any, start: int, wanted: Any) -> bool:
    """Whether the place holds these float32 numbers from its element ``start`` on, bit by bit; a shorter dtype that can hold
    them will do.
    """
    import torch

    numbers = torch.from_numpy(wanted)
    held = place[start : start + numbers.numel()].cpu().float()
    return torch.equal(held.view(torch.int32), numbers.view(torch.int32))
