"""Match tensors and their rows between models. Everything is accounted for; nothing is skipped silently."""
