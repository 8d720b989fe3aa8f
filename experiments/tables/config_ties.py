"""Which field of a config ties the embedding and the head of a model, asked of the model classes.

Nearly always it is the config's own ``tie_word_embeddings``. Where the class around a language model ties nothing itself,
models without weights are built, and the field is the one that changes what is tied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto

FIELD = "tie_word_embeddings"


def deciding(config_class: type[PreTrainedConfig], families: Iterable[str], parts: Iterable[str]) -> str | None:
    """The dotted field that ties, or None where embedding and head are always apart.

    ``families`` are the auto classes to look for the config's models in, as transformers names their mappings.
    """
    models = [model for family in families for model in _models_of(config_class, family)]
    if not models or any(model._tied_weights_keys for model in models):
        return FIELD
    all_built = [
        built for model_class in dict.fromkeys(models) if (built := _built(model_class, config_class)) is not None
    ]
    for built in all_built:
        for name in parts:
            part = getattr(built.config, name, None)
            if part is None:
                continue
            before = getattr(part, FIELD, None)
            ties = set()
            for value in (True, False):
                setattr(part, FIELD, value)
                ties.add(len(built.get_expanded_tied_weights_keys(all_submodels=True)))
            setattr(part, FIELD, before)
            if len(ties) > 1:
                return f"{name}.{FIELD}"
    return None if all_built else FIELD


def _models_of(config_class: type[PreTrainedConfig], family: str) -> list[Any]:
    mapping = getattr(modeling_auto, f"MODEL_FOR_{family}_MAPPING")
    if config_class not in mapping:
        return []
    found = mapping[config_class]
    return list(found) if isinstance(found, list | tuple) else [found]


def _built(model_class: Any, config_class: type[PreTrainedConfig]) -> Any:
    try:
        with torch.device("meta"):
            return model_class(config_class())
    except Exception:  # a default config that is no model (a part is missing); each class fails in its own way
        return None
