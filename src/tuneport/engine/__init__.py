"""The core of a transfer: `plan` decides what will happen, `run` does it, `arithmetic` defines the computation."""
