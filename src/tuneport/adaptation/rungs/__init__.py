"""One file a rung."""
