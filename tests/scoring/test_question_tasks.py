"""Likelihoods of one's own examples, against a slow reading of the same real model: log-softmax, token by token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_scored
from support.tiny_tokenizers import byte_level, write_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import tuneport
from tuneport.errors import DataError, RenderingError, ScoringError
from tuneport.examples.questions import Example, OwnTask
from tuneport.scoring.evaluate_options import Asking
from tuneport.scoring.harness import ask
from tuneport.scoring.models import Loading, find_models, load
from tuneport.scoring.named import NamedTask, ask_named
from tuneport.scoring.question_tasks import _common, ask_own

BEGIN, END = "<|begin|>", "<|end|>"
LINES = "{% for m in messages %}{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}"
PLAIN = (
    "{% for m in messages %}{{ raise_exception('no system') if m.role == 'system' }}{{ m.role + ':' + m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
QUESTIONS = ("the fox", "the quick dog", "a model", "one", "lazy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokenizer writes a beginning before every text, and has the one token ":B"."""
    place = tmp_path_factory.mktemp("asked") / "random"
    document = byte_level([BEGIN, END], BEGIN, first=True)
    size = len(document["model"]["vocab"]) + 1
    document["model"]["vocab"][":B"] = size - 1
    document["model"]["merges"].append([":", "B"])
    document["pre_tokenizer"]["use_regex"] = False  # letters and marks may be one token
    write_tokenizer(
        place, document, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END}
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=1,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return load(find_models([folder])[0], Loading(device="cpu"), lambda _: None)


@pytest.fixture
def model(loaded: Any) -> Any:
    """The model as the harness has it, and what it tells."""
    loaded.told = []
    loaded.tell = loaded.told.extend
    return loaded


