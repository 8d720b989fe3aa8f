"""Tokenizer files: read, compared, edited."""
