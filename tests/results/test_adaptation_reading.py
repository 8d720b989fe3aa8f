"""A file of `tuneport adapt` is read back; what is torn or odd in it is left out, and no number that cannot be one is shown."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support import made_up_adaptation

from tuneport.errors import ReportError
from tuneport.reporting.render.markdown import markdown
from tuneport.reporting.sections.contents import of_adaptation
from tuneport.results.adaptation_reading import adaptation_of, is_adaptation

HEAD = {"format": "tuneport.adapt/1"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "name",
    "status",
    "why",
    "select",
    "test",
    "retention",
    "seconds",
    "examples",
    "steps",
    "tried",
    "warnings",
    "from",
)


def test_all_figures_of_a_whole_file_are_read() -> None:
    found = adaptation_of(made_up_adaptation.adaptation(), "made")
    assert [rung.name for rung in found.rungs] == ["add", "scale", "distil", "tune"]
    assert found.chosen == "distil" and found.is_quality and set(found.references) == {"target", "source"}
    distil, scale = found.rungs[2], found.rungs[1]
    assert distil.measured.test is not None and distil.measured.test.change is not None
    assert (distil.measured.test.value, distil.measured.test.change.value, distil.measured.test.change.sign) == (
        0.69,
        0.28,
        1,
    )
    assert (distil.start, distil.steps, distil.examples, distil.measured.retention.loss) == ("add", 50, 512, 3.28)
    assert scale.scale == 1.25 and [each.scale for each in scale.tried] == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert [part.name for part in found.parts] == ["examples", "select", "test"]


def test_one_line_says_what_was_chosen_and_what_it_gained() -> None:
    told = adaptation_of(made_up_adaptation.adaptation(), "made").in_a_line()
    assert "distil" in told and "69.0% right answers" in told and "+28.0 points" in told
    added = adaptation_of(made_up_adaptation.adaptation("add", "agreement"), "made").in_a_line()
    assert "add" in added and "not quality" in added and "points" not in added


@pytest.mark.parametrize("rungs", [None, [], 7, [3, "x"]])
def test_a_file_without_rungs_is_refused(rungs: Any) -> None:
    with pytest.raises(ReportError, match="no rungs"):
        adaptation_of({**HEAD, "rungs": rungs}, "made")


def test_only_its_own_format_is_an_adaptation() -> None:
    assert is_adaptation(made_up_adaptation.adaptation())
    assert not any(map(is_adaptation, ({"format": "tuneport.compare/1"}, [HEAD], None, "tuneport.adapt/1")))


@pytest.mark.parametrize("value", [1e308, -0.5, 10**400, True, "0.5", None, [0.5]])
def test_a_share_that_cannot_be_one_is_not_shown(value: Any) -> None:
    made = made_up_adaptation.adaptation()
    made["rungs"][0]["test"]["value"] = value
    made["rungs"][2]["test"]["interval"] = [0.9, 0.1]
    found = adaptation_of(made, "made")
    assert found.rungs[0].measured.test is None
    assert found.rungs[2].measured.test is not None and found.rungs[2].measured.test.interval is None


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON), min_size=1, max_size=3), JSON, JSON, JSON)
def test_whatever_stands_in_a_file_has_a_page(
    rungs: list[dict[str, Any]], chosen: Any, plan: Any, references: Any
) -> None:
    torn = {**HEAD, "rungs": rungs, "chosen": chosen, "plan": plan, "references": references, "measure": chosen}
    assert markdown(of_adaptation(adaptation_of(json.loads(json.dumps(torn)), "made")))
