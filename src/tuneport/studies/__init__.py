"""A declared set of versions, fine-tunings, transfers and evaluations, run as one graph."""
