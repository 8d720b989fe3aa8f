"""Named pipes, devices and endless files in the place of any file: nothing waits, nothing grows, and words say which it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli, Ran

from tuneport.errors import DataError, TuneportError
from tuneport.examples.digests import read_digests
from tuneport.examples.leakage import leaked
from tuneport.examples.questions import read_tasks
from tuneport.examples.training_data import read_sources
from tuneport.reporting.run import report
from tuneport.scoring.models import find_models
from tuneport.scoring.run import template_text
from tuneport.studies.file.study_file import read_study

pytestmark = pytest.mark.timeout(120)

SIDECARS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "added_tokens.json",
    "model.safetensors.index.json",
    "LICENSE",
    "modeling_x.py",
)


def pipe(place: Path) -> None:
    os.mkfifo(place)


def device(place: Path) -> None:
    place.symlink_to("/dev/zero")


def sparse(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(2**40)


ODD = {"a named pipe": pipe, "a device": device, "a sparse file": sparse}


def put(odd: str, place: Path) -> None:
    place.unlink(missing_ok=True)
    ODD[odd](place)


def told(ran: Ran, name: str) -> None:
    assert ran.status == 1 and name in ran.err and "Traceback" not in ran.err and "not enough memory" not in ran.err, (
        ran
    )


@pytest.mark.parametrize("odd", ODD)
def test_in_place_of_a_small_file_of_a_model(cli: Cli, tmp_path: Path, odd: str) -> None:
    made = tiny.trio(tmp_path)
    for name in SIDECARS:
        place = (made.target if name.endswith(".py") else made.tuned) / name  # only the target's code is read at all
        kept = place.read_bytes() if place.exists() else None
        put(odd, place)
        told(cli(*made.flags(tmp_path / "out")), name)
        place.unlink()
        if kept is not None:
            place.write_bytes(kept)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"])
def test_in_place_of_weights(cli: Cli, tmp_path: Path, odd: str, name: str) -> None:
    made = tiny.trio(tmp_path, shards=(1, 1, 1))
    folder = made.target
    if name.startswith("adapter"):
        folder = tiny.write_lora(tmp_path / "lora", made.tensors["base"], 2)
    elif name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
    put(odd, folder / name)
    told(cli("inspect", folder), folder.name)


def test_a_card_that_is_a_pipe_holds_nobody_up(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    for path in made.paths:
        os.mkfifo(path / "README.md")
    assert cli(*made.flags(tmp_path / "out")).status == 0


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", ["out/tuneport.json", "out.partial/journal.jsonl", "out.partial/tuneport.json"])
def test_in_place_of_a_manifest_or_a_journal(cli: Cli, tmp_path: Path, odd: str, place: str) -> None:
    made = tiny.trio(tmp_path)
    (tmp_path / place).parent.mkdir()
    put(odd, tmp_path / place)
    told(cli(*made.flags(tmp_path / "out")), place.partition("/")[0])
    told(cli(*made.flags(tmp_path / "out", "--overwrite")), place.partition("/")[0])
    if place.endswith("tuneport.json"):
        told(cli("inspect", (tmp_path / place).parent), place)
        told(cli("verify", (tmp_path / place).parent), place)
    assert (tmp_path / place).exists() or (tmp_path / place).is_symlink()


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "name", ["base/config.json", "tuned/tokenizer.json", "tuneport.json", "base/chat_template.jinja"]
)
def test_in_place_of_a_file_of_a_diff_vector(cli: Cli, tmp_path: Path, odd: str, name: str) -> None:
    made, diff = tiny.trio(tmp_path), tmp_path / "diff"
    assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", diff).status == 0
    put(odd, diff / name)
    for arguments in (["apply", diff, "--onto", made.target, "--out", tmp_path / "out"], ["verify", diff]):
        told(cli(*arguments), Path(name).name)
    assert not (tmp_path / "out").exists()


def test_a_file_of_an_output_grown_without_end_is_a_fault_that_verify_names(cli: Cli, tmp_path: Path) -> None:
    made, out = tiny.trio(tmp_path), tmp_path / "out"
    assert cli(*made.flags(out)).status == 0
    for odd in ODD:
        put(odd, out / "tokenizer.json")
        told(cli("verify", out), "tokenizer.json")


@pytest.mark.parametrize("odd", ODD)
def test_in_place_of_what_tune_evaluate_study_and_report_read(tmp_path: Path, odd: str) -> None:
    def of(read: Callable[[Path], object], name: str) -> None:
        put(odd, tmp_path / name)
        with pytest.raises(TuneportError) as caught:
            read(tmp_path / name)
        assert name.rpartition("/")[2] in str(caught.value) or name.partition("/")[0] in str(caught.value)

    of(lambda place: read_tasks([place]), "examples.jsonl")
    of(lambda place: read_sources([str(place)], "sft", [], 0), "data.jsonl")
    of(lambda place: read_sources([str(place)], "sft", [], 0), "data.parquet")
    of(lambda place: list(leaked([], [place])), "trained.jsonl")
    of(template_text, "template.jinja")
    of(read_digests, "tune-hashes.txt")
    of(read_study, "study.toml")
    (tmp_path / "study" / "steps" / "a-1").mkdir(parents=True)
    of(lambda place: report(place.parent, format="markdown"), "study/results.json")


GIVEN = (
    "evaluate {model} --tasks {odd} --out {out}",
    "evaluate {model} --tasks {tasks} --trained-on {odd} --out {out}",
    "evaluate {model} --tasks {tasks} --chat-template {odd} --out {out}",
    "path {model} {model} --data {odd} --out {out}",
    "study {odd} --out {out}",
    "report {odd}",
    "inspect {odd}",
    "verify {odd}",
    "transfer --base {odd} --tuned {model} --onto {model} --out {out}",
    "apply {odd} --onto {model} --out {out}",
)


@pytest.mark.parametrize("odd", ODD)
def test_in_place_of_what_a_command_is_given(cli: Cli, tmp_path: Path, odd: str) -> None:
    made = tiny.trio(tmp_path)
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "w1", "answer": "w2"}\n')
    for name in ("odd.jsonl", "odd"):
        put(odd, tmp_path / name)
        places = {"odd": name, "tasks": "tasks.jsonl", "out": "out"}
        given = {"model": made.base} | {word: tmp_path / place for word, place in places.items()}
        for words in GIVEN:
            told(cli(*(word.format(**given) for word in words.split())), name)
            assert not (tmp_path / "out").exists()


def test_a_folder_is_no_task_and_the_way_to_its_files_is_told(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    (tmp_path / "questions").mkdir()
    ran = cli("evaluate", made.base, "--tasks", tmp_path / "questions", "--out", tmp_path / "out")
    assert ran.status == 1 and "is a folder. Name each file in it" in ran.err


@pytest.mark.parametrize("odd", ["a named pipe", "a device"])
@pytest.mark.parametrize(
    "name", ["vocab.bpe", "special_tokens_map.json", "additional_chat_templates/x.jinja", "model.bin"]
)
def test_a_folder_is_handed_to_transformers_only_if_all_in_it_are_plain_files(
    tmp_path: Path, odd: str, name: str
) -> None:
    made = tiny.trio(tmp_path)
    (made.base / name).parent.mkdir(exist_ok=True)
    put(odd, made.base / name)
    with pytest.raises(TuneportError, match=name.rpartition("/")[2]):
        find_models([made.base])


def test_a_line_without_end_is_told(tmp_path: Path) -> None:
    sparse(tmp_path / "data.jsonl")
    with pytest.raises(TuneportError, match="a line of more than"):
        read_sources([str(tmp_path / "data.jsonl")], "sft", [], 0)
    with pytest.raises(DataError, match="more than"):
        read_tasks([tmp_path / "data.jsonl"])


def test_an_old_outputs_marks_and_plans_are_read_only_if_they_are_files(cli: Cli, tmp_path: Path) -> None:
    made, out = tiny.trio(tmp_path), tmp_path / "out"
    assert cli(*made.flags(out)).status == 0
    os.mkfifo(out / ".replaces")
    shutil.copytree(made.base, tmp_path / "out.old")
    assert cli(*made.flags(out)).status == 0 and (tmp_path / "out.old" / "config.json").exists()
    assert json.loads((out / "tuneport.json").read_text())["operation"] == "transfer"
