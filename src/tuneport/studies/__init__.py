"""Run a declared set of versions, fine-tunings, transfers and evaluations as one graph."""
