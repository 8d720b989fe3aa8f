"""Score models with lm-evaluation-harness; the room `results` compares the scores."""
