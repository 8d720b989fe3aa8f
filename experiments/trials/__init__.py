"""Tries what the package promises on every kind of model there is, and counts: their figures go to docs/results/."""
