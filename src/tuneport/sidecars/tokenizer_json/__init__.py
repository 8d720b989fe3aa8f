"""A tokenizer.json merged three ways, section by section."""
