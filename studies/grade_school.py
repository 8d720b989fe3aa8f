"""Validation data for olmo2.toml: word problems of grade-school kind, on which its curves are read.

    python studies/grade_school.py        write studies/grade-school.jsonl again (the same bytes)

The paper's figures read accuracy against steps on GSM8K's test set; curves on which a model may be chosen are read on other
problems here. These are drawn from ten stories with numbers, names and things of their own, none of them from GSM8K. Answers
are whole numbers from 1 to 999, so that the last number of an answer is the answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

FILE = Path(__file__).with_name("grade-school.jsonl")
EACH = 16  # problems of each story
NAMES = ("Amara", "Bao", "Carmen", "Dilip", "Eilidh", "Farid", "Greta", "Hiro", "Ines", "Jonas", "Keziah", "Luca")
THINGS = ("marbles", "stickers", "seashells", "buttons", "postcards", "acorns", "badges", "beads")
ASK = "Reason step by step, and end with: The final answer is N."

Told = tuple[str, int]


def shared(draw: random.Random, name: str, things: str) -> Told:
    """Some are given away, the rest is shared out evenly."""
    friends, each, given = draw.randint(3, 8), draw.randint(4, 12), draw.randint(5, 30)
    total = friends * each + given
    return (
        f"{name} has {total} {things}. {name} gives {given} of them to the school and shares the rest evenly among "
        f"{friends} friends. How many {things} does each friend get?",
        each,
    )


def market(draw: random.Random, name: str, things: str) -> Told:
    """Two prices, and what is left of the money."""
    apples, pears, price, other = draw.randint(3, 9), draw.randint(2, 8), draw.randint(2, 6), draw.randint(3, 7)
    left = draw.randint(3, 25)
    money = apples * price + pears * other + left
    return (
        f"{name} goes to the market with {money} dollars and buys {apples} bags of apples at {price} dollars each and {pears} "
        f"bags of pears at {other} dollars each. How many dollars does {name} have left?",
        left,
    )


def reading(draw: random.Random, name: str, things: str) -> Told:
    """Pages a day, twice as many at weekends."""
    pages, weeks = draw.randint(6, 20), draw.randint(2, 4)
    return (
        f"{name} reads {pages} pages on every weekday and twice as many on each Saturday and Sunday. How many pages does "
        f"{name} read in {weeks} whole weeks?",
        weeks * (5 * pages + 2 * 2 * pages),
    )


def garden(draw: random.Random, name: str, things: str) -> Told:
    """Rows of plants, some of which are eaten, and one more row."""
    rows, each, lost = draw.randint(5, 14), draw.randint(6, 15), draw.randint(4, 25)
    return (
        f"{name} plants {rows} rows of {each} bean plants. Snails eat {lost} of them, and {name} plants one more row of the same "
        "length. How many bean plants stand in the garden then?",
        rows * each - lost + each,
    )


def bus(draw: random.Random, name: str, things: str) -> Told:
    """People get on and off."""
    first, on, off = draw.randint(12, 40), draw.randint(3, 15), draw.randint(2, 10)
    stops = draw.randint(2, 5)
    return (
        f"A bus leaves the depot with {first + stops * off} people. At each of the next {stops} stops {off} people get off, and at "
        f"the last of these stops {on} people get on. How many people are on the bus then?",
        first + on,
    )


def times_as_many(draw: random.Random, name: str, things: str) -> Told:
    """One has some times as many as another, and a third the difference."""
    few, factor = draw.randint(6, 25), draw.randint(3, 6)
    return (
        f"{name} has {few} {things}. Leona has {factor} times as many {things} as {name}, and Otto has as many as Leona has more "
        f"than {name}. How many {things} do the three have together?",
        few + factor * few + (factor - 1) * few,
    )


def workshop(draw: random.Random, name: str, things: str) -> Told:
    """Two machines at work for some hours."""
    fast, slow, hours, broken = draw.randint(12, 30), draw.randint(5, 11), draw.randint(3, 8), draw.randint(2, 14)
    return (
        f"One machine makes {fast} chairs an hour, an older one makes {slow}. Both run for {hours} hours, and {broken} of the "
        "chairs turn out broken. How many good chairs are made?",
        (fast + slow) * hours - broken,
    )


def savings(draw: random.Random, name: str, things: str) -> Told:
    """Weeks until something can be paid."""
    weekly, weeks, have = draw.randint(4, 15), draw.randint(4, 18), draw.randint(10, 60)
    return (
        f"{name} wants a bicycle for {have + weekly * weeks} dollars, has {have} dollars already and saves {weekly} dollars a week. "
        f"After how many weeks can {name} buy it?",
        weeks,
    )


def half_off(draw: random.Random, name: str, things: str) -> Told:
    """One full price, half of it for every further ticket, and the change."""
    price, count = 2 * draw.randint(4, 15), draw.randint(3, 9)
    return (
        f"The first ticket costs {price} dollars, and every further ticket costs half as much. {name} buys {count} tickets and pays "
        f"with {3 * price * count} dollars. How many dollars does {name} get back?",
        3 * price * count - price - (count - 1) * price // 2,
    )


def trays(draw: random.Random, name: str, things: str) -> Told:
    """Trays that are filled, and what is left over."""
    tray, full, over = draw.randint(6, 12), draw.randint(4, 15), draw.randint(1, 5)
    return (
        f"{name} bakes {tray * full + over} rolls and puts them on trays that hold {tray} rolls each. All trays but the last are "
        "full. How many rolls more would the last tray hold?",
        tray - over,
    )


STORIES: tuple[Callable[[random.Random, str, str], Told], ...] = (
    shared, market, reading, garden, bus, times_as_many, workshop, savings, half_off, trays,
)  # fmt: skip


def problems() -> Iterator[dict[str, object]]:
    """Every problem, as an example that `evaluate` and a curve can ask."""
    draw = random.Random(2025)
    for story in STORIES:
        found: dict[str, int] = {}
        while len(found) < EACH:
            text, answer = story(draw, draw.choice(NAMES), draw.choice(THINGS))
            found[text] = answer
        for text, answer in found.items():
            yield {"messages": [{"role": "user", "content": f"{text}\n{ASK}"}], "answer": str(answer)}


if __name__ == "__main__":
    FILE.write_text("".join(json.dumps(problem) + "\n" for problem in problems()), encoding="utf-8")
