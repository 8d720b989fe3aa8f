"""Run a few prompts and texts on a pair of models, before anything is written."""
