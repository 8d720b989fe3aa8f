"""Tensors that a model computes itself but some checkpoints store: rotary frequencies, causal masks, position ids.

Releases of transformers 4 before 4.31 saved them, and so did tools that copied their files. Today's classes do not load
them (each name below is a buffer that transformers builds and does not save), so nothing depends on them.
"""

from __future__ import annotations

import re

from tuneport.checkpoint.weights import StoredTensor

_COMPUTED = re.compile(
    r"(^|[._])(inv_freq|masked_bias|cos_cached|sin_cached|freqs_cis|position_ids|token_type_ids)$"
    r"|(^|\.)(embed_positions\.weights|attn\.embed_positions|embed_scale|pos_encoding)$"
)
_CAUSAL_MASK = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention|transformer)\.bias$")


def is_computed_buffer(tensor: StoredTensor) -> bool:
    """Whether the model computes this tensor itself."""
    return is_computed(tensor.name, tensor.shape)


def is_computed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this name and shape is such a buffer. A causal mask differs from a bias by its shape: …×n×n."""
    if _COMPUTED.search(name):
        return True
    square = len(shape) >= 2 and shape[-1] == shape[-2]
    return square and _CAUSAL_MASK.search(name) is not None
