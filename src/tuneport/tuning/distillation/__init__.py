"""Learn from a teacher: record its answers and what it expected, then train on the KL divergence from it."""
