"""A plan measured instead of carried out."""