def slowly(folder: Path, before: str, after: str) -> tuple[float, int]:
    """The log-likelihood of one text's tokens after another's, and how many there are; no token is added to either."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    first, second = (tokenizer.encode(text, add_special_tokens=False) for text in (before, after))
    with torch.inference_mode():
        logs = model(torch.tensor([first + second])).logits[0].log_softmax(-1)
    places = range(len(first), len(first) + len(second))
    return sum(float(logs[place - 1, (first + second)[place]]) for place in places), len(second)


def task_of(kind: Any, answers: Sequence[str], choices: tuple[str, ...] = (), *, spoken: bool = True) -> OwnTask:
    def example(place: int, answer: str) -> Example:
        asked = QUESTIONS[place]
        messages = ({"role": "user", "content": asked},) if spoken else None
        return Example(str(place + 1), place + 1, answer, None if spoken else f"{asked}\nanswer:", messages, choices)

    return OwnTask("t", kind, tuple(example(place, answer) for place, answer in enumerate(answers)), "t.jsonl")


def test_the_loss_is_that_of_the_answers_tokens_after_what_the_template_writes(folder: Path, model: Any) -> None:
    model.tokenizer.chat_template = LINES
    answers = ("jumps", " over the dog", "a", "\n two")
    result = ask_own(task_of("loss", answers), model, Asking(loss=True))
    for outcome, answer, asked in zip(result.outcomes, answers, QUESTIONS, strict=False):
        # No beginning is added to what the template writes, and its line end is no part of the answer.
        likelihood, count = slowly(folder, f"user\n{asked}{END}\nassistant\n", answer)
        assert (outcome.score, outcome.weight) == (pytest.approx(-likelihood / count, rel=1e-4), count)
    assert model.told == []


def test_the_loss_of_a_prompts_answer_comes_after_the_beginning_that_the_tokenizer_writes(
    folder: Path, model: Any
) -> None:
    result = ask_own(task_of("loss", ["jumps", "over"], spoken=False), model, Asking(loss=True))
    for outcome, answer, asked in zip(result.outcomes, ("jumps", "over"), QUESTIONS, strict=False):
        likelihood, count = slowly(folder, f"{BEGIN}{asked}\nanswer:", f" {answer}")
        assert (outcome.score, outcome.weight) == (pytest.approx(-likelihood / count, rel=1e-4), count)


def test_a_choice_whose_token_spans_the_join_is_likely_as_its_own_tokens_are_and_told(folder: Path, model: Any) -> None:
    model.tokenizer.chat_template = PLAIN
    choices = ("A", "B", "C", "D")
    result = ask_own(task_of("choice", ["B"] * 5, choices), model, Asking())
    prompts = [f"user:{asked}\nassistant:" for asked in QUESTIONS]
    likeliest = [max(choices, key=lambda choice: slowly(folder, prompt, choice)[0]) for prompt in prompts]
    assert [outcome.said for outcome in result.outcomes] == likeliest
    assert set(likeliest) != {"B"}, "else a choice without tokens, which is certain, would not be seen"
    (warning,) = model.told
    assert (
        "in 5 of 5 examples of t one token spans the end of the prompt and the beginning of an answer (t 1: ':B'"
        in warning
    )
    loss = ask_own(task_of("loss", ["B"]), model, Asking(loss=True)).outcomes[0]
    assert loss.score == pytest.approx(-slowly(folder, prompts[0], "B")[0], rel=1e-4)


def test_choices_of_the_same_tokens_are_told(model: Any) -> None:
    ask_own(task_of("choice", ["fox", "fox"], ("dog", "fox", " fox"), spoken=False), model, Asking())
    (warning,) = model.told
    assert "in 2 of 2 examples of t (1, 2) two choices have the same tokens" in warning


def test_the_harness_is_not_let_count_a_choice_without_tokens_as_certain(folder: Path, model: Any) -> None:
    prompts = [f"{asked}\nanswer:" for asked in QUESTIONS]
    config = _common("picked", len(prompts)) | {
        "output_type": "multiple_choice",
        "doc_to_text": lambda document: prompts[document["place"]],
        "doc_to_choice": lambda _: ["A", "B"],
        "doc_to_target": lambda _: 1,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    for sample, prompt in zip(ask(config, model), prompts, strict=True):
        found = [likelihood for likelihood, _ in sample["filtered_resps"]]
        assert found == pytest.approx([slowly(folder, BEGIN + prompt, choice)[0] for choice in ("A", "B")], rel=1e-4)
    (warning,) = model.told
    assert (
        "in 5 of 10 prompts one token spans the end of the prompt and the beginning of an answer (picked 0; picked 1"
        in warning
    )


@pytest.mark.parametrize(("last", "words"), [("", "'' has no tokens"), ("x" * 65, "has 65 tokens")])
def test_what_the_harness_would_end_at_in_an_assertion_is_told(model: Any, last: str, words: str) -> None:
    config = _common("odd", 2) | {
        "output_type": "multiple_choice",
        "doc_to_text": lambda document: QUESTIONS[document["place"]],
        "doc_to_choice": lambda document: ["A", "B" if document["place"] == 0 else last],
        "doc_to_target": lambda _: 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    with pytest.raises(ScoringError, match=f"model random: odd 1: the answer .*{words}"):
        ask(config, model)


def harness_task(**config: Any) -> NamedTask:
    from lm_eval.api.task import ConfigurableTask

    asked = _common("named", 2) | {
        "output_type": "multiple_choice",
        "doc_to_text": lambda document: QUESTIONS[document["place"]],
        "doc_to_choice": lambda _: ["jumps", "over"],
        "doc_to_target": lambda _: 1,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    return NamedTask("named", {"named": ConfigurableTask(config=asked | config)}, {}, None, True)


def test_what_the_harness_does_to_prompts_of_a_template_is_told(model: Any) -> None:
    model.tokenizer.chat_template = LINES
    ask_named(harness_task(), model)
    assert model.told == [
        "random: 4 prompts of named end in spaces or line breaks, which lm-evaluation-harness counts as the first "
        "tokens of each "
        "answer. acc_norm would change without them."
    ]
    model.told.clear()
    model.tokenizer.chat_template = PLAIN
    ask_named(harness_task(description="Say what it does."), model)
    assert model.told == [
        "random: its chat template rejects a system message (no system); lm-evaluation-harness leaves it out, "
        "together with the task's description."
    ]
    model.tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(RenderingError, match="model random: its chat template fails on the task's prompts: never"):
        ask_named(harness_task(), model)


@pytest.mark.parametrize(
    ("row", "loss", "words"),
    [
        (
            {"prompt": "where lives", "choices": ["in paris", " "], "answer": 0},
            False,
            "t.jsonl: line 2: .* no tokens for the choice",
        ),
        ({"text": " "}, False, "t.jsonl: line 2: .* no tokens for the text"),
        ({"prompt": " ", "answer": "anna"}, False, "t.jsonl: line 2: .* no tokens for the prompt"),
        (
            {"prompt": "where lives", "answer": "the town " * 30},
            True,
            "the answer has 60 tokens, but the context has 48",
        ),
    ],
)
def test_an_answer_that_cannot_be_measured_is_told_with_its_line(
    models: Path, tmp_path: Path, row: dict[str, Any], loss: bool, words: str
) -> None:
    first = (
        {"text": "anna lives"}
        if "text" in row
        else {**row, "prompt": "where", "answer": "anna", "choices": ["anna", "ben"]}
    )
    rows = [first if "choices" in row or "text" in row else {"prompt": "where", "answer": "anna"}, row]
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", rows)
    with pytest.raises(DataError, match=rf"model all cannot be scored on 1 example\(s\):\n  - .*{words}"):
        tuneport.evaluate([models / "all"], [tasks], tmp_path / "o.json", loss=loss, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_lines_that_a_template_refuses_are_told_before_any_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.jinja").write_text(PLAIN)
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]
    rows = [
        {"messages": [*asked[place:], {"role": "user", "content": str(place)}], "answer": "b"} for place in (0, 1, 0)
    ]
    rows[2]["messages"] = [*asked, *asked]
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", rows)
    for choices in ({}, {"loss": True}):
        with pytest.raises(RenderingError) as caught:
            tuneport.evaluate([folder], [tasks], tmp_path / "o.json", chat_template=tmp_path / "plain.jinja", **choices)
        assert str(caught.value) == (
            "model random: chat_template fails on 2 example(s):\n"
            "  - t.jsonl: line 1, line 3: no system\n"
            "Change these examples, or choose another template."
        )
    assert not list(tmp_path.glob("o*"))


def test_a_template_that_writes_something_before_an_answer_is_told_where_likelihoods_are_taken(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "blank.jinja").write_text(PLAIN.replace("':' + m", "': ' + m"))
    row = {"messages": [{"role": "user", "content": "a"}], "answer": "jumps"}
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", [row])
    given: dict[str, Any] = {"chat_template": tmp_path / "blank.jinja", "device": "cpu", "max_new_tokens": 2}
    measured = tuneport.evaluate([folder], [tasks], tmp_path / "o.json", loss=True, **given)
    (warning,) = measured["warnings"]
    assert "writes ' ' between its prompt and an answer" in warning
    assert tuneport.evaluate([folder], [tasks], tmp_path / "p.json", **given)["warnings"] == []


@pytest.mark.parametrize("written", ["(m.role + ':' + m.content) | upper", "m.role + ':'"])
def test_a_template_that_does_not_write_an_answer_as_it_stands_is_told(
    folder: Path, tmp_path: Path, written: str
) -> None:
    (tmp_path / "other.jinja").write_text(PLAIN.replace("m.role + ':' + m.content", written))
    row = {"messages": [{"role": "user", "content": "a"}], "answer": "jumps"}
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", [row])
    given: dict[str, Any] = {"chat_template": tmp_path / "other.jinja", "device": "cpu", "loss": True}
    (warning,) = tuneport.evaluate([folder], [tasks], tmp_path / "o.json", **given)["warnings"]
    assert "changes an answer, or leaves it out" in warning


def test_an_end_behind_every_text_is_told_where_prompts_are_gone_on_from_and_measured_nowhere(
    folder: Path, tmp_path: Path
) -> None:
    ending = tmp_path / "ending"
    shutil.copytree(folder, ending)
    document = json.loads((ending / "tokenizer.json").read_text())
    for part in ("single", "pair"):
        document["post_processor"][part].append({"SpecialToken": {"id": END, "type_id": 0}})
    document["post_processor"]["special_tokens"][END] = {"id": END, "ids": [1], "tokens": [END]}
    (ending / "tokenizer.json").write_text(json.dumps(document))
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", [{"prompt": "the", "answer": "fox"}])
    found = tuneport.evaluate([folder, ending], [tasks], tmp_path / "o.json", loss=True, device="cpu")
    assert found["warnings"] == []
    assert len({model["tasks"]["t"]["value"] for model in found["models"]}) == 1
    asked = tuneport.evaluate([ending], [tasks], tmp_path / "p.json", max_new_tokens=2, device="cpu")
    assert ["'<|end|>' after every prompt" in warning for warning in asked["warnings"]] == [True]


def test_texts_and_answers_of_one_task_are_not_mixed(tmp_path: Path) -> None:
    from tuneport.examples.questions import read_tasks

    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", [{"text": "a"}, {"prompt": "b", "answer": "c"}])
    with pytest.raises(DataError, match="line 2: the task 't' begins with texts to measure"):
        read_tasks([tasks], loss=True)


def test_prompts_and_messages_of_one_task_are_each_asked_in_their_way(folder: Path, model: Any) -> None:
    model.tokenizer.chat_template = LINES
    spoken, plain = (task_of("loss", ["jumps", "over"], spoken=way).examples for way in (True, False))
    mixed = OwnTask("t", "loss", (spoken[0], plain[1]), "t.jsonl")
    first, second = ask_own(mixed, model, Asking(loss=True)).outcomes
    assert -first.score * first.weight == pytest.approx(
        slowly(folder, f"user\nthe fox{END}\nassistant\n", "jumps")[0], rel=1e-4
    )
    asked = f"{BEGIN}the quick dog\nanswer:"
    assert -second.score * second.weight == pytest.approx(slowly(folder, asked, " over")[0], rel=1e-4)
