"""A journal is begun whole, taken up by the same plan only, and loses at most its torn last line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.checkpoint.small_files import JOURNAL
from tuneport.errors import OutputError
from tuneport.output.journal import Journal, LeafRecord, differing_fields, holder

PLAN = {"choices": {"scale": 1.0, "rules": []}, "inputs": {"base": {"files": {"m": {"size": 3}}}}}
RECORD = LeafRecord(b"\x01" * 32, (0.1, -0.0, 1e300, 5e-324, math.inf), 7)


def begun(folder: Path, leaves: int = 3) -> Path:
    journal = Journal(folder, PLAN)
    for leaf in range(leaves):
        journal.add("a.weight", leaf, RECORD)
    journal.close()
    return folder / JOURNAL


def test_leaves_come_back_to_the_last_bit(tmp_path: Path) -> None:
    begun(tmp_path)
    again = Journal(tmp_path, PLAN)
    again.close()
    found = list(again.recorded())
    assert found == [("a.weight", leaf, RECORD) for leaf in range(3)]
    assert math.copysign(1, found[0][2].sums[1]) == -1


def test_whatever_a_kill_left_of_the_last_line_the_lines_before_it_are_kept(tmp_path: Path) -> None:
    path = begun(tmp_path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole) - len(lines[-1]), len(whole)):
        path.write_bytes(whole[:length])
        again = Journal(tmp_path, PLAN)
        again.add("b.weight", 0, RECORD)
        again.close()
        assert {(name, leaf) for name, leaf, _ in again.recorded()} == {("a.weight", 0), ("a.weight", 1)}
        last = Journal(tmp_path, PLAN)
        last.close()
        assert {(name, leaf) for name, leaf, _ in last.recorded()} == {
            ("a.weight", 0),
            ("a.weight", 1),
            ("b.weight", 0),
        }


@given(st.data())
def test_a_damaged_journal_is_taken_up_or_refused_in_words(tmp_path: Path, data: st.DataObject) -> None:
    path = begun(tmp_path) if not (tmp_path / JOURNAL).exists() else tmp_path / JOURNAL
    good = (tmp_path / "good").read_bytes() if (tmp_path / "good").exists() else path.read_bytes()
    (tmp_path / "good").write_bytes(good)
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"\n", b"0", b"[", b"}", b"\xff", b"null", b'"', b"\x00"])
        )
    path.write_bytes(content)
    try:
        again = Journal(tmp_path, PLAN)
    except OutputError as error:
        assert "damaged" in str(error) or "different plan" in str(error)
        return
    again.close()
    assert all(isinstance(record.digest, bytes) and len(record.sums) == 5 for _, _, record in again.recorded())


def test_another_plan_is_refused_and_the_field_that_differs_is_named(tmp_path: Path) -> None:
    begun(tmp_path)
    other = json.loads(json.dumps(PLAN))
    other["inputs"]["base"]["files"]["m"]["size"] = 4
    with pytest.raises(OutputError, match=r"inputs\.base\.files\.m\.size \(then 3, now 4\)"):
        Journal(tmp_path, other)


def test_differing_fields_are_found_at_any_depth_and_missing_ones_too() -> None:
    assert differing_fields({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}], "c": 0}) == [
        "a[1].b (then 2, now 3)",
        "c (then null, now 0)",
    ]
    assert differing_fields({"a": [1, 2]}, {"a": [1, 2]}) == []


def test_the_holder_is_told_from_the_last_run(tmp_path: Path) -> None:
    assert holder(tmp_path) == "another run"
    path = begun(tmp_path)
    assert "process" in holder(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"torn')
    assert "process" in holder(tmp_path)
