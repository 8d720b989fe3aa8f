"""Tokens of files: counted with a model's own tokenizer, guessed without one."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from tuneport.examples.file_tokens import FileTokens


def test_a_models_own_tokenizer_counts_where_it_is_at_hand(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    words = Tokenizer(models.WordLevel({"one": 0, "[UNK]": 1}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "m" / "tokenizer.json"))
    rows = [{"messages": [{"role": "user", "content": "one one"}, {"role": "assistant", "content": "one"}]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 3000))
    counted = FileTokens([tmp_path / "none", tmp_path / "m"]).of(f"{tmp_path}/rows.jsonl")
    assert counted is not None and (counted.count, counted.mean_asked(), counted.mean_trained(2)) == (3000, 2, 2)
    assert counted.mean_trained(100) == 3
    (tmp_path / "m" / "tokenizer.json").write_text("{}")  # no tokenizer: the steps say so, an estimate goes on
    guessed = FileTokens([tmp_path / "m"]).of(f"{tmp_path}/rows.jsonl")
    assert guessed is not None and guessed.mean_trained(100) == 2 + 1
