"""The record of a path follows from the outcomes beside it, and names nothing of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")


import tuneport


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in out.with_suffix(".examples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found
    return found


def test_the_record_can_be_computed_again_from_the_outcomes_beside_it(walked: tuple[dict[str, Any], Path]) -> None:
    record, out = walked
    found = lines(out)
    assert len(found) == 12 * len(record["alphas"])
    by_point: dict[float, list[dict[str, Any]]] = {}
    for line in found:
        by_point.setdefault(line["alpha"], []).append(line)

    def mean(alpha: float, half: str | None = None) -> float:
        chosen = [line for line in by_point[alpha] if half in (None, line["half"])]
        return sum(line["loss"] * line["tokens"] for line in chosen) / sum(line["tokens"] for line in chosen)

    def rise(alpha: float, half: str | None = None) -> float:
        return mean(alpha, half) - (1 - alpha) * mean(0.0, half) - alpha * mean(1.0, half)

    assert record["loss"] == pytest.approx([mean(alpha) for alpha in record["alphas"]])
    assert record["halves"]["measuring"]["loss"] == pytest.approx([mean(a, "measuring") for a in record["alphas"]])
    assert record["rise"] == pytest.approx([rise(a) if a <= 1 else None for a in record["alphas"]])
    assert record["accuracy"] == [sum(line["right"] for line in by_point[alpha]) / 12 for alpha in record["alphas"]]
    inner = [alpha for alpha in record["alphas"] if 0 < alpha < 1]
    assert record["at"] == max(inner, key=lambda alpha: rise(alpha, "locating"))
    assert record["barrier"] == pytest.approx(rise(record["at"], "measuring"))
    assert record["interval"][0] <= record["barrier"] <= record["interval"][1]
    assert (record["n"], record["tokens"]) == (12, sum(line["tokens"] for line in by_point[0.0]))
    assert record["halves"]["locating"]["n"] == record["halves"]["measuring"]["n"] == 6
    assert json.loads(out.read_text(encoding="utf-8")) == {k: v for k, v in record.items() if k != "already_done"}


def test_a_record_names_its_inputs_by_digest_and_nothing_of_this_machine(
    ends: Path, walked: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    record, out = walked
    assert str(ends) not in out.read_text()
    assert str(ends) not in out.with_suffix(".examples.jsonl").read_text()
    three = (ends / "half", ends / "all", ends / "half")
    manifest = tuneport.transfer(*three, tmp_path / "t", digest_inputs=True).manifest
    base, tuned, _ = manifest["inputs"]
    assert (record["plan"]["a"]["digest"], record["plan"]["b"]["digest"]) == (base["digest"], tuned["digest"])
