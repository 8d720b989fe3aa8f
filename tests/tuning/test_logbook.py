"""The log: each step once, whatever was killed in between; a loss that is no number stops the run."""

import json
from pathlib import Path

import pytest

from tuneport.errors import TrainingError
from tuneport.tuning.logbook import Logbook


def noted(folder: Path, resumed: int, steps: range) -> list[dict[str, float]]:
    book = Logbook(folder, resumed, writes=True)
    for step in steps:
        book.note(step, {"loss": 1 / step, "learning_rate": 0.1, "num_tokens": 10 * (step - resumed)})
    book.close()
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_steps_after_the_one_a_run_goes_on_from_are_taken_back(tmp_path: Path) -> None:
    noted(tmp_path, 0, range(1, 8))
    lines = noted(tmp_path, 5, range(6, 10))
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["tokens"] for line in lines] == [10 * step for step in range(1, 10)]


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    noted(tmp_path, 0, range(1, 4))
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 4, "lo')
    assert [line["step"] for line in noted(tmp_path, 3, range(4, 6))] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "logs", [{"loss": float("nan")}, {"loss": float("inf")}, {"loss": 1.0, "grad_norm": float("nan")}]
)
def test_a_number_that_is_none_stops_the_run(tmp_path: Path, logs: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="At step 3"):
        Logbook(tmp_path, 0, writes=True).note(3, logs)


def test_a_process_that_does_not_lead_writes_nothing(tmp_path: Path) -> None:
    book = Logbook(tmp_path, 0, writes=False)
    book.note(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []
    assert book.final_loss() == 1.0
