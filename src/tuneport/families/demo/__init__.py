"""The demo: version 2 takes over version 1's fine-tuning, before your eyes."""
