"""Which tensors of a checkpoint have one row per token: the embedding, and the head that may be tied to it.

In comes a tensor's name, out comes what it is. Position embeddings (wpe, embed_positions) are none of them.
"""

from __future__ import annotations

import re

EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|tok_embeddings|word_embeddings)\.weight$")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.(weight|bias)$|^output\.weight$|(^|\.)final_logits_bias$")


def is_vocabulary(name: str) -> bool:
    """Whether a tensor has one row per token."""
    return bool(EMBEDDING.search(name) or HEAD.search(name))


def is_head_weight(name: str) -> bool:
    """Whether a tensor is the output matrix, which may be tied to the embedding."""
    return bool(HEAD.search(name)) and name.endswith(".weight")
