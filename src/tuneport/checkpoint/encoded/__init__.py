"""Differences stored without loss in less room: what is in a chunk, and tensors made of chunks."""
