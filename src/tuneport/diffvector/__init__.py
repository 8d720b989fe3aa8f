"""The diff vector: compute, store, check and apply it."""
