"""What reads files of others, each as a function of one file's bytes: for the fuzzer, and for the inputs that it has found.

Nothing here imports torch or pytest: the fuzzer runs in an environment of its own.
"""

from __future__ import annotations

import base64
import functools
import json
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.checkpoint.weights import tensors_of_file
from tuneport.diffvector.run import diff, plan_of
from tuneport.engine.checks.before_writing import look
from tuneport.engine.choices import Choices
from tuneport.output.journal import Journal, can_be_discarded
from tuneport.tokenizer.tokenizer import read_sections, read_tokenizer

PLAN = {"format": "x", "choices": {"scale": 1.0}}
WORDS = {word: id for id, word in enumerate(["w0", "w1", "w2", "w1w2", "a", "b"])}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [{"id": 6, "content": "<end>", "special": True, "normalized": False}],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "BPE", "vocab": WORDS, "merges": [["w1", "w2"]], "unk_token": None},
}
JOURNAL = [
    {"plan": PLAN},
    {"run": {"pid": 1, "host": "h", "began": "x"}},
    {"tensor": "a", "leaf": 0, "digest": "00" * 32, "sums": [(1.5).hex()] * 9, "nonfinite": 0},
]


def header(data: bytes, place: Path) -> None:
    """The header of a safetensors file."""
    tensors_of_file("model.safetensors", len(data), lambda start, count: data[start : start + count], "base")


def tokenizer(data: bytes, place: Path) -> None:
    """A tokenizer's files: which of them, the first byte says."""
    names = ("tokenizer.json", "vocab.json", "added_tokens.json", "tokenizer_config.json", "tokenizer.model")
    (place / names[data[0] % len(names)] if data else place / names[0]).write_bytes(data[1:])
    (place / "merges.txt").write_text("#version: 0.2\nw1 w2\n")
    if data and data[0] % len(names) in (2, 3):
        (place / "vocab.json").write_text(json.dumps(WORDS))
    folder = SidecarFolder("base", "model", place)
    read_tokenizer(folder)
    read_sections(folder)


def journal(data: bytes, place: Path) -> None:
    """The journal of an unfinished output."""
    (place / "journal.jsonl").write_bytes(data)
    can_be_discarded(place, PLAN)
    Journal(place, PLAN).close()


def of_diff(data: bytes, place: Path) -> None:
    """The manifest of a diff vector, which is then planned to be added to a model."""
    vector, target = place / "vector", _made() / "target"
    shutil.copytree(_made() / "vector", vector)
    (vector / "tuneport.json").write_bytes(data)
    plan = plan_of((), target, [(vector, 1.0)], lambda names: Choices())
    look(plan)
    plan.record()


READ: Mapping[str, Callable[[bytes, Path], None]] = {
    "header": header,
    "tokenizer": tokenizer,
    "journal": journal,
    "diff": of_diff,
}


def corpus_of(name: str, corpus: Path) -> list[bytes]:
    """What the fuzzer has kept for a reader: lines of base64 of what zlib has made smaller."""
    file = corpus / f"{name}.txt"
    lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    return [zlib.decompress(base64.b64decode(line)) for line in lines]


def seeds(name: str) -> list[bytes]:
    """Inputs that are right, to begin with."""
    match name:
        case "header":
            return [(_made() / "target" / "model.safetensors").read_bytes()]
        case "tokenizer":
            added = (
                {"<end>": 6},
                {"added_tokens_decoder": {"6": {"content": "<end>", "special": True}}, "eos_token": "<end>"},
            )
            values = (TOKENIZER, WORDS, *added)
            return [bytes([number]) + json.dumps(value).encode() for number, value in enumerate(values)]
        case "journal":
            return ["".join(json.dumps(record) + "\n" for record in JOURNAL).encode()]
        case _:
            return [(_made() / "vector" / "tuneport.json").read_bytes()]


@functools.cache
def _made() -> Path:
    """Two models of a few numbers, and the diff vector between them."""
    place = Path(tempfile.mkdtemp(prefix="readers-"))
    for number, role in enumerate(("base", "tuned", "target")):
        _write(place / role, number / 4)
    diff(place / "base", place / "tuned", place / "vector")
    return place


def _write(folder: Path, value: float) -> None:
    folder.mkdir()
    entries, data = {}, b""
    for name, shape in (("model.embed_tokens.weight", (7, 2)), ("model.norm.weight", (2,))):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        content = struct.pack(f"<{count}f", *(1 + number + value * (number % 3) for number in range(count)))
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "vocab_size": 7, "tie_word_embeddings": True})
    )
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
