"""A PEFT adapter and its base, treated as one tuned model."""
