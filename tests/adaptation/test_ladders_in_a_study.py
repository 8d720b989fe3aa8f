"""Studies whose steps of kind adapt keep a rung above plain addition: what the records, results and the report make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from support.adapted_models import Family
from support.tiny_models import read_weights

import tuneport
from tuneport.adaptation import ladder
from tuneport.adaptation.gate import GateDecision
from tuneport.adaptation.rungs import scale_rung

STUDY = """
[study]
name = "words"

[[version]]
name = "V1"
model = "{base}"
[version.tuned]
words = "{tuned}"
[[version]]
name = "V2"
model = "{target}"

[evaluate]
tasks = ["test.jsonl"]
max-new-tokens = 4
device = "cpu"
chat-template = "{tuned}"

[adapt]
{which} = ["{which}.jsonl"]
select = ["select.jsonl"]
test = ["report.jsonl"]
rungs = ["{rung}"]
steps = 20
batch-size = 16
learning-rate = 5e-3
tune-learning-rate = 2.5e-3
keep-harmed = true
max-new-tokens = 4
device = "cpu"

[do]
transfer = [["V1", "V2"]]
adapt = [["V1", "V2"]]
"""
NAME = "adapt V2 + Δ(V1) → adapted"


@pytest.mark.parametrize("rung", ["scale", "distil", "tune"])
def test_a_rung_above_addition_is_kept_scored_and_reported(
    family: Family, tmp_path: Path, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = "examples" if rung == "tune" else "prompts"
    family.file(tmp_path / f"{which}.jsonl", 0, 64, answered=rung == "tune")
    family.file(tmp_path / "select.jsonl", 100, 180)
    family.file(tmp_path / "report.jsonl", 200, 280)
    family.file(tmp_path / "test.jsonl", 300, 380, answered=True)
    places = {role: getattr(family, role) for role in ("base", "tuned", "target")}
    (tmp_path / "study.toml").write_text(STUDY.format(**places, which=which, rung=rung))
    if rung == "scale":  # whether it is better hangs on the family's last bits; here it is, by decree
        monkeypatch.setattr(scale_rung, "SCALES", (0.0, 1.5))
        monkeypatch.setattr(ladder, "decide", lambda *_, **__: GateDecision("kept", "as the test wants it"))
    out = tmp_path / "out"
    told = tuneport.study(tmp_path / "study.toml", out)
    assert (told["failed"], told["not_run"]) == ([], [])
    ((measured, model),) = [
        (each["measured"], path.parent / "model")
        for path in out.glob("steps/*/record.json")
        if (each := json.loads(path.read_text()))["name"] == NAME
    ]
    rungs = {each["name"]: each for each in measured["rungs"]}
    assert measured["chosen"] == rung and rungs[rung]["status"] == "kept"
    assert measured["steps"] == (rungs["tune"]["steps"] if rung == "tune" else 0)
    rows = {row["kind"]: row for row in json.loads((out / "results.json").read_text())["results"]}
    adapted, plain = (rows[kind]["scores"]["test"]["value"] for kind in ("adapted", "transfer"))
    if rung != "scale":
        assert adapted > plain
    else:
        tried = json.loads((model / "adapt.json").read_text())["rungs"][1]
        assert tried["name"] == "scale"
        expected = tuneport.transfer(*family.models, tmp_path / "expected", scale=tried["scale"]).out
        one, other = read_weights(model), read_weights(expected)
        assert all(one[name].equal(other[name]) for name in {*one, *other})
    tuneport.report(out, out=tmp_path / "page.html")
    assert "V2 + Δ(V1) → adapted" in (tmp_path / "page.html").read_text()
