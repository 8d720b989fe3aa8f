"""Fine-tunes a tiny model of every causal kind on chat tokens that it lacks, and writes ``docs/results/tuning.json``.

Whole, and with an adapter; by `tune` itself, two steps. What it wrote must load (transformers and peft) and compute with the new
tokens, and `transfer` must carry it onto its own base: of a whole model that gives the tuned weights, byte for byte. A kind works,
or is refused in words; what else happens is a defect. ``python -m experiments.trials.walk_tuning [KIND …]``, an hour on one core; with kinds, the
figures of the others stay.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from experiments.trials.tiny_kinds import NotMadeError, kinds, tiny_model
from experiments.trials.walk_kinds import (
    END,
    MOST_SECONDS,
    config_of,
    put_tokenizer,
    read_weights,
    saved,
    tokenizer_of,
    too_long,
)
from tuneport.diffvector.run import transfer
from tuneport.errors import TuneportError
from tuneport.tuning.recipes import Lora, SftRecipe
from tuneport.tuning.run import tune

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "tuning.json"
WAYS: dict[str, Lora | None] = {"full": None, "adapter": Lora(rank=2)}


def main(chosen: list[str]) -> None:
    """Walk the kinds, and write what came out."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, too_long)
    found: dict[str, Any] = {}
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if chosen else {}
    for kind, what, auto in kinds():
        if what != "causal" or (chosen and kind not in chosen):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found[kind] = _walk(kind, auto, Path(scratch))
        print(kind, json.dumps(found[kind])[:300], file=sys.stderr, flush=True)
    RESULTS.write_text(json.dumps(before | found, indent=1) + "\n", encoding="utf-8")


def _walk(kind: str, auto: str, root: Path) -> dict[str, Any]:
    told: dict[str, Any] = {}
    try:
        signal.alarm(MOST_SECONDS)
        tokenizer = tokenizer_of([])
        config = config_of(kind, tokenizer.get_vocab_size())
        if getattr(config, "is_decoder", True) is False:
            config.is_decoder = True  # such a kind is an encoder unless its config says otherwise
        model = tiny_model(kind, auto, config).to(torch.bfloat16)
        saved(model, root / "base")
        put_tokenizer(root / "base", tokenizer, END)
        type(model).from_pretrained(root / "base")
    except Exception as error:  # whatever a class raises over a config that it was not made for
        return {"not made": str(error) if isinstance(error, NotMadeError) else _first_line(error)}
    finally:
        signal.alarm(0)
    for way, lora in WAYS.items():
        signal.alarm(MOST_SECONDS)
        try:
            told[way] = _tuned(type(model), root, way, lora)
        except TuneportError as error:
            told[way] = {"refused": " ".join(str(error).split())[:600]}
        except Exception as error:  # whatever comes: it is what the walk is to find
            told[way] = {"wrong": _first_line(error)}
        finally:
            signal.alarm(0)
    return told


def _tuned(made: type[Any], root: Path, way: str, lora: Lora | None) -> dict[str, str]:
    turns = [
        [{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in (("a b", "c"), ("d", "e"))
    ]
    data, out = root / "chat.jsonl", root / way
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    recipe = SftRecipe(steps=2, batch_size=2, learning_rate=1e-2)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        tune(root / "base", [data], recipe, out=out, chat_template="chatml", lora=lora)
        wrong = _computes(made, root / "base", out, lora)
    if wrong:
        return {"wrong": wrong}
    carried = shutil.copytree(root / "base", root / f"{way}-target")
    try:
        transfer(root / "base", out, carried, root / f"{way}-carried")
    except TuneportError as error:
        return {"not carried": " ".join(str(error).split())[:600]}
    if lora is None:
        theirs, ours = read_weights(out), read_weights(root / f"{way}-carried")
        different = [name for name in theirs if name not in ours or not torch.equal(theirs[name], ours[name])]
        if different or theirs.keys() != ours.keys():
            return {"wrong": f"carried onto its own base it is another model: {different[:3]}"}
    _, info = made.from_pretrained(root / f"{way}-carried", output_loading_info=True)
    lacking = {
        key: sorted(info[key])[:3] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]
    }
    return {"wrong": f"what was carried does not load whole: {lacking}"} if lacking else {"works": ""}


def _computes(made: type[Any], base: Path, out: Path, lora: Lora | None) -> str | None:
    """What is wrong with a tuned folder as transformers and peft load it."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out)
    if lora is None:
        model, info = made.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
        lacking = {
            key: sorted(info[key])[:3] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]
        }
        if lacking:
            return f"it does not load whole: {lacking}"
    else:
        model = made.from_pretrained(base, dtype=torch.float32)
        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model = PeftModel.from_pretrained(model, out)
    chat = [{"role": "user", "content": "a"}]
    ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)["input_ids"][:, :8]
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    if not logits.isfinite().all() or logits.shape[-1] < len(tokenizer):
        return f"logits of shape {tuple(logits.shape)} for {len(tokenizer)} tokens, or not all finite"
    return None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


if __name__ == "__main__":
    main(sys.argv[1:])
