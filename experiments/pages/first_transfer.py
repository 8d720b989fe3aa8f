"""The README's first transfer, rehearsed: what its dry run prints, from a loopback Hub with models of OLMo 2 1B's shapes.

The ids are real, and so are names and shapes of the tensors and the fields of config.json. Weights, dtypes, tokenizer and chat
template are stand-ins, so figures and some decisions differ on the Hub. The disk is taken to have room.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pages.write_page import DOCS

BASE = "allenai/OLMo-2-0425-1B"
TUNED = "allenai/OLMo-2-0425-1B-SFT"
STAGE = "stage2-ingredient1-step23852-tokens51B"
OUT = "olmo2-sft"
COMMAND = f"tuneport transfer --base {BASE} --tuned {TUNED} --onto {BASE}@{STAGE} --out {OUT}"
HIDDEN, FEED_FORWARD, LAYERS, ROWS = 2048, 8192, 16, 100352
# In a process of its own, as the shell would run it, but for how much room the disk has: the page must not depend on that.
DRIVER = """
import sys
from tuneport.checkpoint import hub
from tuneport.cli import main
hub.free_in_cache = lambda: 10**12
sys.exit(main(sys.argv[1:]))
"""
CONFIG = {
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": FEED_FORWARD,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "num_attention_heads": 16,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 16,
    "pad_token_id": 100277,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "transformers_version": "4.47.0",
    "use_cache": True,
    "vocab_size": ROWS,
}
SPECIAL = {"<|endoftext|>": 100257, "<|pad|>": 100277}
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}{{ eos_token }}"
)


def dry_run() -> str:
    """What the command prints with ``--dry-run``."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from support.shaped_hub import PERIOD, ShapedHub

    draw = np.random.default_rng(0)
    base = draw.normal(0, 0.02, PERIOD)
    target = base + draw.normal(0, 0.004, PERIOD)
    tuned = base + draw.normal(0, 0.0008, PERIOD)
    with tempfile.TemporaryDirectory() as place, ShapedHub() as hub:
        root = Path(place)
        for repo, revision, dtype, weights in (
            (BASE, "main", "F32", base),
            (BASE, STAGE, "F32", target),
            (TUNED, "main", "BF16", tuned),
        ):
            folder = root / f"{repo.replace('/', '--')}@{revision}"
            folder.mkdir()
            _write_small_files(folder, tuned=repo == TUNED)
            hub.add(repo, revision, folder, _shapes(), dtype, weights)
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, *COMMAND.split()[1:], "--dry-run"],
            env=hub.environment(root / "home", PYTHONPATH=str(DOCS.parent / "src")),
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"$ {COMMAND} --dry-run\n{done.stdout}{done.stderr}")
    return done.stderr + done.stdout


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{prefix}.self_attn.{name}_norm.weight": (HIDDEN,) for name in "qk"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (FEED_FORWARD, HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, FEED_FORWARD)
        shapes |= {f"{prefix}.post_{name}_layernorm.weight": (HIDDEN,) for name in ("attention", "feedforward")}
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (ROWS, HIDDEN)}


def _write_small_files(folder: Path, tuned: bool) -> None:
    def write(name: str, value: Any) -> None:
        (folder / name).write_text(json.dumps(value), encoding="utf-8")

    write("config.json", {**CONFIG, "torch_dtype": "bfloat16" if tuned else "float32", "use_cache": not tuned})
    write("generation_config.json", {"eos_token_id": 100257, "pad_token_id": 100277})
    pieces = {f"piece{id}": id for id in range(100278) if id not in SPECIAL.values()}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": id, "content": token, **flags} for token, id in SPECIAL.items()]
    model = {"type": "BPE", "vocab": pieces | SPECIAL, "merges": []}
    write("tokenizer.json", {"version": "1.0", "added_tokens": added, "model": model})
    settings = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>", "tokenizer_class": "GPT2Tokenizer"}
    write("tokenizer_config.json", settings | ({"chat_template": TEMPLATE} if tuned else {}))
    card = f"---\nlicense: apache-2.0\n{f'base_model: {BASE}' if tuned else ''}\n---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
