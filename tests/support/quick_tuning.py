"""The fine-tuning that most tests run: it learns, in a second or two."""

from __future__ import annotations

from tuneport.tuning.recipes import SftRecipe

QUICK = SftRecipe(steps=12, learning_rate=3e-2, batch_size=8)
