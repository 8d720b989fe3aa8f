"""Fine-tune with TRL: `encode` tokenizes examples, `prepare` decides, `run` trains."""
