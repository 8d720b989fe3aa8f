"""Fine-tuning, on TRL."""
