"""Carries a fine-tuning of a tiny model of every kind that transformers has, and writes ``docs/results/kinds.json``.

For each kind: base and target have the same tokenizer but for a token of the target's own; the tuned model has two chat tokens
more. Once they lie on padded rows, and once every matrix grew. Which tensors have a row per token is learned from the class
itself, built with two vocabulary sizes, and every element of the output is compared with a slow reference; then transformers
loads the folder, whole, and computes with the new tokens. A kind either works, or is refused in words; what else happens is
a defect. ``python -m experiments.trials.walk_kinds [KIND …]``, a few minutes on one core; with kinds, the figures of the others stay.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from experiments.trials.tiny_kinds import NotMadeError, kinds, tiny_config, tiny_model
from tuneport.diffvector.run import transfer
from tuneport.errors import TuneportError

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "kinds.json"
END, TALK, TOOL = "<|endoftext|>", ["<|im_start|>", "<|im_end|>"], "<|tool|>"
MOST_SECONDS = 120
Weights = dict[str, torch.Tensor]


def main(chosen: list[str]) -> None:
    """Walk the kinds, and write what came out."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if chosen else {}
    signal.signal(signal.SIGALRM, too_long)
    for kind, what, auto in kinds():
        if chosen and kind not in chosen:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            signal.alarm(MOST_SECONDS)
            outcome = _walk(kind, auto, Path(scratch))
            signal.alarm(0)
        found[kind if kind not in found else f"{kind} ({what})"] = {"what": what, **outcome}
        print(kind, json.dumps(outcome)[:300], file=sys.stderr, flush=True)
    RESULTS.write_text(json.dumps(before | found, indent=1) + "\n", encoding="utf-8")


def _walk(kind: str, auto: str, root: Path) -> dict[str, Any]:
    try:
        padded = _carry(kind, auto, root / "padded", grows=False)
        return {"padded": padded, "grown": _carry(kind, auto, root / "grown", grows=True)}
    except NotMadeError as error:
        return {"not made": str(error)}


def _carry(kind: str, auto: str, root: Path, grows: bool) -> dict[str, str]:
    """One transfer; ``works`` with what was checked, ``refused`` with the message, or ``wrong`` with what is."""
    import transformers

    old, talk, new = tokenizer_of([]), tokenizer_of(TALK), tokenizer_of([TOOL])
    size = old.get_vocab_size()
    rows = size + 1 if grows else (size + 2 + 15) // 16 * 16
    made = tiny_model(kind, auto, config_of(kind, rows)).to(torch.bfloat16)
    base = saved(made, root / "base")
    matrices = _vocabulary_tensors(kind, auto, base, rows, root / "longer")
    # Of some multimodal kinds the automatic class makes the text model, whose folder it then does not know.
    loading = getattr(transformers, auto) if type(made.config) is transformers.CONFIG_MAPPING[kind] else type(made)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            loading.from_pretrained(root / "base")
    except Exception as error:  # whatever a class raises over its own folder
        raise NotMadeError(f"transformers does not load what it saved: {' '.join(str(error).split())[:160]}") from error
    tuned, target = _near(base, 1, 0.01), _near(base, 2, 0.03)
    tuned_rows = rows + 1 if grows else rows
    for name, axis in matrices.items():
        if grows:  # the tuned model has a row more for its second token
            tuned[name] = torch.cat([tuned[name], tuned[name].narrow(axis, 0, 1)], axis)
        for id, value in ((size, 0.15), (size + 1, -0.25)):
            tuned[name].narrow(axis, id, 1).fill_(value)
        target[name].narrow(axis, size, 1).fill_(0.05)
    for role, weights in (("tuned", tuned), ("target", target)):
        shutil.copytree(root / "base", root / role)
        _write(root / role, weights)
    for role, tokenizer in (("base", old), ("tuned", talk), ("target", new)):
        put_tokenizer(root / role, tokenizer, TALK[1] if role == "tuned" else END)
    _edit(root / "tuned" / "config.json", rows, tuned_rows, talk.token_to_id(TALK[1]))
    _edit(root / "tuned" / "generation_config.json", rows, tuned_rows, talk.token_to_id(TALK[1]))
    try:
        outcome = transfer(root / "base", root / "tuned", root / "target", root / "out")
    except TuneportError as error:
        return {"refused": " ".join(str(error).split())[:300]}
    wrong = _compare(read_weights(root / "out"), base, tuned, target, matrices, size)
    if wrong:
        return {"wrong": wrong}
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            loaded, info = loading.from_pretrained(root / "out", output_loading_info=True)
    except Exception as error:  # whatever a class raises over its own folder
        return {"wrong": f"transformers: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    lacking = {
        key: sorted(info[key])[:3] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]
    }
    if lacking:
        return {"wrong": f"transformers does not load it whole: {lacking}"}
    largest = max(loaded.get_input_embeddings().weight.shape[0], 0)
    if largest <= size + 2:
        return {"wrong": f"the embedding has {largest} rows for token {size + 2}"}
    counted = f"{len(matrices)} matrices by token, {len(base) - len(matrices)} other tensors"
    return {"works": counted, **({"warnings": "; ".join(outcome.warnings)[:300]} if outcome.warnings else {})}


