"""Predict and explain transfers: compare models by their weights and by the loss between them."""
