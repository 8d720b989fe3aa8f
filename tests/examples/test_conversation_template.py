"""Chat templates: which one is used, which token ends an answer, and tokens that are new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_tuning import END, START, base_model
from transformers import AutoTokenizer

from tuneport.errors import DataError, RenderingError, UsageError
from tuneport.examples.conversation_template import prepare_chat, shipped_template, spoken_by, template_names

TALK = [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "jumps"}]


@pytest.fixture
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


def test_messages_without_any_template_are_refused_with_the_names_to_choose_from(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"no chat template.*chatml, llama3, tulu"):
        prepare_chat(tokenizer, None, None, needed=True)


def test_texts_need_no_template_and_end_with_the_tokenizers_own_end(tokenizer: Any) -> None:
    before = tokenizer.get_vocab()
    chat = prepare_chat(tokenizer, None, None, needed=False)
    assert (chat.template, chat.end_token, chat.new_tokens, chat.sets_end) == (None, END, (), False)
    assert tokenizer.get_vocab() == before


TEMPLATES = pytest.mark.parametrize(
    ("name", "rendered", "end", "new"),
    [
        (
            "chatml",
            f"{START}<|im_start|>user\nthe fox<|im_end|>\n<|im_start|>assistant\njumps<|im_end|>\n",
            "<|im_end|>",
            ("<|im_start|>", "<|im_end|>"),
        ),
        (
            "llama3",
            f"{START}<|start_header_id|>user<|end_header_id|>\n\nthe fox<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\njumps<|eot_id|>",
            "<|eot_id|>",
            ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ),
        ("tulu", f"{START}<|user|>\nthe fox\n<|assistant|>\njumps{END}", END, ()),
    ],
)


@TEMPLATES
def test_a_model_without_a_template_is_spoken_to_as_one_that_was_tuned_with_it(
    tokenizer: Any, base: Path, name: str, rendered: str, end: str, new: tuple[str, ...]
) -> None:
    plain = AutoTokenizer.from_pretrained(base)
    plain.chat_template = spoken_by(plain, shipped_template(name))
    prepare_chat(tokenizer, name, None, needed=True)
    for talk, more in ((TALK, False), (TALK[:1], True)):
        wanted = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=more)
        assert plain.apply_chat_template(talk, tokenize=False, add_generation_prompt=more) == wanted
    assert spoken_by(plain, "{{ messages }}") == "{{ messages }}"


@TEMPLATES
def test_a_named_template_brings_its_tokens_and_its_end(
    tokenizer: Any, name: str, rendered: str, end: str, new: tuple[str, ...]
) -> None:
    size = len(tokenizer)
    chat = prepare_chat(tokenizer, name, None, needed=True)
    assert tokenizer.apply_chat_template(TALK, tokenize=False) == rendered
    assert (chat.end_token, chat.new_tokens) == (end, new)
    assert tokenizer.eos_token == end
    assert [tokenizer(token, add_special_tokens=False)["input_ids"] for token in new] == [
        [size + place] for place in range(len(new))
    ]
    asked = tokenizer.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True)
    assert rendered.startswith(asked) and rendered.removeprefix(asked).startswith("jumps")


def test_every_named_template_is_tried_above() -> None:
    assert template_names() == ["chatml", "llama3", "tulu"]


def test_a_tokenizer_that_begins_texts_with_nothing_gets_a_template_that_does_so_too(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_model(tmp_path / "base", start=False))
    prepare_chat(tokenizer, "chatml", None, needed=True)
    assert tokenizer.apply_chat_template(TALK, tokenize=False).startswith("<|im_start|>user")


def test_a_file_is_a_template_and_its_end_is_the_special_token_after_an_answer(tokenizer: Any, tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|pad|>{% endfor %}"
    (tmp_path / "mine.jinja").write_text(text)
    chat = prepare_chat(tokenizer, str(tmp_path / "mine.jinja"), None, needed=True)
    assert (chat.template, chat.end_token, chat.new_tokens) == ("mine.jinja", "<|pad|>", ())
    assert tokenizer.chat_template == text


def test_a_template_may_be_given_as_text(tokenizer: Any) -> None:
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|pad|>{% endfor %}"
    chat = prepare_chat(tokenizer, text, None, needed=False)
    assert (chat.template, chat.end_token, tokenizer.chat_template) == ("given as text", "<|pad|>", text)


def test_a_file_can_name_its_tokens_in_its_first_line(tokenizer: Any, tmp_path: Path) -> None:
    header = '{#- tuneport: {"end_of_turn": "<fin>", "tokens": ["<who>"]} -#}\n'
    (tmp_path / "mine.jinja").write_text(header + "{% for m in messages %}<who>{{ m.content }}<fin>{% endfor %}")
    chat = prepare_chat(tokenizer, str(tmp_path / "mine.jinja"), None, needed=True)
    assert (chat.end_token, chat.new_tokens) == ("<fin>", ("<who>", "<fin>"))
    assert "tuneport" not in tokenizer.chat_template


def test_a_template_that_never_ends_an_answer_needs_the_token_to_be_named(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "endless.jinja"
    path.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    with pytest.raises(UsageError, match="end_token"):
        prepare_chat(tokenizer, str(path), None, needed=True)
    assert prepare_chat(tokenizer, str(path), END, needed=True).end_token == END


@pytest.mark.parametrize("content", ["{% for m in %}", "{{ messages[7].content }}{{ absent() }}"])
def test_a_file_that_is_no_template_is_refused(tokenizer: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.jinja").write_text(content)
    with pytest.raises(RenderingError, match="cannot be rendered"):
        prepare_chat(tokenizer, str(tmp_path / "bad.jinja"), None, needed=True)


def test_a_template_that_is_nowhere_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match=r"no such file, and it is not one of chatml"):
        prepare_chat(tokenizer, "zephyr", None, needed=True)
