"""Read, compare and edit tokenizer files."""