def _vocabulary_tensors(kind: str, auto: str, stored: Weights, rows: int, scratch: Path) -> dict[str, int]:
    """Which tensors follow the vocabulary's size, and in which dimension: those that are 7 longer with 7 entries more."""
    longer = saved(tiny_model(kind, auto, config_of(kind, rows + 7)).to(torch.bfloat16), scratch)
    found = {}
    for name, tensor in stored.items():
        axes = [axis for axis, (a, b) in enumerate(zip(tensor.shape, longer[name].shape, strict=True)) if b - a == 7]
        if axes and tensor.is_floating_point():
            found[name] = axes[0]
    return found


def config_of(kind: str, rows: int) -> Any:
    config = tiny_config(kind, rows)
    try:
        parts = (config, config.get_text_config())
    except ValueError as error:  # several texts in one: Musicgen
        raise NotMadeError(" ".join(str(error).split())[:200]) from error
    for part in parts:
        part.bos_token_id = part.eos_token_id = len(pre_tokenizers.ByteLevel.alphabet())
        part.pad_token_id = 0
    config.architectures = None
    return config


def saved(model: Any, folder: Path) -> Weights:
    with torch.no_grad():
        for parameter in model.parameters():  # nothing is left at its zero or one
            parameter += 0.1 * torch.randn_like(parameter)
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
    return read_weights(folder)


def _compare(
    out: Weights, base: Weights, tuned: Weights, target: Weights, matrices: dict[str, int], size: int
) -> str | None:
    """What is not as the formula has it; the first thing, in words."""
    if out.keys() != target.keys():
        return f"other tensors: {sorted(out.keys() ^ target.keys())[:3]}"
    for name, found in out.items():
        if name not in matrices:
            wanted = _sum(base[name], tuned[name], target[name])
        else:
            axis = matrices[name]
            rows = [t.movedim(axis, 0) for t in (base[name], tuned[name], target[name])]
            wanted = rows[2].clone()
            wanted[:size] = _sum(rows[0][:size], rows[1][:size], rows[2][:size])
            more = size + 3 - len(wanted)
            if more > 0:
                wanted = torch.cat([wanted, torch.zeros(more, *wanted.shape[1:], dtype=wanted.dtype)])
            wanted[size + 1 : size + 3] = rows[1][size : size + 2]
            wanted = wanted.movedim(0, axis)
        if found.shape != wanted.shape or not torch.equal(found, wanted):
            return f"`{name}` {tuple(found.shape)} is not what the formula gives {tuple(wanted.shape)}"
    return None


def _sum(base: torch.Tensor, tuned: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if not base.is_floating_point():
        return target
    return (target.float() + (tuned.float() - base.float())).to(target.dtype)


def _near(weights: Weights, seed: int, size: float) -> Weights:
    made = torch.Generator().manual_seed(seed)
    return {
        name: (t.float() + size * torch.randn(t.shape, generator=made)).to(t.dtype)
        if t.is_floating_point()
        else t.clone()
        for name, t in weights.items()
    }


def read_weights(folder: Path) -> Weights:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def _write(folder: Path, weights: Weights) -> None:
    for old in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        old.unlink()
    whole = {name: t.contiguous().clone() for name, t in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def tokenizer_of(more: list[str]) -> Tokenizer:
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: id for id, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (END, *more)])
    return tokenizer


def put_tokenizer(folder: Path, tokenizer: Tokenizer, end: str) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _edit(path: Path, rows: int, tuned_rows: int, end: int) -> None:
    """The tuned model's config: its end token, and its own number of rows wherever the old one stands."""
    if not path.exists():
        return

    def follow(config: dict[str, Any]) -> dict[str, Any]:
        return {
            name: follow(value)
            if isinstance(value, dict)
            else tuned_rows
            if "vocab_size" in name and value == rows
            else end
            if name == "eos_token_id" and value is not None
            else value
            for name, value in config.items()
        }

    path.write_text(json.dumps(follow(json.loads(path.read_text()))))


def too_long(signal: int, frame: Any) -> None:
    raise NotMadeError(f"not done in {MOST_SECONDS} s")


if __name__ == "__main__":
    main(sys.argv[1:])
