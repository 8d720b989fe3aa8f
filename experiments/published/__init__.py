"""A published LLM, carried from one version to the next: `make real`."""
