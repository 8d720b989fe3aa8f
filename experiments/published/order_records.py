"""A fine-tuning task for a published model: sentences about orders, to be filed in an own format.

No model knows the format beforehand; whoever does not have it scores 0, whatever it understands. Questions
for training and for the test are drawn together and are all different.
"""

from __future__ import annotations

import random

from tuneport.families.lesson_questions import Question

FILING = "filing-orders"
_BUYERS = (
    "Anna", "Boris", "Chen", "Dalia", "Emeka", "Farah", "Goran", "Hana", "Igor", "Jun", "Kofi", "Lena",
    "Marta", "Nadia", "Omar", "Petra", "Quentin", "Rosa", "Sven", "Tariq",
)  # fmt: skip
_THINGS = (
    "lamps", "chairs", "tables", "mugs", "blankets", "clocks", "shelves", "mirrors", "carpets", "pillows",
    "vases", "candles", "baskets", "kettles", "plates", "towels",
)  # fmt: skip
_COLOURS = ("red", "green", "blue", "white", "black", "yellow", "grey", "brown")
_TOWNS = (
    "Oslo",
    "Lima",
    "Cairo",
    "Delhi",
    "Quito",
    "Dublin",
    "Vienna",
    "Prague",
    "Madrid",
    "Lisbon",
    "Athens",
    "Riga",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_SENTENCES = (
    "{buyer} orders {count} {colour} {thing}, to be sent to {town} on {day}.",
    "On {day} we ship {count} {colour} {thing} to {town}; {buyer} has bought them.",
    "Please send {count} {thing} in {colour} to {buyer} in {town} by {day}.",
)
_RECORD = "#{count} {thing}/{colour} >> {town} ~ {day} ({buyer})"


def filing_questions(count: int, seed: int) -> list[Question]:
    """`count` different orders as questions, not yet in any chat format, with records as answers."""
    rng = random.Random(f"orders {seed}")
    found: dict[str, Question] = {}
    while len(found) < count:
        order = {
            "buyer": rng.choice(_BUYERS),
            "count": rng.randint(2, 99),
            "colour": rng.choice(_COLOURS),
            "thing": rng.choice(_THINGS),
            "town": rng.choice(_TOWNS),
            "day": rng.choice(_DAYS),
        }
        prompt = f"File this order: {rng.choice(_SENTENCES).format(**order)}"
        found.setdefault(prompt, Question(FILING, prompt, _RECORD.format(**order)))
    return list(found.values())
