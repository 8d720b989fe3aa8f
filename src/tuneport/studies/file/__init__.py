"""A study's TOML file, read and checked."""
