"""Budgets so small that nothing is learned, for tests that want real models on their real way."""

from dataclasses import replace

from tuneport.families import kin, languages, versions
from tuneport.families.demo.demo_run import DemoRecipe
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
BRIEF_KIN = kin.KinRecipe(
    run=replace(
        versions.SMALL,
        architecture=TINY,
        untrained=1,
        first_stage=replace(BRIEFLY, steps=6),
        second_stage=BRIEFLY,
        amounts=replace(
            versions.SMALL.amounts,
            taught=16,
            preferred=1,
            rewarded=1,
            tested=6,
            validated=2,
            completed=1,
            unseen=1,
            texts=4,
        ),
    ),
    domain=kin.Branch(BRIEFLY, {"general": 1.0}),
    language=kin.Branch(BRIEFLY, {"facts": 1.0}, 0.5),
    more=kin.Branch(BRIEFLY, {"facts": 1.0}),
    longer=kin.Branch(BRIEFLY, {"facts": 1.0}, 0.5),
    foreign=BRIEFLY,
    instruct=FEW_STEPS,
)
