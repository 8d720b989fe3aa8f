"""Read files of examples, compute their digests, and render them with chat templates."""
