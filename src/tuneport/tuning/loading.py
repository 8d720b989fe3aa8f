"""Load the start as a model to train: the class that its config names, in float32, with rows for new tokens, without
dropout.

A multimodal start is loaded in full; only its text part is trained, since the data are text. A model that cannot be
trained as a language model (an encoder-decoder, or a model that sees later tokens) is refused with a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneport.errors import CheckpointError, TrainingError, named
from tuneport.scoring.model_class import first_line, model_class, read_config
from tuneport.tuning.growth import check_config, counted_elsewhere, give_rows
from tuneport.tuning.prepare import Prepared


def load_model(prepared: Prepared) -> Any:
    """The start, ready to be given to a trainer. Raises `TrainingError`.

    A new token begins as the mean of all the others: near nothing in particular, and the same in every run.
    """
    start = prepared.start
    model = _loaded(prepared)
    if new := [prepared.tokenizer.convert_tokens_to_ids(token) for token in prepared.chat.new_tokens]:
        before = dict(_rows(model))
        give_rows(model, start.label, new, len(prepared.tokenizer))
        check_config(start, model)
        if (
            prepared.lora is not None
            and before != dict(_rows(model))
            and (more := counted_elsewhere(model, start.label))
        ):
            raise TrainingError(
                f"{named('lora')}: {start.label} also needs rows for {', '.join(prepared.chat.new_tokens)} in "
                f"{', '.join(more)}, which an adapter cannot add. Train all parameters, or choose a template whose "
                f"tokens the model has."
            )
    _check_looks_back(model, start.label)
    if prepared.text_only:
        freeze_all_but_text(model)
    _switch_dropout_off(model)
    return model


def freeze_all_but_text(model: Any) -> None:
    """Towers and projectors stay as they are: text says nothing about them."""
    trained = {id(parameter) for parameter in text_parameters(model)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def text_parameters(model: Any) -> list[Any]:
    """The parameters of a multimodal model's text part, with embedding and head."""
    parts = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    return [parameter for part in parts if part is not None for parameter in part.parameters()]


def narrow_frozen_weights(model: Any) -> None:
    """Hold the frozen weights of an adapter's linear layers in bfloat16, where that loses no bit of them.

    For computation in bfloat16 alone, which rounds the inputs and weights of linear layers to it: the results are the same,
    and most of a model takes half the memory. Weights that are trained, saved with the adapter or tied to the embedding stay.
    """
    import torch
    from peft.utils.other import AuxiliaryTrainingWrapper

    wrapped = (module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper))
    others = [*wrapped, *(module for module in model.modules() if isinstance(module, torch.nn.Embedding))]
    kept = {id(parameter) for module in others for parameter in module.parameters()}
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear) or type(module).forward is not torch.nn.Linear.forward:
            continue
        weight = module.weight
        if weight.requires_grad or id(weight) in kept or weight.dtype != torch.float32:
            continue
        narrow = weight.detach().bfloat16()
        if torch.equal(narrow.float(), weight.detach()):
            weight.data = narrow


def other_modules(model: Any) -> list[str]:
    """The outermost modules of a multimodal model that have nothing of its text part in them."""
    text = {id(parameter) for parameter in text_parameters(model)}
    found: list[str] = []
    for name, module in model.named_modules():
        own = [id(parameter) for parameter in module.parameters()]
        if name and own and text.isdisjoint(own) and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


def _loaded(prepared: Prepared) -> Any:
    import torch

    start = prepared.start
    try:
        config = read_config(start)
        told: Mapping[str, Any]
        model, told = model_class(config).from_pretrained(
            start.path, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:  # transformers', safetensors' and the Hub client's, of a dozen kinds
        raise TrainingError(f"transformers cannot load {start.label} for training: {first_line(error)}") from None
    lacking = sorted(told["missing_keys"])
    if lacking:
        raise TrainingError(
            f"{start.label} lacks {len(lacking)} tensor(s) of its architecture, the first: {lacking[0]}."
        )
    return model


def _rows(model: Any) -> Any:
    return ((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def _check_looks_back(model: Any, label: str) -> None:
    """An encoder (BERT without `is_decoder`) sees the tokens that it is to predict; its loss would mean nothing."""
    import torch

    if getattr(model.config, "is_decoder", True):
        return
    ids = torch.arange(4, 12)[None]
    other = ids.clone()
    other[0, -1] += 1
    try:
        with torch.no_grad():
            one, two = (model.eval()(input_ids=each).logits[0, :-1] for each in (ids, other))
    except Exception:  # whatever such a class wants beside its text: training says so
        return
    if not torch.allclose(one, two, rtol=1e-3, atol=1e-4 * float(one.abs().max())):
        raise TrainingError(
            f"{label} is not a decoder (its config has `is_decoder`: false), so it cannot learn to generate. Set it "
            f"to true in config.json if the model is a decoder."
        )


def _switch_dropout_off(model: Any) -> None:
    """Section 3.1 trains without dropout. The config that is saved keeps what it says."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
                setattr(module, name, 0.0)
