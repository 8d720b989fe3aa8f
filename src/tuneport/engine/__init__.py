"""The main job: `plan` says what will happen, `run` does it, `arithmetic` is what it means."""
