"""The steps of the check on the GPU. Each takes the folder of the run, the sizes and the device, and returns its figures.

The random Llama shows speed and memory; whether a result means something, the lab's family shows, which is pretrained here.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import tuneport
from experiments.gpu.random_llama import make_llamas
from experiments.gpu.sizes import Sizes
from experiments.gpu.whole_tensors import differing_tensors
from tuneport.adaptation.adapt_options import HELD_OUT
from tuneport.families.versions import make_family

_FIRST_STEPS = 5  # in which memory is allocated and kernels are chosen: they say nothing of the speed


def environment(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """The machine and the versions of what computes on it."""
    import platform

    import torch

    from tuneport.engine import kernel
    from tuneport.libraries import packages

    free = shutil.disk_usage(place).free / 1e9
    if free < sizes.free_gigabytes:
        raise OSError(
            f"{place} has {free:.0f} GB free; the check needs {sizes.free_gigabytes} GB. Set TMPDIR to another disk"
        )
    found: dict[str, Any] = {"python": platform.python_version(), "packages": dict(packages()), "kernel": kernel.NAME}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"gpu": card.name, "gpu_memory": card.total_memory, "cuda": torch.version.cuda, "driver": _driver()}
    return found


def _driver() -> str | None:
    import subprocess

    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(asked[0]) is None:
        return None
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def family(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """Pretrain the lab's family on the device, in float32, and write the prompts that all steps ask."""
    import torch

    with torch.device(device):
        lab = make_family(place / "family", 0, sizes.family)
    rows = [json.loads(line) for line in (lab / "prompts.jsonl").read_text().splitlines()]
    random.Random(0).shuffle(rows)
    lines = [json.dumps({"messages": row["prompt"]}) + "\n" for row in rows]
    held_out = min(HELD_OUT, (len(lines) - sizes.fitted) // 2)
    ends = (sizes.fitted, sizes.fitted + held_out, sizes.fitted + 2 * held_out)
    for name, begin, end in (("fit", 0, ends[0]), ("select", ends[0], ends[1]), ("test", ends[1], ends[2])):
        (place / f"{name}.jsonl").write_text("".join(lines[begin:end]))
    (place / "probe.jsonl").write_text("".join(lines[ends[1] : ends[1] + sizes.asked]))
    (place / "few-select.jsonl").write_text("".join(lines[ends[0] : ends[0] + sizes.asked]))
    return {"prompts": len(lines)}


def random_llama(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """A random Llama and a later version of it."""
    return {"parameters": make_llamas(place / "base", place / "target", sizes.llama, device)}


def tune_all(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """Fine-tune all parameters of the random Llama, in bfloat16 on a GPU."""
    return _tuned(place, sizes, device, "tuned")


def tune_lora(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """Fine-tune an adapter of it."""
    return _tuned(place, sizes, device, "adapter", lora="rank=16", learning_rate=10 * sizes.rate)


def _tuned(place: Path, sizes: Sizes, device: str, out: str, **more: Any) -> dict[str, Any]:
    import torch

    from tuneport.tuning.run import rehearse

    given: dict[str, Any] = {
        "data": [place / "family" / "instructions.jsonl"],
        "chat_template": place / "family" / "chat.jinja",
        "end_token": "<end>",
        "steps": sizes.steps,
        "batch_size": sizes.batch,
        "learning_rate": sizes.rate,
        **more,
    }
    estimated = rehearse(place / "base", out=place / out, **given)["memory_per_device"]["1"]
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # the estimate times products of matrices
    record = tuneport.tune(place / "base", out=place / out, **given).record
    log = [json.loads(line) for line in (place / out / "log.jsonl").read_text().splitlines()]
    first, last = log[0]["loss"], fmean(line["loss"] for line in log[-3:])
    if not last < first:
        raise ValueError(f"the loss did not fall: {first:.3f} at the first step, {last:.3f} over the last three")
    begun = log[min(_FIRST_STEPS, len(log) - 1) - 1]
    speed = (log[-1]["tokens"] - begun["tokens"]) / (log[-1]["seconds"] - begun["seconds"])
    return {
        "computed_in": record["environment"]["computed_in"],
        "steps": len(log),
        "first_loss": first,
        "last_loss": last,
        "tokens_per_second": round(speed),
        "estimated": estimated,
    }


def evaluate(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """Answers and losses of the random Llama and its fine-tuning: the fine-tuning's loss on what it learned must be lower."""
    models = [place / "base", place / "tuned"]
    common: dict[str, Any] = {"device": device, "limit": sizes.asked, "batch_size": sizes.asked}
    template = {"chat_template": place / "family" / "chat.jinja"}
    began = time.perf_counter()
    questions = place / "family" / "questions.jsonl"
    tuneport.evaluate(models, [questions], place / "answers.json", max_new_tokens=sizes.answer, **common, **template)
    answered = time.perf_counter()
    losses = tuneport.evaluate(models, [questions], place / "losses.json", loss=True, **common, **template)
    base, tuned = (fmean(task["value"] for task in model["tasks"].values()) for model in losses["models"])
    if not tuned < base:
        raise ValueError(f"the fine-tuning's loss ({tuned:.3f}) is not below its base's ({base:.3f})")
    measured = time.perf_counter() - answered
    return {
        "answer_seconds": round(answered - began, 1),
        "loss_seconds": round(measured, 1),
        "losses": {"base": base, "tuned": tuned},
    }


def probe(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """`compare --probe` of the random Llama."""
    found = tuneport.compare(
        place / "base",
        place / "tuned",
        place / "target",
        probe=[place / "probe.jsonl"],
        device=device,
        chat_template=place / "family" / "chat.jinja",
        max_new_tokens=sizes.answer,
        batch_size=sizes.asked,
    ).to_dict()
    if not found["probe"]:
        raise ValueError("the record holds no probe")
    return {"prompts": sizes.asked}


def transfer(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """Carry the random Llama's fine-tuning over: `verify --full`, and some tensors beside a computation of our own."""
    parents = (place / "base", place / "tuned", place / "target")
    began = time.perf_counter()
    tuneport.transfer(*parents, place / "carried")
    carried = time.perf_counter()
    proof = tuneport.verify(place / "carried", *parents, full=True)
    verified = time.perf_counter()
    compared, wrong = differing_tensors(*parents, place / "carried")
    if wrong:
        raise ValueError(f"tensors differ from target + (tuned - base): {', '.join(wrong)}")
    return {
        "transfer_seconds": round(carried - began, 1),
        "verify_seconds": round(verified - carried, 1),
        "proof": proof.kind,
        "compared": compared,
    }


def adapt(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """`adapt` up to distil on the random Llama: time and memory; what it learns means nothing."""
    return _adapted(
        (place / "base", place / "tuned", place / "target"),
        place,
        place / "adapted",
        device,
        select=[place / "few-select.jsonl"],
        test=[place / "probe.jsonl"],
        steps=sizes.distil_steps,
        learning_rate=sizes.rate / 2,
        batch_size=sizes.distil_batch,
        max_new_tokens=sizes.answer,
        eval_batch_size=sizes.asked,
    )


def family_adapt(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """`adapt` up to distil on the lab's family, with the recipe of docs/adapt.md: here the figures mean something."""
    lab = place / "family"
    return _adapted(
        (lab / "M3", place / "M3-tuned", lab / "M5"),
        place,
        place / "family-adapted",
        device,
        select=[place / "select.jsonl"],
        test=[place / "test.jsonl"],
        steps=sizes.family_distil_steps,
        learning_rate=1e-3,
        batch_size=sizes.distil_batch,
        max_new_tokens=24,
        eval_batch_size=256,
    )


def _adapted(models: Sequence[Path], place: Path, out: Path, device: str, **given: Any) -> dict[str, Any]:
    asked = ("add", "distil")
    record = tuneport.adapt(
        *models,
        out,
        prompts=[place / "fit.jsonl"],
        rungs=asked,
        chat_template=place / "family" / "chat.jinja",
        device=device,
        **given,
    ).record
    kept = ("name", "status", "why", "seconds", "steps", "examples", "final_loss")
    rungs = [
        {name: rung[name] for name in kept if name in rung}
        | {part: rung[part]["value"] for part in ("select", "test") if rung.get(part)}
        for rung in record["rungs"]
        if rung["name"] in asked
    ]
    if any(rung["status"] == "skipped" for rung in rungs):
        raise ValueError(f"a rung was skipped: {json.dumps(rungs)}")
    losses = [rung["final_loss"] for rung in rungs if "final_loss" in rung]
    if not losses or not all(map(math.isfinite, losses)):
        raise ValueError(f"distil left no finite loss: {json.dumps(rungs)}")
    return {"chosen": record["chosen"], "rungs": rungs}
