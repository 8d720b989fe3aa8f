"""Families of models: base, tuned and target of each, as tiny checkpoints laid out as their makers' are.

In comes a folder, out comes a `Family`: three checkpoints in it, and what a transfer between them must do to tokens.
Model classes, configs and tokenizers are those of transformers and of the tokenizers library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoeConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
)

from support.family_versions import (
    CHATML,
    DRIFT,
    GENERIC,
    TUNING,
    Family,
    as_float32,
    expert_family,
    gemma_family,
    replace_weights,
    steady,
    write_versions,
)
from support.tiny_models import (
    edit_json,
    perturbed,
    pretrained,
    read_weights,
    with_vocabulary,
    write_json,
    write_weights,
)
from support.tiny_tokenizers import byte_level, sentencepiece_like, vocabulary, write_tokenizer

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(root: Path) -> Family:
    """Llama 3.0 and its instruct model, onto 3.1: rope scaling, and reserved slots that were renumbered."""
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(12)]
    begin, end, eot = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
    header = ["<|start_header_id|>", "<|end_header_id|>"]
    old = byte_level([begin, end, *reserved[:4], *header, reserved[4], eot, *reserved[5:12]], begin)
    new = byte_level(
        [
            begin,
            end,
            *reserved[:2],
            "<|finetune_right_pad_id|>",
            reserved[2],
            *header,
            "<|eom_id|>",
            eot,
            "<|python_tag|>",
            *reserved[3:9],
        ],
        begin,
    )
    ids, new_ids = vocabulary(old), vocabulary(new)
    assert len(ids) == len(new_ids)  # as 3.0 and 3.1 both have 128256
    config = LlamaConfig(
        **SHAPE, num_key_value_heads=2, vocab_size=len(ids), max_position_embeddings=64, rms_norm_eps=1e-5
    )
    start = steady(pretrained(config, root / "base"))
    replace_weights(root / "base", start)
    said = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **SHAPE,
        "num_key_value_heads": 2,
        "vocab_size": len(ids),
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "bos_token_id": ids[begin],
        "eos_token_id": ids[end],
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0",
        "use_cache": True,
    }
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    }
    write_json(root / "base" / "config.json", said)
    write_json(root / "tuned" / "config.json", said | {"eos_token_id": ids[eot]})
    write_json(
        root / "target" / "config.json",
        said | {"rope_scaling": scaling, "max_position_embeddings": 256, "transformers_version": "4.43.0.dev0"},
    )
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.40.0"}
    generation = {"bos_token_id": ids[begin], "eos_token_id": ids[end]}
    write_json(root / "base" / "generation_config.json", {"_from_model_config": True, **generation} | sampling)
    write_json(
        root / "tuned" / "generation_config.json",
        generation | sampling | {"eos_token_id": [ids[end], ids[eot]], "max_length": 64},
    )
    write_json(root / "target" / "generation_config.json", {"_from_model_config": True, **generation} | sampling)
    template = (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] }}<|eot_id|>{% endfor %}"
    )
    behaviour = {"bos_token": begin, "eos_token": end, "model_max_length": 64, **GENERIC}
    write_tokenizer(root / "base", old, behaviour)
    write_tokenizer(root / "tuned", old, behaviour | {"eos_token": eot, "chat_template": template})
    write_tokenizer(root / "target", new, behaviour | {"model_max_length": 256})
    tuned = perturbed(start, 1, TUNING, untouched="embed_tokens")
    tuned["lm_head.weight"][ids[eot], 0] = 1.0  # what it was taught: to end its turn
    write_weights(root / "tuned", tuned, shards=4)
    later = steady(perturbed(with_vocabulary(start, ids, new_ids, len(new_ids), seed=2), 3, DRIFT))
    write_weights(root / "target", later, shards=2)
    (root / "target" / "LICENSE").write_text("LLAMA 3.1 COMMUNITY LICENSE\n")
    (root / "tuned" / "LICENSE").write_text("META LLAMA 3 COMMUNITY LICENSE\n")
    return Family(root, end=eot, untouched=("model.embed_tokens.weight",))


def qwen2(root: Path) -> Family:
    """Qwen 2.5: biases, more rows than tokens, and fewer of them in the target; the tuned model adds two tokens."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
    new_special, extra = [*special, "<|fim_prefix|>"], ["<|user|>", "<|assistant|>"]
    documents = [byte_level(special), byte_level([*special, *extra]), byte_level(new_special)]
    config = Qwen2Config(
        **SHAPE, num_key_value_heads=2, vocab_size=352, max_position_embeddings=128, tie_word_embeddings=False
    )
    write_versions(root, config, documents, rows=(352, 352, 344), start="<|endoftext|>")
    for name, document in zip(("base", "tuned", "target"), documents, strict=True):
        end = "<|im_end|>" if name == "tuned" else "<|endoftext|>"
        behaviour = {"bos_token": None, "eos_token": end, "pad_token": "<|endoftext|>", "unk_token": None}
        behaviour |= {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *(extra if name == "tuned" else [])]}
        template = CHATML.replace("assistant", "<|assistant|>") if name == "tuned" else CHATML
        behaviour |= {"tokenizer_class": "Qwen2Tokenizer", "chat_template": template, "model_max_length": 128}
        write_tokenizer(root / name, document, behaviour, plain=True)
    return Family(root, added=tuple(extra), end="<|im_end|>")


