"""Read and check a study's TOML file."""
