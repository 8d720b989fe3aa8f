"""What spoils scores silently, each found on a real tokenizer or model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import tiny_scored
from support.tiny_scored import TEMPLATE, make_tokenizer

import tuneport
from tuneport.scoring import score_spoilers
from tuneport.scoring.score_spoilers import Prompt

END, EOS, BOS = 6, 3, 2


def prompts_of(tokenizer: Any, *texts: str, room: int = 40) -> list[Prompt]:
    return [Prompt("t", str(place), tokenizer.encode(text), room) for place, text in enumerate(texts)]


def test_a_sound_tokenizer_gives_no_warning() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.convert_tokens_to_ids(["<bos>", "<eos>", "<end>"]) == [BOS, EOS, END]
    assert score_spoilers.template_warnings(tokenizer, "m") == []
    assert score_spoilers.end_of_turn_warnings(tokenizer, {END}, "m") == []
    assert score_spoilers.ending_warnings(tokenizer, "m") == []
    assert score_spoilers.ending_warnings(make_tokenizer(beginning=True), "m") == []


def test_a_template_of_another_model_is_known_by_marks_that_are_no_tokens() -> None:
    chatml = "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    (warning,) = score_spoilers.template_warnings(make_tokenizer(template=chatml), "m")
    assert "'<|im_start|>'" in warning
    assert "'<|im_end|>'" in warning
    assert "belongs to another model" in warning


def test_marks_that_are_read_as_text_are_not_blamed() -> None:
    tulu = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token }}{% endfor %}"
    assert score_spoilers.template_warnings(make_tokenizer(template=tulu), "m") == []


def test_a_mark_that_splits_into_several_tokens_is_told_with_their_number() -> None:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={letter: place for place, letter in enumerate("abcdefg<>|_mstrikn ")}, merges=[])
    )
    template = "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, chat_template=template, eos_token="g")
    (warning,) = score_spoilers.template_warnings(tokenizer, "m")
    assert "'<|im_start|>' (12 tokens)" in warning


def test_a_template_that_cannot_write_a_conversation_is_told() -> None:
    broken = "{{ raise_exception('no assistants here') }}"
    (warning,) = score_spoilers.template_warnings(make_tokenizer(template=broken), "m")
    assert "no assistants here" in warning


def test_an_end_of_turn_that_generation_does_not_stop_at_is_told_with_its_id() -> None:
    (warning,) = score_spoilers.end_of_turn_warnings(make_tokenizer(eos="<eos>"), {EOS}, "m")
    assert "ends a turn with '<end>'" in warning
    assert "stops only at '<eos>'" in warning
    assert f"add the id {END}" in warning


def test_a_template_without_a_token_for_the_end_of_turn_is_not_blamed() -> None:
    plain = "{% for m in messages %}{{ m['content'] }} . {% endfor %}"
    assert score_spoilers.end_of_turn_warnings(make_tokenizer(template=plain), {EOS}, "m") == []


def test_a_doubled_beginning_is_found_however_it_came_about() -> None:
    tokenizer = make_tokenizer(beginning=True)
    assert score_spoilers.beginning_of(tokenizer) == BOS
    found = score_spoilers.beginning_warnings(
        prompts_of(tokenizer, "anna", "<bos> anna", "anna <bos> ben"), tokenizer, "m"
    )
    (warning,) = found
    assert "1 of 3 prompts begin with the beginning-of-text token twice (t 1)" in warning
    unnamed = make_tokenizer(beginning=True)
    unnamed.bos_token = None  # the tokenizer writes it all the same
    assert score_spoilers.beginning_of(unnamed) == BOS
    assert score_spoilers.beginning_of(make_tokenizer()) is None


def test_an_end_token_behind_every_prompt_is_told() -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", pair="$A $B <end>", special_tokens=[("<end>", END)]
    )
    (warning,) = score_spoilers.ending_warnings(tokenizer, "m")
    assert "'<end>' after every prompt" in warning


@pytest.fixture(scope="module")
def beginner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer writes <bos> before every text, trained that way."""
    return tiny_scored.make_model(tmp_path_factory.mktemp("begin") / "beginner", 12, beginning=True)


@pytest.mark.parametrize("before", ["", "<bos> "])
def test_a_beginning_that_the_prompt_holds_is_not_written_twice(beginner: Path, tmp_path: Path, before: str) -> None:
    rows = [row | {"prompt": before + row["prompt"]} for row in tiny_scored.rows()]
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", rows)
    record = tuneport.evaluate([beginner], [tasks], tmp_path / "o.json", max_new_tokens=4, device="cpu")
    assert record["models"][0]["tasks"]["towns"]["value"] == 1.0
    assert record["warnings"] == []


def test_prompts_with_and_without_the_beginning_are_each_read_as_they_stand(beginner: Path, tmp_path: Path) -> None:
    rows = tiny_scored.rows()
    for row in rows[::2]:
        row["prompt"] = "<bos> " + row["prompt"]
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", rows)
    record = tuneport.evaluate([beginner], [tasks], tmp_path / "o.json", max_new_tokens=4, device="cpu")
    # The harness alone would judge a whole batch by its first prompt.
    assert record["models"][0]["tasks"]["towns"]["value"] == 1.0
    assert record["warnings"] == []


def test_a_doubled_beginning_in_the_prompts_is_reported_in_the_record(beginner: Path, tmp_path: Path) -> None:
    rows = [row | {"prompt": "<bos> <bos> " + row["prompt"]} for row in tiny_scored.rows()]
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", rows)
    record = tuneport.evaluate([beginner], [tasks], tmp_path / "o.json", max_new_tokens=4, device="cpu")
    assert "12 of 12 prompts begin with the beginning-of-text token twice" in record["warnings"][0]


def test_the_loss_of_a_text_does_not_count_the_beginning_token(beginner: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", [{"text": "anna lives in paris"}])
    record = tuneport.evaluate([beginner], [tasks], tmp_path / "o.json", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(beginner, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(beginner)("anna lives in paris", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == BOS
    with torch.inference_mode():
        expected = float(model(ids, labels=ids).loss)  # the mean over the tokens after the first
    assert record["models"][0]["tasks"]["t"]["value"] == pytest.approx(expected, rel=1e-5)


def test_a_template_that_leaves_out_the_system_message_is_told(models: Path, tmp_path: Path) -> None:
    silent = tiny_scored.copy_model(models / "all", tmp_path / "silent")
    (silent / "chat_template.jinja").write_text(
        TEMPLATE.replace("{% else %}{{ message['content'] }} {% endif %}", "{% endif %}")
    )
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "where lives anna ?"}]
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", [{"messages": messages, "answer": "in paris"}])
    record = tuneport.evaluate([silent, models / "all"], [tasks], tmp_path / "o.json", max_new_tokens=4, device="cpu")
    assert record["warnings"] == ["silent: its chat template leaves out the system message of 1 examples."]
