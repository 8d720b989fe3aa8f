"""Budgets so small that nothing is learned, for tests that want real models on their real way."""

from dataclasses import replace

from tuneport.families import languages
from tuneport.families.demo_run import DemoRecipe
from tuneport.families.family import Architecture
from tuneport.families.pretraining import Schedule
from tuneport.tuning.recipes import SftRecipe

TINY = Architecture(hidden=32, layers=1, heads=2, feedforward=48, context=32)
BRIEFLY = Schedule(steps=4, peak=1e-3, warmup=1, batch=4)
FEW_STEPS = SftRecipe(learning_rate=1e-3, steps=4, batch_size=4)
BRIEF_DEMO = DemoRecipe(
    architecture=TINY,
    first_stage=BRIEFLY,
    second_stage=BRIEFLY,
    next_version=BRIEFLY,
    tuning=FEW_STEPS,
    curve_every=2,
    problems=12,
    orders=12,
)
BRIEF_LANGUAGES = languages.TextRecipe(
    architecture=replace(TINY, context=48),
    first_stage=BRIEFLY,
    second_stage=BRIEFLY,
    next_version=BRIEFLY,
    instruct=FEW_STEPS,
    lesson=16,
    problems=4,
)
