"""Records of scores: one way to read them, one way to compare them."""
