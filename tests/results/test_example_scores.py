"""The file of examples beside a record, read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.results.example_scores import answered, read_outcomes
from tuneport.results.schema import EXAMPLES


def test_each_task_has_its_examples_in_order_with_their_weights() -> None:
    found = answered(
        [
            {"task": "sums", "id": 1, "score": 1.0},
            {"task": "texts", "id": "a", "score": 2.0, "weight": 3.0},
            {"task": "sums", "id": 2, "score": 0.0},
            {"task": "texts", "id": "b", "score": 4.0, "weight": 1.0},
        ]
    )
    assert list(found) == ["sums", "texts"]
    assert found["sums"].ids == ("1", "2") and found["sums"].right_or_wrong
    assert found["texts"].value == (3 * 2.0 + 1 * 4.0) / 4 and not found["texts"].right_or_wrong


BEYOND = [
    {"task": "t", "id": 2, "score": 1, "weight": 1} | {name: value}
    for name in ("score", "weight")
    for value in (10**400, float("nan"), float("inf"), [1])
]


@pytest.mark.parametrize("line", [{}, {"task": "t", "id": 2}, {"task": "t", "id": 2, "score": "high"}, *BEYOND])
def test_a_line_that_is_no_example_is_passed_over(line: dict[str, object]) -> None:
    assert answered([{"task": "t", "id": 1, "score": 0.5}, line])["t"].ids == ("1",)


GOOD = '{"task": "t", "id": 1, "score": 0.5}'
ODD = (
    "",
    "3",
    "[1",
    "2]",
    "[]",
    '"{"',
    GOOD[:-1],
    GOOD[1:],
    f"{GOOD},{GOOD}",
    f"[{GOOD}]",
    GOOD * 2,
    GOOD.replace("1", '"{["'),
)


@given(st.lists(st.sampled_from((GOOD, *ODD)), max_size=6))
def test_lines_are_read_together_as_each_is_alone(tmp_path: Path, lines: list[str]) -> None:
    def number(some: list[str]) -> int:
        (tmp_path / EXAMPLES).write_text("\n".join(some))
        return sum(len(found.ids) for found in read_outcomes(tmp_path).values())

    assert number(lines) == sum(number([line]) for line in lines)
