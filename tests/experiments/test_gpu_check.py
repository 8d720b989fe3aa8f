"""`make gpu-check` on a CPU: tiny models through the real steps, limits, failures, carried wheels, and the page's section."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from support.tiny_models import perturbed, pretrained
from transformers import LlamaConfig

from experiments.gpu import both_devices, carried_wheels, check, gpu_steps
from experiments.gpu.limited_step import run_step
from experiments.gpu.sizes import TINY
from experiments.gpu.whole_tensors import differing_tensors
from experiments.pages import gpu_section
from tuneport import transfer

ROOT = Path(__file__).parents[2]


def checked(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.gpu.check", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.slow
def test_tiny_models_go_through_fine_tuning_transfer_and_both_scorings_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    ran = checked("--device", "cpu", "--tiny", "--out", out, "--wheels", tmp_path, "--only", "transfer", "same_on_cpu")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    record = json.loads(out.read_text())
    assert list(record["steps"]) == [
        "environment", "family", "random_llama", "tune_all", "transfer", "family_scores", "same_on_cpu",
    ]  # fmt: skip
    found = record["steps"]
    assert found["tune_all"]["last_loss"] < found["tune_all"]["first_loss"]
    assert found["tune_all"]["tokens_per_second"] > 0
    assert found["tune_all"]["estimated"]["total"] > 4 * found["random_llama"]["parameters"]
    assert found["transfer"]["proof"] == "full"
    assert found["same_on_cpu"]["float32"] == {"training": 0, "loss": 0, "answers": 1, "divergence": 0}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check changes of its process comes back."""
    monkeypatch.setattr(check, "_take_in", lambda packages: None)
    for name in ("CUDA_VISIBLE_DEVICES", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "")


@pytest.mark.usefixtures("in_this_process")
def test_a_step_that_fails_says_why_and_what_needs_it_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(place: Path, sizes: object, device: str) -> dict[str, Any]:
        raise ValueError("no such model")

    failing.__name__ = "environment"
    monkeypatch.setattr(gpu_steps, "environment", failing)
    out = tmp_path / "gpu.json"
    status = check.main(
        ["--device", "cpu", "--tiny", "--out", str(out), "--wheels", str(tmp_path), "--only", "random_llama"]
    )
    found = json.loads(out.read_text())["steps"]
    assert status == 1
    assert found["environment"]["status"] == "failed"
    assert found["environment"]["why"].endswith("ValueError: no such model")
    assert found["random_llama"]["status"] == "not run"


def test_a_step_in_a_new_process_fails_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = run_step(gpu_steps.transfer, tmp_path, TINY, "cpu", 120)
    assert found["status"] == "failed"
    assert str(tmp_path / "base") in found["why"]


def test_a_step_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_step(gpu_steps.environment, tmp_path, TINY, "cpu", 0)["status"] == "too long"


