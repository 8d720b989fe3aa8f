"""The makers of the tables find every size that counts the text's tokens, and no other."""

from __future__ import annotations

import pytest

from experiments.tables.make_vocabulary_tensors import SIZE, enlarge


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama", ["vocab_size"]),
        ("gemma3n_text", ["vocab_size", "vocab_size_per_layer_input"]),
        ("gemma3n", ["text_config.vocab_size", "text_config.vocab_size_per_layer_input"]),
        ("ovis2", ["vocab_size", "text_config.vocab_size"]),
        ("t5gemma2", ["vocab_size", "encoder.text_config.vocab_size", "decoder.vocab_size"]),
        ("roc_bert", ["vocab_size"]),
        ("instructblip", ["text_config.vocab_size"]),
    ],
)
def test_every_size_that_counts_the_texts_tokens_is_enlarged_and_no_other(kind: str, fields: list[str]) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind]()
    enlarge(config)
    assert sorted(_enlarged(config.to_dict())) == sorted(fields)


def _enlarged(config: dict[str, object], prefix: str = "") -> list[str]:
    found = [f"{prefix}{field}" for field, value in config.items() if value == SIZE]
    parts = [(field, part) for field, part in config.items() if isinstance(part, dict)]
    return found + [each for field, part in parts for each in _enlarged(part, f"{prefix}{field}.")]
