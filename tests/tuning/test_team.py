"""Several processes: the same curve as one, one writer, and configurations that accelerate reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml
from support.tiny_tuning import log_of

from tuneport.errors import UsageError
from tuneport.tuning.recipes import SftRecipe
from tuneport.tuning.run import tune
from tuneport.tuning.trainers import divide

SHIPPED = ("four_gpus.yaml", "two_nodes.yaml")


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one_with_the_same_batches(base: Path, sums: Path, tmp_path: Path) -> None:
    # On CPUs this is plain data parallelism; it proves nothing of FSDP.
    choices = ["--steps", "8", "--learning-rate", "1e-2", "--batch-size", "8", "--save-every", "3"]
    launched = subprocess.run(
        [
            # With --cpu accelerate would start one process, whatever number it is given (it wants MPI for more).
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--main_process_port", "0", "--num_cpu_threads_per_process", "1"),
            *("-m", "tuneport", "tune", str(base), "--data", str(sums), *choices, "--out", str(tmp_path / "two")),
        ],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    one = tune(base, [sums], SftRecipe(steps=8, learning_rate=1e-2, batch_size=8), out=tmp_path / "one").out
    environment = json.loads((tmp_path / "two" / "tune.json").read_text())["environment"]
    assert environment["distributed_type"] == "MULTI_CPU"
    assert (environment["processes"], environment["per_device_train_batch_size"]) == (2, 4)
    two = tmp_path / "two"
    assert [line["loss"] for line in log_of(two)] == pytest.approx([line["loss"] for line in log_of(one)], rel=1e-4)
    assert [line["tokens"] for line in log_of(two)] == [line["tokens"] for line in log_of(one)]
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.parametrize(
    ("examples", "devices", "most", "expected"), [(8, 4, 1, (1, 2)), (8, 1, None, (8, 1)), (12, 2, 3, (3, 2))]
)
def test_an_update_is_dealt_to_devices(
    examples: int, devices: int, most: int | None, expected: tuple[int, int]
) -> None:
    assert divide(examples, devices, most) == expected


def test_an_update_that_cannot_be_dealt_evenly_is_refused() -> None:
    with pytest.raises(UsageError, match="each device has 6 examples per update, which this value does not divide"):
        divide(12, 2, 4)
    with pytest.raises(UsageError, match="8 examples per update cannot be split evenly over 3 processes"):
        divide(8, 3, None)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_configurations_are_what_accelerate_reads_and_say_that_nobody_ran_them(name: str) -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    file = resources.files("tuneport.tuning") / "accelerate" / name
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# Not run here")
    config = ClusterConfig.from_yaml_file(str(file))
    assert config.fsdp_config["fsdp_version"] == 2
    assert config.num_processes == 4 * config.num_machines
    # Every key of the FSDP part is an option of `accelerate launch`, so none is a slip of the pen.
    from accelerate.commands.launch import launch_command_parser

    options = {action.dest for action in launch_command_parser()._actions}
    assert set(yaml.safe_load(text)["fsdp_config"]) <= options


def test_no_configuration_is_shipped_untested() -> None:
    folder = resources.files("tuneport.tuning") / "accelerate"
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(SHIPPED)
