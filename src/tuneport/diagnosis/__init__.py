"""Will a transfer work, and why not: what lies between two models."""
