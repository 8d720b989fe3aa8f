"""Models side by side by their weights: norms, cosines, distances."""