def qwen3(root: Path) -> Family:
    """Qwen 3: norms of queries and keys, heads of their own size, tied; the tokenizer stays what it was."""
    document = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    config = Qwen3Config(
        **SHAPE,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=336,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    write_versions(root, config, [document] * 3, rows=(336, 336, 336), start="<|endoftext|>")
    for name in ("base", "tuned", "target"):
        end = "<|im_end|>" if name == "tuned" else "<|endoftext|>"
        behaviour = {"eos_token": end, "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
        write_tokenizer(root / name, document, behaviour, plain=True)
    (root / "tuned" / "chat_template.jinja").write_text(CHATML)
    return Family(root, tied=True, end="<|im_end|>")


def gemma(root: Path) -> Family:
    """Gemma: tied, no head stored; the tuned model stores the head all the same, as some trainers do."""
    config = GemmaConfig(**SHAPE, num_key_value_heads=1, head_dim=16, vocab_size=392, max_position_embeddings=128)
    return gemma_family(root, config, duplicated=("tuned",))


def gemma2(root: Path) -> Family:
    """Gemma 2: norms before and after, soft caps; here base and target store the tied head a second time."""
    config = Gemma2Config(
        **SHAPE, num_key_value_heads=2, head_dim=16, vocab_size=392, max_position_embeddings=128, sliding_window=16
    )
    return gemma_family(root, config, duplicated=("base", "target"))


def gemma3(root: Path) -> Family:
    """Gemma 3, text: norms of queries and keys, two ropes; the tuned model puts ChatML on unused slots."""
    config = Gemma3TextConfig(
        **SHAPE, num_key_value_heads=2, head_dim=16, vocab_size=400, max_position_embeddings=128, sliding_window=16
    )
    return gemma_family(root, config, slots={"<|im_start|>": "<unused0>", "<|im_end|>": "<unused1>"})


def olmo2(root: Path) -> Family:
    """OLMo 2: norms of queries and keys over all heads; released in float32, tuned in bf16; revisions of one model."""
    special = ["<|endoftext|>", "<|pad|>"]
    document = byte_level(special)
    config = Olmo2Config(**SHAPE, num_key_value_heads=4, vocab_size=352, max_position_embeddings=128)
    write_versions(root, config, [document] * 3, rows=(352, 352, 352), start="<|endoftext|>")
    for name, seed in (("base", 11), ("target", 12)):
        folder = root / name
        replace_weights(folder, {key: as_float32(t, seed) for key, t in read_weights(folder).items()})
        edit_json(folder / "config.json", {"dtype": "float32"})
    base = read_weights(root / "base")
    tuned = {key: tensor.to(torch.bfloat16) for key, tensor in perturbed(base, 1, TUNING).items()}
    replace_weights(root / "tuned", tuned, shards=3)
    for name in ("base", "tuned", "target"):
        behaviour = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>", "tokenizer_class": "GPT2Tokenizer"}
        behaviour |= {"bos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        template = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}{{ eos_token }}"
        write_tokenizer(root / name, document, behaviour | ({"chat_template": template} if name == "tuned" else {}))
    return Family(root, end="<|endoftext|>")


def mistral(root: Path) -> Family:
    """Mistral: control tokens come first and shift every id; the tuned model renames two; a second copy of the weights."""
    first, last = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], ["[control_8]", "[control_9]", "[control_10]"]
    special, gained = [*first, *last], [f"[control_{number}]" for number in range(40, 60)]
    renamed = {"<|im_start|>": "[control_8]", "<|im_end|>": "[control_9]"}
    new_names = {old: new for new, old in renamed.items()}
    documents = [
        sentencepiece_like(special),
        sentencepiece_like([new_names.get(token, token) for token in special]),
        sentencepiece_like([*first, "[TOOL_CALLS]", *gained, *last]),
    ]
    rows = [len(vocabulary(document)) for document in documents]
    config = MistralConfig(**SHAPE, num_key_value_heads=2, vocab_size=rows[0], max_position_embeddings=128)
    write_versions(root, config, documents, rows=rows, start="<s>", names=renamed, end="</s>", tuned_end="<|im_end|>")
    for name, document in zip(("base", "tuned", "target"), documents, strict=True):
        behaviour = {"bos_token": "<s>", "unk_token": "<unk>", "eos_token": "<|im_end|>" if name == "tuned" else "</s>"}
        behaviour |= {"chat_template": CHATML} if name == "tuned" else {}
        write_tokenizer(root / name, document, behaviour | {"tokenizer_class": "LlamaTokenizer", "legacy": False})
    other = {f"layers.{place}": tensor for place, tensor in enumerate(read_weights(root / "target").values())}
    from safetensors.torch import save_file

    for name in ("base", "target"):
        save_file(other, root / name / "consolidated.safetensors", metadata={"format": "pt"})
        write_json(root / name / "params.json", {"dim": 32})
    return Family(root, renamed=renamed, end="<|im_end|>")


def mixtral(root: Path) -> Family:
    """Mixtral: experts, with routers kept in float32 by whoever tuned and released it."""
    config = MixtralConfig(
        **SHAPE, num_key_value_heads=2, vocab_size=384, max_position_embeddings=128, num_local_experts=4
    )
    return expert_family(root, config, r"\.gate\.weight$")


def qwen2_moe(root: Path) -> Family:
    """Qwen 2 MoE: experts beside a shared one with a gate of its own."""
    config = Qwen2MoeConfig(
        **SHAPE,
        num_key_value_heads=2,
        vocab_size=384,
        max_position_embeddings=128,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
    )
    return expert_family(root, config, r"\.mlp\.gate\.weight$")


def olmoe(root: Path) -> Family:
    """OLMoE: experts, and norms of queries and keys."""
    config = OlmoeConfig(
        **SHAPE,
        num_key_value_heads=4,
        vocab_size=384,
        max_position_embeddings=128,
        num_experts=4,
        num_experts_per_tok=2,
    )
    return expert_family(root, config, r"\.mlp\.gate\.weight$")


def gpt2(root: Path) -> Family:
    """GPT-2: Conv1D (weights lie transposed), learned positions, tied; the tuned model adds a padding token."""
    documents = [byte_level(["<|endoftext|>"]), byte_level(["<|endoftext|>", "[PAD]"]), byte_level(["<|endoftext|>"])]
    config = GPT2Config(vocab_size=321, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    write_versions(root, config, documents, rows=(321, 322, 321), start="<|endoftext|>")
    for name, document in zip(("base", "tuned", "target"), documents, strict=True):
        behaviour = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        behaviour |= {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64}
        behaviour |= {"pad_token": "[PAD]"} if name == "tuned" else {}
        write_tokenizer(root / name, document, behaviour, plain=True)
    return Family(root, tied=True, added=("[PAD]",), end="<|endoftext|>")


def phi3(root: Path) -> Family:
    """Phi-3: queries, keys and values in one matrix, gate and up in another."""
    document = sentencepiece_like(
        ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|end|>"]
    )
    rows = len(vocabulary(document)) + 5
    config = Phi3Config(
        **SHAPE,
        num_key_value_heads=2,
        vocab_size=rows,
        max_position_embeddings=128,
        pad_token_id=3,
        tie_word_embeddings=False,
    )
    write_versions(
        root, config, [document] * 3, rows=(rows,) * 3, start="<s>", end="<|endoftext|>", tuned_end="<|end|>"
    )
    for name in ("base", "tuned", "target"):
        behaviour = {
            "bos_token": "<s>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<unk>",
            "pad_token": "<|endoftext|>",
        }
        write_tokenizer(root / name, document, behaviour | {"tokenizer_class": "LlamaTokenizer", "legacy": False})
    return Family(root, end="<|end|>")


def gpt_neox(root: Path) -> Family:
    """GPT-NeoX: embed_in and embed_out, biases everywhere; tuning and the new version each put a token in the middle."""
    end, pad = "<|endoftext|>", "<|padding|>"
    documents = [
        byte_level(special, first=True) for special in ([end, pad], [end, "<|user|>", pad], [end, pad, "<|sep|>"])
    ]
    config = GPTNeoXConfig(**SHAPE, vocab_size=336, max_position_embeddings=128, tie_word_embeddings=False)
    write_versions(root, config, documents, rows=(336, 336, 336), start="<|endoftext|>")
    for name, document in zip(("base", "tuned", "target"), documents, strict=True):
        behaviour = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        write_tokenizer(root / name, document, behaviour | GENERIC)
    return Family(root, added=("<|user|>",), end="<|endoftext|>")


FAMILIES: Mapping[str, Callable[[Path], Family]] = {
    build.__name__: build
    for build in (
        llama,
        qwen2,
        qwen3,
        gemma,
        gemma2,
        gemma3,
        olmo2,
        mistral,
        mixtral,
        qwen2_moe,
        olmoe,
        gpt2,
        phi3,
        gpt_neox,
    )
}


def folder_digest(folder: Path) -> str:
    """Names and bytes of everything in a folder."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(json.dumps([str(path.relative_to(folder)), path.stat().st_size]).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
