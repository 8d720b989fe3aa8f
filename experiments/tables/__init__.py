"""Makes the tables that the package carries, from the installed transformers: run after an upgrade of it."""
