"""Greedy answers of a model, and how likely it, or another one, finds each of their tokens."""
