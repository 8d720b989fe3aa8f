"""Weights and adapters as they lie on disk or behind a Hub id: tensors by name and byte range."""
