"""Fine-tuning, on TRL: `encode` makes tokens of examples, `prepare` decides, `run` trains."""
