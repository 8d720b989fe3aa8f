"""Templates and expressions of others, through the commands that meet them: each ends in words, soon, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from support import tiny_scored
from support.command_results import Cli, Ran

ENDLESS = "([a-z_.0-9]+)+!"
# Two lists that hold themselves twice, 60 deep: they are compared in code that looks at no signal.
COMPARES = (
    "{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}"
    "{% endfor %}{{ n.a == n.b }}"
)
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}{{ n.a }}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked") / "model"
    tiny_scored.make_model(folder, 0)
    return folder


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": tiny_scored.question(name)}], "answer": "in rome"}
        for name in tiny_scored.NAMES
    ]
    return tiny_scored.write_rows(tmp_path / "spoken.jsonl", rows)


def evaluated(cli: Cli, model: Path, tasks: Path, tmp_path: Path) -> Ran:
    return cli(
        "evaluate", model, "--tasks", tasks, "--out", tmp_path / "o.json", "--max-new-tokens", "2", "--device", "cpu"
    )


def tuned(cli: Cli, model: Path, tasks: Path, tmp_path: Path) -> Ran:
    answer = {"role": "assistant", "content": "in rome"}
    rows = [json.loads(line) for line in tasks.read_text().splitlines()]
    data = tiny_scored.write_rows(tmp_path / "data.jsonl", [{"messages": [*row["messages"], answer]} for row in rows])
    return cli("tune", model, "--data", data, "--out", tmp_path / "tuned", "--steps", "1")


def walked(cli: Cli, model: Path, tasks: Path, tmp_path: Path) -> Ran:
    return cli("path", model, shutil.copytree(model, tmp_path / "other"), "--data", tasks, "--out", tmp_path / "p.json")


def left(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir()} - {"model", "other", "adapter", "spoken.jsonl", "data.jsonl"}


@pytest.mark.parametrize("command", [evaluated, tuned, walked])
@pytest.mark.parametrize(
    ("template", "words"),
    [
        (COMPARES, "it does not finish within"),
        (LOOPS, "it does not finish within"),
        (GROWS, "it needs more than 512 MiB"),
    ],
)
def test_a_template_without_an_end_or_a_bound_ends_in_words(
    command: Callable[..., Ran],
    template: str,
    words: str,
    cli: Cli,
    copied: Path,
    spoken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if template is not GROWS:
        monkeypatch.setattr("tuneport.examples.rendering.SECONDS", 0.3)
    (copied / "chat_template.jinja").write_text(template)
    ran = command(cli, copied, spoken, tmp_path)
    assert ran.status == 1 and words in ran.err, ran.err
    assert left(tmp_path) == set()


@pytest.fixture
def adapted(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """An adapter of the model, with other settings."""

    def make(**settings: Any) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        adapter = tmp_path / "adapter"
        made = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, target_modules=["q_proj"]))
        made.save_pretrained(adapter)
        config = adapter / "adapter_config.json"
        own = json.loads(config.read_text()) | {"base_model_name_or_path": str(model)}
        config.write_text(json.dumps(own | settings))
        return adapter

    return make


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": ENDLESS}, "matching its expressions (`target_modules`) with"),
        ({"rank_pattern": {ENDLESS: 2}}, "matching its expressions (`rank_pattern`) with"),
        ({"exclude_modules": "("}, "is not a valid regular expression"),
        ({"r": 2**30}, "the rank 1073741824 does not match a matrix in its file"),
        ({"layer_replication": [[0, 1]] * 20_000}, "creates 20,000 layers"),
        ({"megatron_config": {"a": 1}, "megatron_core": "this"}, "import a module named in the file"),
    ],
)
def test_what_an_adapter_asks_of_peft_ends_in_words(
    settings: dict[str, Any],
    words: str,
    cli: Cli,
    adapted: Callable[..., Path],
    spoken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tuneport.files.expressions.SECONDS", 0.3)
    ran = evaluated(cli, adapted(**settings), spoken, tmp_path)
    assert ran.status == 1 and words in ran.err, ran.err


def test_settings_of_any_depth_end_in_words(
    cli: Cli, adapted: Callable[..., Path], spoken: Path, tmp_path: Path
) -> None:
    config = adapted() / "adapter_config.json"
    config.write_text(config.read_text().rstrip()[:-1] + ',"x":' + "[" * 5000 + "]" * 5000 + "}")
    ran = evaluated(cli, config.parent, spoken, tmp_path)
    assert ran.status == 1 and "adapter_config.json" in ran.err and "nested" in ran.err, ran.err


DEEP = '{"a": ' + "[" * 5000 + "]" * 5000 + "}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config.json", DEEP),
        ("generation_config.json", '{"eos_token_id": {"a": 1}}'),
        ("tokenizer_config.json", DEEP),
        ("special_tokens_map.json", DEEP),
        ("config.json", DEEP),
    ],
)
def test_settings_with_anything_in_them_end_in_words(
    name: str, content: str, cli: Cli, copied: Path, spoken: Path, tmp_path: Path
) -> None:
    (copied / name).write_text(content)
    for ran in (evaluated(cli, copied, spoken, tmp_path), tuned(cli, copied, spoken, tmp_path)):
        assert ran.status == 1, ran.err


def test_a_tokenizers_expression_without_an_end_ends_in_words(cli: Cli, copied: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((copied / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    (copied / "tokenizer.json").write_text(json.dumps(tokenizer))
    asked = tiny_scored.write_rows(
        tmp_path / "spoken.jsonl", [{"prompt": "a" * 60 + "!", "answer": "b"}, {"prompt": "b", "answer": "b"}]
    )
    ran = evaluated(cli, copied, asked, tmp_path)
    assert ran.status == 1 and "an expression in the model's tokenizer.json takes too long" in ran.err, ran.err


@pytest.mark.parametrize("command", [evaluated, tuned, walked])
def test_a_billion_layers_in_a_config_end_in_words(
    command: Callable[..., Ran], cli: Cli, copied: Path, spoken: Path, tmp_path: Path
) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    ran = command(cli, copied, spoken, tmp_path)
    assert ran.status == 1 and "`num_hidden_layers` is 1000000000, but the weights have 1,000" in ran.err, ran.err
