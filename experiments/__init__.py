"""What makes the figures of docs/results.md, the committed tables and the pages. Not in the wheel; run from the repository's root as `python -m experiments.…`."""
