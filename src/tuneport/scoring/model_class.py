"""Which class of transformers loads a model, and whether it can be trained as a language model.

Returns the config as transformers reads it, and the class. Nothing is loaded here.
"""

from __future__ import annotations

from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.errors import CheckpointError
from tuneport.files.printable import quoted


def read_config(start: Checkpoint) -> Any:
    """The start's config, as transformers reads it. Raises `CheckpointError` unless it is a decoder-only language
    model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(start.path, trust_remote_code=False)
    except Exception as error:  # transformers' own, of a dozen kinds
        raise CheckpointError(f"{start.label}: transformers cannot read its config.json: {first_line(error)}") from None
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"{start.label} ({quoted(config.model_type)}) is an encoder-decoder model; `tune` only trains "
            f"decoder-only models."
        )
    return config


def is_multimodal(config: Any) -> bool:
    """Whether a model has other parts beside its text part."""
    return config.get_text_config() is not config


def model_class(config: Any) -> Any:
    """The class that loads a model: the one that its config names, where that one writes text, else transformers' choice.

    `AutoModelForCausalLM` would load the text part alone of some multimodal kinds, and of others nothing.
    """
    import transformers
    from transformers.models.auto import modeling_auto as auto

    for named in config.architectures or ():
        own: Any = getattr(transformers, named, None) if isinstance(named, str) else None
        is_model = isinstance(own, type) and issubclass(own, transformers.PreTrainedModel)
        if is_model and own.config_class is type(config) and own.can_generate():
            return own
    if is_multimodal(config) and type(config) in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def first_line(error: Exception) -> str:
    """The first line of an error; its name if it has no message."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


def ids_that_end(given: Any, where: str) -> list[int]:
    """The tokens at which generation stops, from `eos_token_id`. Raises `CheckpointError` for invalid ids."""
    listed = given if isinstance(given, list) else [] if given is None else [given]
    if not all(type(each) is int for each in listed):
        raise CheckpointError(
            f"{where}: `eos_token_id` is {str(given)[:60]!r}, not a token id or a list of these. Correct it."
        )
    return list(listed)
