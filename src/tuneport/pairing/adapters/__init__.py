"""A PEFT adapter and its base, seen as the tuned model that the two of them are."""