@pytest.mark.usefixtures("in_this_process")
def test_no_step_begins_after_the_limit_for_all(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--tiny", "--out", str(out), "--wheels", str(tmp_path), "--seconds", "1"]
    assert check.main(arguments) == 1
    found = json.loads(out.read_text())["steps"]
    assert list(found) == [step.name for step in check.STEPS]
    assert {step["status"] for step in found.values()} == {"not run"}


def test_what_a_step_needs_comes_before_it() -> None:
    names = [step.name for step in check.STEPS]
    for step in check.STEPS:
        assert set(step.needs) <= set(names[: names.index(step.name)])
    assert set(gpu_section._NAMES) == set(names)


def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    ran = checked("--out", out, "--wheels", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert (ran.returncode, out.exists()) == (1, False)
    assert "no NVIDIA GPU" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_large_models_are_refused_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--device", "cpu"]) == 1
    assert "--tiny" in capsys.readouterr().err


def test_wheels_are_unpacked_and_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "carried_thing-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("carried_thing.py", "")
    monkeypatch.setattr(carried_wheels, "MODULES", ("carried_thing", "numpy", "left_behind"))
    assert carried_wheels.missing_modules() == ["carried_thing", "left_behind"]
    packages = carried_wheels.unpacked(tmp_path, tmp_path / "packages")
    assert packages is not None
    monkeypatch.syspath_prepend(packages)
    assert carried_wheels.missing_modules() == ["left_behind"]


def test_wheels_of_another_python_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = f"{sys.version_info.major}{sys.version_info.minor}"
    for name in (
        f"one-1-cp{mine}-cp{mine}-linux_x86_64.whl",
        "two-1-cp38-abi3-linux_x86_64.whl",
        "three-1-py38-none-any.whl",
    ):
        (tmp_path / name).touch()
    assert carried_wheels.of_another_python(tmp_path) == ["three-1-py38-none-any.whl"]
    assert check.main(["--device", "cpu", "--tiny", "--wheels", str(tmp_path)]) == 1
    assert "three-1-py38" in capsys.readouterr().err


def test_every_carried_package_is_pinned() -> None:
    pinned = carried_wheels.pinned_versions()
    assert len(carried_wheels.PACKAGES) > 5
    assert all(carried_wheels.plain(name) in pinned for name in carried_wheels.PACKAGES)


def test_plain_numpy_gives_the_bytes_of_transfer_and_sees_another_bit(tmp_path: Path) -> None:
    base, tuned, target, out = (tmp_path / name for name in ("base", "tuned", "target", "out"))
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    weights = pretrained(config, base, shard="1GB")
    for folder, seed in ((tuned, 1), (target, 2)):
        folder.mkdir()
        for file in base.glob("*.json"):
            (folder / file.name).write_bytes(file.read_bytes())
        save_file(perturbed(weights, seed, 0.02), folder / "model.safetensors", metadata={"format": "pt"})
    transfer(base, tuned, target, out)
    assert differing_tensors(base, tuned, target, out) == (6, [])
    made = load_file(out / "model.safetensors")
    name = "model.embed_tokens.weight"  # one of the two largest, and the last of them by name
    made[name].view(-1)[3] += 1
    save_file(made, out / "model.safetensors", metadata={"format": "pt"})
    assert differing_tensors(base, tuned, target, out) == (6, [name])


def test_two_devices_are_compared_by_losses_by_what_models_said_and_by_distributions(tmp_path: Path) -> None:
    even = np.log(np.full((3, 2), 0.5, np.float32))
    skewed = np.log(np.array([[0.5, 0.5], [0.5, 0.5], [0.6, 0.4]], np.float32))
    for name, loss, said, tokens in (("one", 2.02, "b", skewed), ("other", 2.0, "a", even)):
        losses = {"models": [{"model": "M5", "tasks": {"texts": {"value": loss}}}]}
        (tmp_path / f"{name}-losses.json").write_text(json.dumps(losses))
        lines = [
            {"model": "M5", "task": "q", "id": number, "said": said if number == "0" else "a", "answer": "a"}
            for number in "0123"
        ]
        (tmp_path / f"{name}-answers.examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        np.save(tmp_path / f"{name}.npy", tokens)
    found = both_devices.apart(tmp_path, "one", "other")
    assert found == pytest.approx({"loss": 0.01, "answers": 0.75, "divergence": 0.0068}, abs=1e-4)
    assert len(both_devices.beyond(found, {"loss": 0.005, "answers": 0.8, "divergence": 0.001}, "float32")) == 3
    assert both_devices.beyond(found, {"loss": 0.02, "answers": 0.7, "divergence": 0.01}, "float32") == []


def test_the_page_says_that_nothing_was_run_and_shows_what_was(tmp_path: Path) -> None:
    assert "Not run" in gpu_section.render(tmp_path / "gpu.json")
    peaks = {"peak_allocated": 20_000_000_000, "peak_reserved": 22_000_000_000}
    tuned = {
        "status": "done", "seconds": 20.0, "computed_in": "bfloat16", "steps": 30, "tokens_per_second": 40_000,
        "first_loss": 10.4, "last_loss": 4.0, "estimated": {"total": 25_000_000_000}, **peaks,
    }  # fmt: skip
    apart = {"training": 1e-5, "loss": 1e-6, "answers": 1.0, "divergence": 1e-9}
    found = {
        "tune_all": tuned,
        "same_on_cpu": {"status": "done", "seconds": 9.0, "float32": apart, "bfloat16": apart},
        "probe": {"status": "failed", "seconds": 1.0, "why": "Traceback\nValueError: no | probe"},
    }
    (tmp_path / "gpu.json").write_text(json.dumps({"steps": found}))
    page = gpu_section.render(tmp_path / "gpu.json")
    assert "| 0.80 |" in page and "40,000" in page
    assert "failed: ValueError: no \\| probe" in page
    assert "| adapt up to distil, random Llama | not run |" in page


def test_rounding_in_plain_numpy_is_to_the_nearest_and_to_even() -> None:
    from experiments.gpu.whole_tensors import _narrow

    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], np.float32)
    assert _narrow(values).tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81]
