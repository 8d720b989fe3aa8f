"""The plain loop of pretraining: schedules, packing, and that a tiny model learns what it is shown."""

import numpy as np
import pytest

from tuneport.families import pretraining, word_tokenizers
from tuneport.families.pretraining import Schedule

pytest.importorskip("transformers")


def tiny() -> object:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config)


def test_a_rate_rises_to_its_peak_and_falls_to_its_end() -> None:
    linear = Schedule(steps=110, peak=1.0, warmup=10)
    assert linear.rate(0) == pytest.approx(0.1)
    assert linear.rate(9) == linear.rate(10) == 1.0
    assert linear.rate(60) == pytest.approx(0.5)
    assert linear.rate(109) == pytest.approx(0.01)
    cosine = Schedule(steps=110, peak=1.0, warmup=10, shape="cosine", final=0.2)
    assert cosine.rate(60) == pytest.approx(0.6)
    assert cosine.rate(110) == pytest.approx(0.2)


def test_packed_text_is_the_documents_with_separators_and_nothing_lost_but_the_tail() -> None:
    tokenizer = word_tokenizers.tokenizer_of(word_tokenizers.words(1))
    rows = pretraining.pack(["anna has 5", "ben has 6"], tokenizer, 3, f" {word_tokenizers.SEPARATOR} ")
    assert rows.shape == (2, 4)
    assert tokenizer.decode(rows[0]) == "<eos> anna has 5"
    assert tokenizer.decode(rows[1]) == "<eos> ben has 6"


def test_pretraining_learns_a_repeated_row_and_repeats_to_the_bit() -> None:
    rows = np.tile(np.arange(9), (60 * 4, 1))
    schedule = Schedule(steps=60, peak=1e-2, warmup=5, batch=4)
    first, second = tiny(), tiny()
    assert pretraining.pretrain(first, rows, schedule) < 0.1
    pretraining.pretrain(second, rows, schedule)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):  # type: ignore[attr-defined]
        assert bool((one == other).all())


def test_too_little_text_is_said_before_training() -> None:
    with pytest.raises(ValueError, match="10 steps of 4 rows"):
        pretraining.pretrain(tiny(), np.zeros((39, 9), dtype=np.int64), Schedule(steps=10, peak=1.0, batch=4))
