"""The two versions' tokenizers: what is inserted, what shifts, and the chat template."""

from pathlib import Path

import pytest

from tuneport.families import corpus, word_tokenizers

pytest.importorskip("transformers")


def test_version_two_has_names_inserted_in_the_middle_and_loses_none() -> None:
    first, second = word_tokenizers.words(1), word_tokenizers.words(2)
    assert [word for word in second if word not in corpus.INSERTED_NAMES] == first
    assert set(second) - set(first) == set(corpus.INSERTED_NAMES)
    assert second.index("baker") == first.index("baker") + len(corpus.INSERTED_NAMES)
    assert second.index("<user>") != first.index("<user>")


def test_a_saved_tokenizer_loads_as_any_other_and_keeps_every_word(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    word_tokenizers.tokenizer_of(word_tokenizers.words(2)).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded("anna has 5 apples .")["input_ids"]
    assert ids == [word_tokenizers.words(2).index(word) for word in ["anna", "has", "5", "apples", "."]]
    assert loaded.decode(ids) == "anna has 5 apples ."
    assert loaded.chat_template is None
    assert not (tmp_path / "chat_template.jinja").exists()


def test_a_prompt_is_what_the_tuned_models_chat_template_says(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = word_tokenizers.tokenizer_of(word_tokenizers.words(1))
    tokenizer.chat_template = word_tokenizers.CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").exists()
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    message = [{"role": "user", "content": "list eggs books"}]
    said = loaded.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert said == word_tokenizers.chat_prompt("list eggs books")


def test_version_one_cannot_spell_the_inserted_names() -> None:
    tokenizer = word_tokenizers.tokenizer_of(word_tokenizers.words(1))
    for name in corpus.INSERTED_NAMES:
        assert tokenizer(name)["input_ids"] == [tokenizer.unk_token_id]
    for name in corpus.UNUSED_NAMES:
        assert tokenizer(name)["input_ids"] != [tokenizer.unk_token_id]
