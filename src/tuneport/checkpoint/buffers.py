"""Tensors that a model computes itself and that some checkpoints store all the same: rotary frequencies, causal masks, position ids.

Releases of transformers 4 before 4.31 saved them, and so did the tools that copied their files. Today's classes do not load
them (each of the names below is a buffer that transformers builds and does not save), so nothing depends on them.
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
    """Whether the model computes this tensor itself. A causal mask is told from a bias by its shape: …×n×n."""
    if _COMPUTED.search(tensor.name):
        return True
    square = len(tensor.shape) >= 2 and tensor.shape[-1] == tensor.shape[-2]
    return square and _CAUSAL_MASK.search(tensor.name) is not None
