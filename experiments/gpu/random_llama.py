"""A Llama with random weights, and a later version of it, made where they are needed: nothing of them is carried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuneport.families import versions, word_tokenizers

_NOISE = 0.002  # of the later version; the weights themselves have a spread of 0.02
_SEED = 0


def make_llamas(base: Path, target: Path, fields: Mapping[str, int], device: str) -> int:
    """Write both in bfloat16, drawn on ``device``, with the lab's tokenizer of words. Returns the number of parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizers.tokenizer_of(versions.words())
    config = LlamaConfig(
        **fields,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(_SEED)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    for folder in (base, target):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += _NOISE * torch.randn_like(parameter)
    return sum(parameter.numel() for parameter in model.parameters())
