"""Scores, on lm-evaluation-harness: `run` asks, room `results` compares."""
