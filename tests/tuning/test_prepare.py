"""Before anything is trained: what cannot be done is told in words, and what would be done without doing it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.command_results import Cli
from support.quick_tuning import QUICK
from support.tiny_tuning import base_model, sums, write_rows

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.errors import (
    CheckpointError,
    DoubtError,
    OutputError,
    RenderingError,
    TrainingError,
    TuneportError,
    UsageError,
)
from tuneport.scoring.devices import best_device
from tuneport.tuning.prepare import prepare
from tuneport.tuning.recipes import DpoRecipe, GrpoRecipe, Lora, SftRecipe
from tuneport.tuning.run import rehearse, tune


@pytest.mark.parametrize(
    ("choices", "error", "words"),
    [
        ({"model": "absent"}, TuneportError, "absent"),
        ({"recipe": SftRecipe(steps=1, max_length=129)}, UsageError, "above the context of base, which is 128"),
        ({"recipe": DpoRecipe()}, TuneportError, "dpo needs `prompt` and `chosen` and `rejected`"),
        ({"recipe": GrpoRecipe()}, TuneportError, "no text in `answer`"),
        ({"recipe": GrpoRecipe(max_completion_length=200)}, TuneportError, "leaves no room"),
        ({"recipe": SftRecipe(steps=1, batch_size=8, per_device_train_batch_size=3)}, UsageError, "does not divide"),
        ({"report_to": "trackio"}, UsageError, "pip install trackio"),
        ({"lora": Lora(rank=2, targets=("no_such_module",))}, TuneportError, "no_such_module"),
        ({"lora": Lora(rank=2, targets=("input_layernorm",))}, TrainingError, "is not supported"),
        ({"lora": Lora(rank=2, targets=("q_proj", "lm_head"))}, TrainingError, "Remove `'lm_head'`"),
        ({"out": "nowhere/out"}, OutputError, "does not exist"),
        ({"out": "."}, OutputError, "choose another"),
    ],
)
def test_what_cannot_be_done_is_told_in_words_before_anything_is_made(
    base: Path, tmp_path: Path, choices: dict[str, Any], error: type[TuneportError], words: str
) -> None:
    data = write_rows(tmp_path / "data.jsonl", sums())
    if isinstance(choices.get("recipe"), GrpoRecipe) and choices["recipe"].max_completion_length == 200:
        data = write_rows(tmp_path / "data.jsonl", [{"prompt": "a", "answer": "b"}])
    given = {"model": base, "data": [data], "recipe": QUICK, "out": tmp_path / "out", **choices}
    if "out" in choices:
        given["out"] = base if choices["out"] == "." else tmp_path / choices["out"]
    with pytest.raises(error) as caught:
        tune(given.pop("model"), given.pop("data"), given.pop("recipe"), **given)
    assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"], "another choice may take the place"


def test_a_model_that_needs_code_of_its_own_is_refused_without_running_or_asking(
    base: Path, sums: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(base, foreign)
    config = json.loads((foreign / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (foreign / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    (foreign / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(TuneportError, match="foreign"):
        tune(foreign, [sums], QUICK, out=tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_model_without_tokenizer_files_is_refused_in_words(base: Path, sums: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "bare")
    for file in (tmp_path / "bare").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"bare: transformers cannot read its tokenizer \(files: none\)"):
        tune(tmp_path / "bare", [sums], QUICK, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tokenizer.json", '{"version": 1}', "broken: transformers cannot read its tokenizer"),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}', "hidden_size"),
    ],
)
def test_a_model_whose_files_are_damaged_is_refused_in_words(
    base: Path, sums: Path, tmp_path: Path, name: str, content: str, told: str
) -> None:
    shutil.copytree(base, tmp_path / "broken")
    (tmp_path / "broken" / name).write_text(content)
    with pytest.raises(CheckpointError, match=told):
        tune(tmp_path / "broken", [sums], QUICK, out=tmp_path / "out")


def test_an_adapter_is_no_start_and_the_way_on_is_told(base: Path, adapter: Path, sums: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is an adapter.*--base base --tuned lora --onto base"):
        tune(adapter, [sums], QUICK, out=tmp_path / "out")


def test_many_epochs_on_few_examples_are_warned_of_and_stop_a_strict_run(
    base: Path, sums: Path, tmp_path: Path
) -> None:
    (warning,) = prepare(base, [sums], SftRecipe(steps=30_000)).warnings
    assert "30,000 steps of 8 on 40 examples are 6,000 epochs" in warning
    with pytest.raises(DoubtError, match="6,000 epochs"):
        tune(base, [sums], SftRecipe(steps=30_000), out=tmp_path / "out", strict=True)
    assert prepare(base, [sums], SftRecipe(steps=None, epochs=30.0)).warnings == ()
    assert list(tmp_path.iterdir()) == []


def test_columns_are_named_on_the_command_line_and_those_without_a_use_are_told(
    base: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "t.csv").write_text("question;solution;level\n1 + 1 =;2;easy\n1 + 2 =;3;easy\n")
    data = f"{tmp_path}/t.csv?prompt:question&completion:solution"
    done = cli("tune", base, "--data", data, "--steps", "1", "--out", tmp_path / "out", "--dry-run", "--json")
    assert (done.status, done.json()["examples"]["examples"]) == (0, 2)
    assert done.json()["warnings"] == ["t.csv: ignored columns: `level`."]
    wrong = cli("tune", base, "--data", tmp_path / "t.csv", "--steps", "1", "--out", tmp_path / "out", "--dry-run")
    assert wrong.status == 1 and "'t.csv?prompt:question&completion:solution'" in wrong.err


def test_the_dry_run_says_what_would_happen_and_does_nothing(base: Path, sums: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("tune", base, "--data", sums, "--steps", "20", "--out", tmp_path / "out", "--dry-run", "--json")
    told = done.json()
    assert done.status == 0
    assert (told["steps"], told["epochs"], told["examples"]["examples"]) == (20, 4.0, 40)
    assert told["tokens"] == 4 * told["examples"]["tokens"]
    assert told["seconds"]["training"] > 0 == told["seconds"]["scoring"] and told["device"] == best_device()
    one, four = told["memory_per_device"]["1"], told["memory_per_device"]["4"]
    assert one["gradients"] == 4 * told["parameters"]
    assert one["optimizer"] == 8 * told["parameters"]
    assert four["total"] < one["total"]
    assert told["start"] is None
    assert list(tmp_path.iterdir()) == []


def test_the_dry_run_counts_what_is_generated_token_by_token(base: Path, sums: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text(
        '{"prompt": "1 + 1 =", "answer": "2"}\n{"prompt": "2 + 1 =", "answer": "3"}\n'
    )
    layers = open_checkpoint(base, "model").config["num_hidden_layers"]

    def scoring(**more: Any) -> float:
        choices = {"steps": 40, "eval_every": 10, "tasks": [str(tmp_path / "asked.jsonl")], "eval_batch_size": 1}
        planned = rehearse(base, [sums], out=tmp_path / "out", **{**choices, **more})
        return float(planned["seconds"]["scoring"])

    assert scoring(max_new_tokens=8) > 4 * 2 * 8 * layers * 3e-4  # points, questions, tokens, seconds of a layer
    assert scoring(max_new_tokens=16) > 1.7 * scoring(max_new_tokens=8)
    assert scoring(max_new_tokens=8, eval_batch_size=2) < 0.7 * scoring(max_new_tokens=8)


def test_the_dry_run_knows_a_transferred_start(base: Path, full: Path, sums: Path, tmp_path: Path, cli: Cli) -> None:
    other = base_model(tmp_path / "other", seed=1)
    assert cli("transfer", "--base", base, "--tuned", full, "--onto", other, "--out", tmp_path / "moved").status == 0
    told = cli("tune", tmp_path / "moved", "--data", sums, "--out", tmp_path / "out", "--dry-run")
    assert "already contains a fine-tuning by transfer (target + (tuned − base)" in told.out.replace("\n", " ")
    assert "(--eval-every)" in told.out, "options are named as the command line writes them"


# Gemma's and Mistral's own templates refuse a system's message, and turns that do not alternate.
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}{{ m.role + ': ' + m.content + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_model(tmp_path_factory.mktemp("strict") / "strict", template=STRICT)


def turn(role: str, content: str = "the fox") -> dict[str, str]:
    return {"role": role, "content": content}


ANSWER = turn("assistant", "jumps")


@pytest.mark.parametrize(
    ("recipe", "rows"),
    [
        (
            QUICK,
            [
                {"messages": [*asked, ANSWER]}
                for asked in ([turn("system"), turn("user")], [turn("user")], 2 * [turn("user")])
            ],
        ),
        (
            DpoRecipe(steps=1, epochs=None, batch_size=1),
            [
                {"prompt": asked, "chosen": [ANSWER], "rejected": [turn("assistant", "over")]}
                for asked in ([turn("system"), turn("user")], [turn("user")], 2 * [turn("user")])
            ],
        ),
        (
            GrpoRecipe(steps=1, epochs=None, batch_size=1, num_generations=2, max_completion_length=4),
            [{"prompt": asked, "answer": "jumps"} for asked in ([turn("system")], [turn("user")], 2 * [turn("user")])],
        ),
    ],
    ids=["sft", "dpo", "grpo"],
)
def test_all_lines_that_the_template_refuses_are_told_before_anything_is_made(
    strict: Path, tmp_path: Path, recipe: Any, rows: list[dict[str, Any]]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("\n\n".join(map(json.dumps, rows)))  # blank lines count too
    with pytest.raises(RenderingError) as caught:
        tune(strict, [data], recipe, out=tmp_path / "out")
    assert str(caught.value) == (
        "The chat template fails on 2 example(s):\n"
        "  - data.jsonl: line 1: System role not supported\n"
        "  - data.jsonl: line 5: Roles must alternate\n"
        "Change these examples, or choose another chat_template."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_a_template_that_refuses_whatever_it_is_given_is_told_by_the_examples(base: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", 2 * [{"messages": [turn("user"), ANSWER]}])
    for template, words in (
        ("{{ messages[0].tool.name }}", "data.jsonl: line 1, line 2: 'dict object' has no attribute 'tool'"),
        ("{{ messages | absent }}", "cannot be rendered: line 1 of the template: .* \\(data.jsonl: line 1\\)"),
    ):
        own = tmp_path / str(len(words))
        shutil.copytree(base, own)
        (own / "chat_template.jinja").write_text(template)
        for model, chosen in ((own, None), (base, str(own / "chat_template.jinja"))):
            with pytest.raises(RenderingError, match=words):
                prepare(model, [data], QUICK, chat_template=chosen)


def test_a_torn_template_of_the_models_own_ends_with_its_line_and_status_1(tmp_path: Path, cli: Cli) -> None:
    torn = base_model(tmp_path / "torn", template="{% for m in messages %}\n{{ m.content }")
    data = write_rows(tmp_path / "data.jsonl", [{"messages": [turn("user"), ANSWER]}])
    ran = cli("tune", torn, "--data", data, "--steps", "1", "--out", tmp_path / "out", "--dry-run")
    assert ran.status == 1
    assert ran.err == (
        "tuneport: The chat template cannot be rendered: line 2 of the template: unexpected '}' (data.jsonl: line 1). "
        "Choose another --chat-template.\n"
    )


def test_examples_of_a_curve_that_the_template_refuses_are_told_hours_before_they_are_scored(
    strict: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "data.jsonl", sums())
    curve = write_rows(tmp_path / "curve.jsonl", [{"messages": [turn("system"), turn("user")], "answer": "jumps"}])
    with pytest.raises(RenderingError, match=r"curve\.jsonl: line 1: System role not supported"):
        tune(strict, [data], QUICK, out=tmp_path / "out", eval_every=1, tasks=(str(curve),))


def test_a_template_that_writes_nothing_without_a_system_message_is_one(base: Path, tmp_path: Path) -> None:
    template = STRICT.replace("== 'system'", "!= 'system'").replace("== 0", "== 1")
    rows = [{"messages": [turn("system"), turn("user"), ANSWER]}]
    path = tmp_path / "mine.jinja"
    path.write_text(template)
    prepared = prepare(base, [write_rows(tmp_path / "data.jsonl", rows)], QUICK, chat_template=str(path))
    assert prepared.chat.end_token == "<|end|>"


@pytest.mark.parametrize("odd", ["a named pipe", "a device", "a sparse file"])
@pytest.mark.parametrize("name", ["odd.jsonl", "odd.parquet", "odd"])
def test_data_and_templates_that_are_no_plain_files_of_a_size_end_the_command_in_words(
    cli: Cli, base: Path, chats: Path, tmp_path: Path, odd: str, name: str
) -> None:
    place = tmp_path / name
    if odd == "a named pipe":
        os.mkfifo(place)
    elif odd == "a device":
        place.symlink_to("/dev/zero")
    else:
        with place.open("wb") as file:
            file.truncate(2**40)
    out = tmp_path / "out"
    for data in (
        ["--data", place],
        ["--data", chats, "--eval-every", "1", "--tasks", place],
        ["--data", chats, "--chat-template", place],
    ):
        ran = cli("tune", base, "--recipe", "sft", *data, "--out", out)
        assert ran.status == 1 and name in ran.err and "Traceback" not in ran.err, ran
        assert not out.exists()
