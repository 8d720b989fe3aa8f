"""Sidecars of three models as transformers wrote them, and their merge. (Tests of each part lie beside this.)"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, pre_tokenizers

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.sidecars.merge import Sidecars, merge_sidecars
from tuneport.sidecars.three_way import Three
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.token_changes import TokenChanges
from tuneport.tokenizer.tokenizer import Tokenizer, read_tokenizer

WORDS = ["<unk>", "<s>", "</s>", "a", "b"]
TEMPLATE = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
OTHER_TEMPLATE = "{% for m in messages %}<|im_end|>{{ m.content }}{% endfor %}"


def write(folder: Path, files: Mapping[str, Any]) -> SidecarFolder:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return SidecarFolder(folder.name, f"the-{folder.name}", folder)


def tokenizer_json(words: list[str], special: list[str]) -> str:
    tokenizer = RustTokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *special])
    return tokenizer.to_str()


def decoder(tokenizer: str) -> dict[str, Any]:
    entries = json.loads(tokenizer)["added_tokens"]
    return {str(entry.pop("id")): entry for entry in entries}


def model(words: list[str] = WORDS, special: list[str] | None = None, **files: Any) -> dict[str, Any]:
    """The sidecars of a model as transformers 4 wrote them."""
    tokenizer = tokenizer_json(words, special or [])
    ids = {word: id for id, word in enumerate(words)}
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    contents: dict[str, Any] = {
        "config.json": {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "num_attention_heads": 4,
            "bos_token_id": ids["<s>"],
            "eos_token_id": ids["</s>"],
            "rope_theta": 500000.0,
            "rope_scaling": None,
            "torch_dtype": "bfloat16",
            "vocab_size": 16,
        },
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {
            "added_tokens_decoder": decoder(tokenizer),
            **named,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 1000000000000000019884624838656,
        },
        "special_tokens_map.json": dict(named),
    }
    for name, content in files.items():
        file = name.replace("__", ".")
        if content is None:
            contents.pop(file, None)
        elif isinstance(content, dict) and file in contents:
            contents[file] = {**contents[file], **content}
        else:
            contents[file] = content
    return contents


def merge(
    root: Path,
    base: Mapping[str, Any],
    tuned: Mapping[str, Any],
    target: Mapping[str, Any],
    changes: TokenChanges | None = None,
    tokenizers: bool = False,
    config: Mapping[str, str] | None = None,
    sidecar: Mapping[str, str] | None = None,
    dtype: str | None = None,
    rows: Mapping[int, int] | None = None,
    without_row: Collection[str] = (),
) -> Sidecars:
    folders = [
        write(root / name, files)
        for name, files in zip(("base", "tuned", "target"), (base, tuned, target), strict=True)
    ]
    read: tuple[Tokenizer, Tokenizer, Tokenizer] | None = None
    if tokenizers:
        read = (read_tokenizer(folders[0]), read_tokenizer(folders[1]), read_tokenizer(folders[2]))
    names = TokenNames(read, changes or TokenChanges(), without_row=without_row)
    return merge_sidecars(Three(*folders), names, config or {}, sidecar or {}, dtype, rows or {})


def json_of(sidecars: Sidecars, name: str) -> Any:
    return json.loads(content_of(sidecars, name))


def content_of(sidecars: Sidecars, name: str) -> bytes:
    content = sidecars.files[name]
    return content.read_bytes() if isinstance(content, Path) else content


def put(sidecars: Sidecars, folder: Path) -> Path:
    folder.mkdir()
    for name in sidecars.files:
        (folder / name).write_bytes(content_of(sidecars, name))
    return folder


def decided(sidecars: Sidecars, subject: str) -> str:
    return {one.subject: one.choice for one in sidecars.decisions}[subject]
