"""Compare models by their weights: norms, cosines, distances."""
