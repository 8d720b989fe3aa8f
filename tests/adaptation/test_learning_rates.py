"""Rates follow the fine-tuning's own, where it says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tuneport.adaptation.adapt_options import Fitting
from tuneport.adaptation.learning_rates import with_rates
from tuneport.errors import CheckpointError
from tuneport.tuning.recipes import Lora


def rates(fitting: Fitting, source: Path | None) -> tuple[float | None, float | None]:
    found = with_rates(fitting, source)
    return found.learning_rate, found.tune_learning_rate


def tuned(folder: Path, rate: float, lora: Any = None) -> Path:
    (folder / "tune.json").write_text(json.dumps({"plan": {"recipe": {"learning_rate": rate}, "lora": lora}}))
    return folder


def test_half_and_a_quarter_of_the_fine_tunings_rate(tmp_path: Path) -> None:
    assert rates(Fitting(), tuned(tmp_path, 2e-3)) == (1e-3, 5e-4)
    assert rates(Fitting(learning_rate=0.1), tmp_path) == (0.1, 5e-4)


def test_usual_rates_where_nobody_says_it(tmp_path: Path) -> None:
    assert rates(Fitting(), None) == rates(Fitting(), tmp_path) == (1e-5, 1.25e-6)


def test_an_adapter_takes_ten_times_as_much(tmp_path: Path) -> None:
    source = tuned(tmp_path, 2e-4, {"rank": 16})
    assert rates(Fitting(), source) == pytest.approx((1e-5, 5e-6))
    assert rates(Fitting(lora=Lora()), source) == pytest.approx((1e-4, 5e-5))
    assert rates(Fitting(lora=Lora()), None) == pytest.approx((1e-4, 1.25e-5))


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", json.dumps({"plan": {"recipe": {"learning_rate": "fast"}, "lora": None}})]
)
def test_a_damaged_record_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "tune.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tune\.json is damaged"):
        with_rates(Fitting(), tmp_path)
