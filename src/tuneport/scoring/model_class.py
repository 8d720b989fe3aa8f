"""Which class of transformers a start is loaded with, and whether it can be trained as a language model at all.

In comes a checkpoint, out comes its config as transformers reads it, and the class. Nothing is loaded here.
"""

from __future__ import annotations

from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.errors import CheckpointError


def read_config(start: Checkpoint) -> Any:
    """The start's config, as transformers reads it. Raises `CheckpointError` for what is no language model of one part."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(start.path, trust_remote_code=False)
    except Exception as error:  # transformers' own, of a dozen kinds
        raise CheckpointError(f"{start.label}: transformers cannot read its config.json: {first_line(error)}") from None
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"{start.label} (`{config.model_type}`) has an encoder and a decoder; tune trains models that go on with a text, "
            "those of one decoder."
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
    """What an error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
