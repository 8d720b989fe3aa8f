"""Names and texts of others cannot begin a line on the terminal, move its cursor, or fill it.

In each scenario one name of a file holds a line feed and what moves a cursor, wherever a name of that kind comes into what a
command prints: a refusal, a warning, a plan.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_checkpoints as tiny
from support.command_results import Cli, Ran

import tuneport
from tuneport.files.printable import MOST_OF_A_NAME, expression_of, printable_lines, quoted

# The word shows where a line begins; the rest is one of each kind of character that is not to reach a terminal as it stands.
FORGED = (
    "x\nFORGED: done\r\x1b[2J\x1b]0;title\x07\x85\x9b1m\u2028FORGED\u202e\u2066\x7f\0 `; touch forged; ' \" | # <b>\ty"
)
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
WIDE = f"model.layers.0.{FORGED}_proj.weight"


def safe(ran: Ran) -> None:
    shown = ran.out + ran.err
    assert not UNSAFE.search(shown) and "Traceback" not in shown, shown
    assert not re.search(r"\\(x|u00)1[ef]", shown), "the marks around names of options in our messages"
    assert not [line for line in shown.split("\n") if line.lstrip(" -").startswith("FORGED")], shown
    # The one line of --json is for programs, and holds names as they are.
    assert all(len(line) < 12_000 or line.startswith("{") for line in shown.split("\n"))
    assert ran.status in (0, 1, 2)


def with_tensor(
    path: Path, name: str = WIDE, shape: tuple[int, ...] = (8, 8), dtype: torch.dtype = torch.bfloat16
) -> None:
    weights = load_file(path / "model.safetensors")
    made = torch.Generator().manual_seed(len(str(path)))
    tiny.write_weights(path, {**weights, name: torch.randn(shape, generator=made).to(dtype)})


def edited(path: Path, file: str, change: Callable[[dict], object]) -> None:
    content = json.loads((path / file).read_text()) if (path / file).exists() else {}
    change(content)
    (path / file).write_text(json.dumps(content))


SCENARIOS: dict[str, Callable[[tiny.Trio], object]] = {
    "a tensor of all": lambda made: [with_tensor(path) for path in made.paths],
    "a tensor of the base": lambda made: with_tensor(made.base),
    "a tensor of the tuned model": lambda made: with_tensor(made.tuned),
    "a tensor of the target": lambda made: with_tensor(made.target),
    "a tensor of base and tuned": lambda made: [with_tensor(path) for path in made.paths[:2]],
    "a tensor of another shape": lambda made: [
        with_tensor(path, shape=(8, 8 + i)) for i, path in enumerate(made.paths)
    ],
    "rows that may be tokens": lambda made: [with_tensor(path, shape=(24, 8)) for path in made.paths],
    "a tensor of another dtype": lambda made: [
        with_tensor(path, dtype=(torch.float32, torch.int8, torch.float16)[i]) for i, path in enumerate(made.paths)
    ],
    "NaN": lambda made: [
        tiny.write_weights(path, {**load_file(path / "model.safetensors"), WIDE: torch.full((2, 2), float("nan"))})
        for path in made.paths
    ],
    "integers that differ": lambda made: [
        tiny.write_weights(path, {**load_file(path / "model.safetensors"), WIDE: torch.tensor([i])})
        for i, path in enumerate(made.paths)
    ],
    "all names": lambda made: [
        tiny.write_weights(
            path, {f"{i}{FORGED}{name}": value for name, value in load_file(path / "model.safetensors").items()}
        )
        for i, path in enumerate(made.paths)
    ],
    "a name of 2 MB": lambda made: [with_tensor(path, f"{'n' * 2_000_000}.weight") for path in made.paths[1:]],
    "a name in an index": lambda made: (
        tiny.write_weights(made.tuned, load_file(made.tuned / "model.safetensors"), shards=2),
        edited(
            made.tuned,
            "model.safetensors.index.json",
            lambda index: index["weight_map"].update({FORGED: "model-00001-of-00002.safetensors"}),
        ),
    ),
    "a file in an index": lambda made: (
        tiny.write_weights(made.tuned, load_file(made.tuned / "model.safetensors"), shards=2),
        edited(
            made.tuned,
            "model.safetensors.index.json",
            lambda index: index["weight_map"].update({"model.norm.weight": f"{FORGED.replace('/', '')}.safetensors"}),
        ),
    ),
    "a file's name": lambda made: [
        (path / f"{FORGED.replace(chr(0), '').replace('/', '')}{end}").write_text("x")
        for path in made.paths
        for end in (".py", ".txt", ".safetensors")
    ],
    "the only weight file": lambda made: (made.tuned / "model.safetensors").rename(
        made.tuned / f"{FORGED.replace(chr(0), '').replace('/', '')}.safetensors"
    ),
    "a field of config.json": lambda made: [
        edited(path, "config.json", lambda config, i=i: config.update({FORGED: i, "rope_theta": i}))
        for i, path in enumerate(made.paths)
    ],
    "a value of config.json": lambda made: [
        edited(
            path,
            "config.json",
            lambda config, i=i: config.update(
                {"rope_scaling": f"{FORGED}{i}", "hidden_act": f"{FORGED}{i}", "name": f"{FORGED}{i}"}
            ),
        )
        for i, path in enumerate(made.paths)
    ],
    "a kind of model": lambda made: [
        edited(
            path,
            "config.json",
            lambda config, i=i: config.update({"model_type": f"{FORGED}{i}", "architectures": [f"{FORGED}{i}"]}),
        )
        for i, path in enumerate(made.paths)
    ],
    "a dtype": lambda made: edited(
        made.tuned,
        "config.json",
        lambda config: config.update({"torch_dtype": FORGED, "quantization_config": {"quant_method": FORGED}}),
    ),
    "a file named in config.json": lambda made: edited(
        made.tuned, "config.json", lambda config: config.update({"transformers_weights": f"{FORGED}.safetensors"})
    ),
    "a generation setting": lambda made: [
        edited(
            path,
            "generation_config.json",
            lambda config, i=i: config.update({FORGED: i, "temperature": f"{FORGED}{i}"}),
        )
        for i, path in enumerate(made.paths)
    ],
    "special tokens": lambda made: [
        edited(
            path,
            "tokenizer_config.json",
            lambda config, i=i: config.update(
                {"eos_token": f"{FORGED}{i}", FORGED: i, "extra_special_tokens": {FORGED: f"{i}{FORGED}"}}
            ),
        )
        for i, path in enumerate(made.paths)
    ],
    "the list of special tokens": lambda made: [
        edited(
            path,
            "special_tokens_map.json",
            lambda config, i=i: config.update({"pad_token": f"{FORGED}{i}", FORGED: [i]}),
        )
        for i, path in enumerate(made.paths)
    ],
    "a template": lambda made: [
        (path / "chat_template.jinja").write_text(f"{{{{ '{FORGED}{i}' }}}}") for i, path in enumerate(made.paths)
    ],
    "a token": lambda made: edited(
        made.tuned, "tokenizer.json", lambda content: content["model"]["vocab"].update({FORGED: 24})
    ),
    "added tokens": lambda made: [
        edited(
            path,
            "tokenizer.json",
            lambda content, i=i: content.update(tiny.tokenizer([*tiny.WORDS[:22]], [f"{FORGED}{i}", f"{FORGED}"])),
        )
        for i, path in enumerate(made.paths)
    ],
    "a part of a tokenizer": lambda made: [
        edited(
            path,
            "tokenizer.json",
            lambda content, i=i: content.update({"normalizer": {"type": f"{FORGED}{i}"}, FORGED: i}),
        )
        for i, path in enumerate(made.paths)
    ],
    "an option of a tokenizer": lambda made: [
        edited(
            path,
            "tokenizer.json",
            lambda content, i=i: content["model"].update({FORGED: f"{FORGED}{i}", "unk_token": f"{FORGED}{i}"}),
        )
        for i, path in enumerate(made.paths)
    ],
    "processors": lambda made: [
        edited(path, "preprocessor_config.json", lambda content, i=i: content.update({FORGED: f"{FORGED}{i}"}))
        for i, path in enumerate(made.paths)
    ],
    "modules": lambda made: [
        (path / "modules.json").write_text(
            json.dumps([{"idx": 0, "name": FORGED, "path": f"{FORGED}{i}", "type": FORGED}])
        )
        for i, path in enumerate(made.paths)
    ],
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_name_or_text_of_a_checkpoint_begins_a_line_or_moves_the_cursor(cli: Cli, tmp_path: Path, name: str) -> None:
    made = tiny.trio(tmp_path / "models", shards=(1, 1, 1))
    SCENARIOS[name](made)
    flags = made.flags(tmp_path / "out")
    for path in made.paths:
        safe(cli("inspect", path))
    for more in ([], ["--new-tokens", "all"], ["--strict"], ["--json"]):
        safe(cli(*flags, "--dry-run", *more))
    done = cli(*flags)
    safe(done)
    safe(cli("diff", *flags[1:5], "--out", tmp_path / "diff"))
    if (tmp_path / "diff").exists():
        safe(cli("inspect", tmp_path / "diff"))
        safe(cli("apply", tmp_path / "diff", *flags[5:7], "--out", tmp_path / "applied"))
    if done.status == 0:
        safe(cli("inspect", tmp_path / "out"))
        assert not re.search(r"\\u001[ef]", (tmp_path / "out" / "tuneport.json").read_text())
        assert cli("verify", tmp_path / "out", *flags[1:7], "--full").status == 0
        card = (tmp_path / "out" / "README.md").read_text()
        assert not UNSAFE.search(card) and not [line for line in card.splitlines() if line.startswith("FORGED")]
        shutil.copy(made.base / "model.safetensors", tmp_path / "out" / "model.safetensors")
        safe(cli("verify", tmp_path / "out", *flags[1:7], "--full"))
        safe(cli("verify", tmp_path / "out"))


ADAPTERS: dict[str, Callable[[Path], object]] = {
    "a factor": lambda path: changed_factors(path, lambda name: f"{name}{FORGED}"),
    "a module": lambda path: changed_factors(path, lambda name: name.replace("layers.0", f"layers.{FORGED}")),
    "a saved tensor": lambda path: changed_factors(path, lambda name: name.replace(".lora_A", f".{FORGED}")),
    "a setting": lambda path: edited(path, "adapter_config.json", lambda config: config.update({FORGED: FORGED})),
    "a kind": lambda path: edited(path, "adapter_config.json", lambda config: config.update({"peft_type": FORGED})),
    "a task": lambda path: edited(
        path, "adapter_config.json", lambda config: config.update({"task_type": FORGED, "bias": FORGED})
    ),
    "its base": lambda path: edited(
        path, "adapter_config.json", lambda config: config.update({"base_model_name_or_path": FORGED})
    ),
    "its targets": lambda path: edited(
        path, "adapter_config.json", lambda config: config.update({"target_modules": [FORGED]})
    ),
    "an expression": lambda path: edited(
        path, "adapter_config.json", lambda config: config.update({"target_modules": f"(({FORGED}"})
    ),
    "a rank": lambda path: edited(
        path,
        "adapter_config.json",
        lambda config: config.update({"rank_pattern": {FORGED: 3}, "alpha_pattern": {FORGED: FORGED}}),
    ),
    "whole modules": lambda path: edited(
        path, "adapter_config.json", lambda config: config.update({"modules_to_save": [FORGED]})
    ),
    "parameters": lambda path: edited(
        path, "adapter_config.json", lambda config: config.update({"target_parameters": [FORGED]})
    ),
    "trained tokens": lambda path: edited(
        path, "adapter_config.json", lambda config: config.update({"trainable_token_indices": {FORGED: [1]}})
    ),
}


def changed_factors(path: Path, name: Callable[[str], str]) -> None:
    factors = load_file(path / "adapter_model.safetensors")
    save_file({name(each): value for each, value in factors.items()}, path / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ADAPTERS)
def test_no_name_of_an_adapter_begins_a_line_or_moves_the_cursor(cli: Cli, tmp_path: Path, name: str) -> None:
    made = tiny.trio(tmp_path / "models")
    adapter = tiny.write_lora(tmp_path / "lora", made.tensors["base"], 2)
    ADAPTERS[name](adapter)
    safe(cli("inspect", adapter))
    safe(cli("transfer", "--base", made.base, "--tuned", adapter, "--onto", made.target, "--out", tmp_path / "out"))


@pytest.mark.parametrize(
    "row",
    [
        {FORGED: 1},
        {"task": FORGED, "id": FORGED},
        {"answer": FORGED, "choices": [FORGED]},
        {"messages": [{"role": FORGED, "content": "a"}]},
        {"meta": FORGED},
    ],
)
def test_no_text_of_an_example_begins_a_line_or_moves_the_cursor(cli: Cli, tmp_path: Path, row: dict) -> None:
    made = tiny.trio(tmp_path / "models")
    data = tmp_path / "tasks.jsonl"
    data.write_text(2 * (json.dumps({"prompt": "w1", "answer": "w2", **row}) + "\n"))
    safe(cli("evaluate", made.base, "--tasks", data, "--out", tmp_path / "out.json"))
    safe(cli("path", made.base, made.tuned, "--data", data, "--out", tmp_path / "path.json"))


@pytest.mark.parametrize(
    "line", ['["", 1]', '"" = 1', '[models]\n"" = "x"', 'name = ""', '[[do]]\nname = ""', '[versions]\nmodels = [""]']
)
def test_no_text_of_a_studys_file_begins_a_line_or_moves_the_cursor(cli: Cli, tmp_path: Path, line: str) -> None:
    text = json.dumps(FORGED).replace("\\u007f", "\x7f")
    (tmp_path / "study.toml").write_text(line.replace('""', text) + "\n")
    safe(cli("study", tmp_path / "study.toml", "--out", tmp_path / "out"))


def test_a_very_long_name_is_shown_by_its_beginning() -> None:
    assert quoted("n" * MOST_OF_A_NAME) == f"`{'n' * MOST_OF_A_NAME}`"
    assert quoted("n" * 10**7) == f"`{'n' * MOST_OF_A_NAME}… ({10**7 - MOST_OF_A_NAME:,} more characters)`"
    assert len(printable_lines(f"{'x' * 10**7}\nshort")) < 10_000 and printable_lines("a\tb\nc") == "a\tb\nc"


@pytest.mark.parametrize("name", [FORGED, "model.layers.0.weight", "a'; rm -r '", "\\x1b", "\ud800", "{}[]()*+?$^|.\\"])
def test_an_expression_of_a_name_matches_it_and_can_be_copied_from_a_terminal(name: str) -> None:
    expression = expression_of(name)
    assert re.fullmatch(expression, name) and not UNSAFE.search(expression) and not set("'\n\t") & set(expression)
    assert not re.search(f"^{expression}$", f"{name}x")


def test_no_message_puts_a_name_between_backticks_by_itself() -> None:
    found = []
    for file in Path(tuneport.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr) and file.name != "printable.py":
                parts = ["{}" if isinstance(part, ast.FormattedValue) else part.value for part in node.values]
                if "`{}`" in "".join(parts):
                    found.append(f"{file.name}:{node.lineno}")
    assert not found, "give the name to `quoted`"
