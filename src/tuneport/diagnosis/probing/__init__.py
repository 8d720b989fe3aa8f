"""What a handful of prompts and texts say of a pair, before anything is written."""
