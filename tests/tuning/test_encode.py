"""What the loss sees, token by token, in the batches that TRL's own trainer makes of every form of data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_tokenizers import sentencepiece_like, write_tokenizer
from support.tiny_tuning import END, START, base_model, write_rows
from transformers import AutoTokenizer

from tuneport.errors import DataError
from tuneport.examples.conversation_template import prepare_chat
from tuneport.examples.digests import answered_digest, example_digest
from tuneport.examples.training_data import read_sources
from tuneport.tuning.encode import encode_preferences, encode_sft
from tuneport.tuning.loading import load_model
from tuneport.tuning.prepare import Prepared, prepare
from tuneport.tuning.recipes import SftRecipe, TuningRun
from tuneport.tuning.team import Team
from tuneport.tuning.trainers import build_trainer

# One template writes a system message of its own where there is none, and marks answers; no conversation but the whole
# one begins like it, so only the marks can tell.
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}Q{{ messages | length }}:{{ m.content }}{% endif %}{% endfor %}"
)


def seen(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> list[str]:
    """The texts that are learned: runs of tokens with a label, decoded."""
    texts: list[list[int]] = [[]]
    for id, label in zip(ids, labels, strict=True):
        assert label in (-100, id)
        if label == id:
            texts[-1].append(id)
        elif texts[-1]:
            texts.append([])
    return [tokenizer.decode(run) for run in texts if run]


def learned(prepared: Prepared, where: Path) -> Iterator[tuple[str, list[str]]]:
    """Of each example that the trainer feeds the model: the whole text, and the runs of it that the loss sees."""
    trainer = build_trainer(prepared, load_model(prepared), where, Team(), TuningRun())
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(
            *(batch[name].tolist() for name in ("input_ids", "labels", "attention_mask")), strict=True
        ):
            size = sum(mask)
            assert set(labels[size:]) <= {-100}, "padding is never learned"
            yield prepared.tokenizer.decode(ids[:size]), seen(prepared.tokenizer, ids[:size], labels[:size])


def prepared_of(base: Path, rows: list[dict[str, Any]], tmp_path: Path, **choices: Any) -> Prepared:
    data = write_rows(tmp_path / "data.jsonl", rows)
    return prepare(base, [data], SftRecipe(steps=1, batch_size=2), **choices)


def test_of_text_every_token_is_learned(base: Path, tmp_path: Path) -> None:
    rows = [{"text": "the quick fox"}, {"text": "over"}]
    found = dict(learned(prepared_of(base, rows, tmp_path), tmp_path))
    assert found == {f"{START}{row['text']}{END}": [f"{START}{row['text']}{END}"] for row in rows}


def test_of_prompt_and_completion_the_completion_and_its_end_are_learned(base: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "the quick", "completion": f" brown fox{END}"}]
    found = dict(learned(prepared_of(base, rows, tmp_path), tmp_path))
    assert found == {
        f"{START}2 + 2 = 4{END}": [f" 4{END}"],
        f"{START}the quick brown fox{END}": [f" brown fox{END}"],
    }


def test_of_messages_every_answer_and_its_end_are_learned_and_nothing_else(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    prepared = prepare(base, [chats], SftRecipe(steps=1), chat_template="chatml")
    found = list(learned(prepared, tmp_path))
    assert len(found) == 24
    for text, runs in found:
        number = text.partition("the fox ")[2].partition("<")[0]
        assert runs == [f"jumps {number} times<|im_end|>", "the lazy dog<|im_end|>"]
        assert text.count("<|im_start|>") == 4


def test_of_a_spoken_prompt_and_completion_only_the_completions_answers_are_learned(base: Path, tmp_path: Path) -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "the fox"},
            {"role": "assistant", "content": "jumps"},
            {"role": "user", "content": "over what"},
        ],
        "completion": [{"role": "assistant", "content": "the dog"}],
    }
    ((_, runs),) = learned(prepared_of(base, [row], tmp_path, chat_template="tulu"), tmp_path)
    assert runs == [f"the dog{END}"]


def test_marks_in_the_template_are_believed(tmp_path: Path, chats: Path) -> None:
    base = base_model(tmp_path / "base", template=MARKED)
    for _, runs in learned(prepare(base, [chats], SftRecipe(steps=1)), tmp_path):
        assert len(runs) == 2
        assert runs[1] == f"the lazy dog{END}"


def test_a_template_that_hides_where_answers_are_is_refused(tmp_path: Path, chats: Path) -> None:
    unmarked = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    base = base_model(tmp_path / "base", template=unmarked)
    with pytest.raises(DataError, match=r"\{% generation %\}"):
        prepare(base, [chats], SftRecipe(steps=1))


def encoded(
    base: Path, rows: list[dict[str, Any]], tmp_path: Path, length: int = 64, template: str | None = None
) -> Any:
    sources = read_sources([write_rows(tmp_path / "data.jsonl", rows)], "sft", [], 0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    chat = prepare_chat(tokenizer, template, None, needed=template is not None)
    return encode_sft(sources, tokenizer, chat, length), tokenizer


def test_a_beginning_that_the_text_holds_already_is_not_doubled(base: Path, tmp_path: Path) -> None:
    made, tokenizer = encoded(base, [{"prompt": f"{START}the", "completion": " fox"}], tmp_path)
    assert tokenizer.decode(made.columns["input_ids"].values) == f"{START}the fox{END}"


def test_a_prompt_that_ends_inside_a_token_is_split_as_it_will_be_when_the_model_is_asked(
    base: Path, tmp_path: Path
) -> None:
    made, tokenizer = encoded(base, [{"prompt": "the qui", "completion": "ck fox"}], tmp_path)
    ids = list(made.columns["input_ids"].values)
    asked = tokenizer("the qui")["input_ids"]
    assert ids[: len(asked)] == asked
    assert tokenizer.decode(ids) == f"{START}the quick fox{END}"
    assert made.counts.parted == 1
    assert any("prompt(s) end in the middle of a token" in words for words in made.counts.warnings(64))


def test_a_completion_that_goes_on_in_a_word_gets_no_blank_before_it(tmp_path: Path) -> None:
    document = sentencepiece_like(["<unk>", START, END], START)
    document["normalizer"] = None
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": START, "eos_token": END}
    write_tokenizer(tmp_path / "metaspace", document, named)
    made, tokenizer = encoded(tmp_path / "metaspace", [{"prompt": "qui", "completion": "ck"}], tmp_path)
    ids = list(made.columns["input_ids"].values)
    assert tokenizer.convert_ids_to_tokens(ids) == [START, "▁", "qu", "i", "ck", END]


def test_an_answer_that_begins_inside_a_token_of_the_template_is_counted(base: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    talk = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "fox"}]
    made, tokenizer = encoded(base, [{"messages": talk}], tmp_path, template=template)
    ids, labels = list(made.columns["input_ids"].values), list(made.columns["labels"].values)
    assert seen(tokenizer, ids, labels) == [f"ox{END}"], "the token ' f' holds the blank of the template too"
    assert made.counts.hidden == 1
    (warning,) = made.counts.warnings(64)
    assert "1 answer(s) begin in the middle of a token that starts in the chat template's text" in warning


def test_of_preferences_a_token_that_begins_in_the_prompt_is_each_answers_own(base: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    sides = {name: [{"role": "assistant", "content": said}] for name, said in (("chosen", "fox"), ("rejected", "dog"))}
    row = {"prompt": [{"role": "user", "content": "the"}], **sides}
    sources = read_sources([write_rows(tmp_path / "data.jsonl", [row])], "dpo", [], 0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    chat = prepare_chat(tokenizer, template, None, needed=True)
    made = encode_preferences(sources, tokenizer, chat, 64)
    texts = {name: tokenizer.decode(column.values) for name, column in made.columns.items()}
    assert texts == {
        "prompt_ids": "user: the<|end|>assistant:",
        "chosen_ids": " fox<|end|>",
        "rejected_ids": " dog<|end|>",
    }
    assert made.counts.warnings(64) == []


def test_examples_that_lose_their_answer_are_left_out_and_counted_and_those_that_lose_a_part_too(
    base: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": "the " * 20, "completion": " fox"},
        {"prompt": "the", "completion": " fox" * 20},
        {"prompt": "the", "completion": " fox"},
    ]
    made, _ = encoded(base, rows, tmp_path, length=16)
    counts = made.counts
    assert (counts.examples, counts.without_answer, counts.cut) == (2, 1, 1)
    assert max(made.lengths()) == 16
    told = " ".join(counts.warnings(16))
    assert "1 example(s) are left out" in told
    assert "1 example(s) are longer than the sequence length" in told


def test_when_no_answer_is_left_at_all_the_run_stops(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max_length"):
        encoded(base, [{"prompt": "the " * 20, "completion": " fox"}], tmp_path, length=8)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), st.text("abc é猫\n", min_size=1)),
        min_size=1,
        max_size=4,
    ).filter(lambda turns: all(said.strip() for turn in turns for said in turn))
)
def test_whatever_is_said_the_learned_text_is_the_answers_of_the_rendered_conversation(
    base: Path, tmp_path: Path, turns: list[tuple[str, str]]
) -> None:
    messages = [
        {"role": role, "content": said}
        for turn in turns
        for role, said in zip(("user", "assistant"), turn, strict=True)
    ]
    made, tokenizer = encoded(base, [{"messages": messages}], tmp_path, 10_000, "chatml")
    ids, labels = list(made.columns["input_ids"].values), list(made.columns["labels"].values)
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False)
    found = seen(tokenizer, ids, labels)
    # A token that holds the end of the prompt's line as well as the answer's beginning belongs to the prompt.
    assert len(found) == len(turns)
    for text, (_, answer) in zip(found, turns, strict=True):
        assert f"{answer}<|im_end|>".endswith(text)
        assert text.endswith("<|im_end|>")
        assert answer.lstrip("\n") in text


def test_of_preferences_prompt_and_both_answers_are_kept_apart(base: Path, tmp_path: Path) -> None:
    row = {"prompt": "the quick", "chosen": " brown fox", "rejected": " dog"}
    sources = read_sources([write_rows(tmp_path / "data.jsonl", [row])], "dpo", [], 0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    chat = prepare_chat(tokenizer, None, None, needed=False)
    made = encode_preferences(sources, tokenizer, chat, 64)
    texts = {name: tokenizer.decode(column.values) for name, column in made.columns.items()}
    assert texts == {
        "prompt_ids": f"{START}the quick",
        "chosen_ids": f" brown fox{END}",
        "rejected_ids": f" dog{END}",
    }


def test_digests_of_questions_are_kept_alone_and_with_their_answers(base: Path, tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "The Fox?"},
        {"role": "assistant", "content": "jumps"},
    ]
    made, _ = encoded(base, [{"messages": talk}], tmp_path, template="chatml")
    assert {example_digest("the fox?"), answered_digest("the fox?", "jumps")} <= made.digests
    made, _ = encoded(base, [{"prompt": "a", "completion": "b"}], tmp_path)
    assert made.digests == {example_digest("a"), answered_digest("a", "b")}
