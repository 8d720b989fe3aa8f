"""Which prompts are fitted on, which decide, and which are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.adaptation.prompt_parts import Parts, read_parts
from tuneport.errors import FLAGS, DataError, UsageError
from tuneport.examples.digests import HASHES, example_digest, write_digests
from tuneport.options import build


def write(place: Path, rows: list[dict[str, Any]]) -> Path:
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def prompts(start: int, stop: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"question number {number}", **more} for number in range(start, stop)]


def parted(source: Path | None = None, **given: Any) -> Parts:
    named = {"base": "a", "tuned": "t", "onto": "b", "out": "o", **given}
    return read_parts(build(AdaptOptions, named, "adapt"), source)


def asked(part: Any) -> set[str]:
    return {example.asked for example in part.examples}


def test_two_hundred_each_are_held_out_beside_those_that_are_fitted_on(tmp_path: Path) -> None:
    parts = parted(prompts=write(tmp_path / "p.jsonl", prompts(0, 464)))
    assert [len(part.examples) for part in (parts.fit, parts.select, parts.test)] == [64, 200, 200]
    assert asked(parts.fit) | asked(parts.select) | asked(parts.test) == {f"question number {n}" for n in range(464)}
    assert parts.few is None and not parts.labelled(parts.select)


def test_of_fewer_prompts_a_quarter_each_is_held_out(tmp_path: Path) -> None:
    parts = parted(prompts=write(tmp_path / "p.jsonl", prompts(0, 100)))
    assert [len(part.examples) for part in (parts.fit, parts.select, parts.test)] == [50, 25, 25]


def test_too_few_prompts_to_decide_leave_nothing_to_fit_on_and_it_says_how_many_are_needed(tmp_path: Path) -> None:
    parts = parted(prompts=write(tmp_path / "p.jsonl", prompts(0, 63)))
    assert parts.few is not None and not parts.fit.examples
    told = FLAGS.message(parts.few)
    assert "--prompts has 63 prompts" in told and "At least 64 are needed (416 for 200 in each part)" in told
    own = write(tmp_path / "s.jsonl", prompts(100, 110))
    few = parted(prompts=tmp_path / "p.jsonl", select=own, test=write(tmp_path / "t.jsonl", prompts(200, 210))).few
    assert few is not None and "--select has 10 prompts; at least 16" in FLAGS.message(few)


@pytest.mark.parametrize(("given", "absent"), [("select", "test"), ("test", "select")])
def test_where_one_part_is_a_file_fewer_prompts_are_enough_and_the_advice_works(
    tmp_path: Path, given: str, absent: str
) -> None:
    file = write(tmp_path / "part.jsonl", prompts(500, 520))
    few = parted(prompts=write(tmp_path / "p.jsonl", prompts(0, 47)), **{given: file}).few
    assert few is not None and FLAGS.message(few).endswith(f"(216 for 200 in each part), or --{absent} FILE.")
    assert "At least 48 are needed" in few
    parts = parted(prompts=write(tmp_path / "p.jsonl", prompts(0, 48)), **{given: file})
    assert parts.few is None and len(parts.fit.examples) == 32
    parts = parted(prompts=write(tmp_path / "p.jsonl", prompts(0, 216)), **{given: file})
    assert len(getattr(parts, absent).examples) == 200 and len(parts.fit.examples) == 16


def test_too_few_prompts_to_decide_all_measure_plain_addition(tmp_path: Path) -> None:
    given = write(tmp_path / "p.jsonl", prompts(0, 40))
    parts = parted(prompts=given)
    assert [len(part.examples) for part in (parts.fit, parts.select, parts.test)] == [0, 20, 20]
    parts = parted(prompts=given, select=write(tmp_path / "s.jsonl", prompts(100, 120)))
    assert [len(part.examples) for part in (parts.fit, parts.select, parts.test)] == [0, 20, 40]


@pytest.mark.parametrize(("count", "words"), [(1, "question"), (40, "the same"), (600, "the same")])
def test_where_nothing_can_be_held_out_it_says_so(tmp_path: Path, count: int, words: str) -> None:
    rows = [{"prompt": f"{words}{'!' * number}"} for number in range(count)]
    with pytest.raises(DataError, match="none of its prompts can be held out"):
        parted(prompts=write(tmp_path / "p.jsonl", rows))


def test_where_all_of_select_are_prompts_of_test_it_says_so(tmp_path: Path) -> None:
    rows = write(tmp_path / "s.jsonl", prompts(0, 20))
    with pytest.raises(DataError, match="the same as those of"):
        parted(prompts=write(tmp_path / "p.jsonl", prompts(100, 200)), select=rows, test=rows)


def test_where_one_part_is_a_file_only_the_other_is_held_out(tmp_path: Path) -> None:
    given = write(tmp_path / "p.jsonl", prompts(0, 216))
    parts = parted(prompts=given, test=write(tmp_path / "t.jsonl", prompts(300, 340)))
    assert [len(part.examples) for part in (parts.fit, parts.select, parts.test)] == [16, 200, 40]


def test_the_order_of_a_file_does_not_decide(tmp_path: Path) -> None:
    one = parted(prompts=write(tmp_path / "p.jsonl", prompts(0, 100)))
    other = parted(prompts=write(tmp_path / "q.jsonl", prompts(0, 100)[::-1]))
    assert [asked(part) for part in (one.fit, one.select)] == [asked(part) for part in (other.fit, other.select)]


def test_nearly_equal_prompts_are_in_one_part(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(2000)]
    texts = [" ".join(words[20 * number : 20 * number + 20]) for number in range(60)]
    twins = [f"{text}!" for text in texts[:30]] + [f"{text} please" for text in texts[30:]]
    parts = parted(prompts=write(tmp_path / "p.jsonl", [{"prompt": text} for text in (*texts, *twins)]))
    for part in (parts.fit, parts.select, parts.test):
        own = asked(part)
        assert own and all((text in own) == (twin in own) for text, twin in zip(texts, twins, strict=True))


def test_prompts_near_those_of_select_or_test_are_not_fitted_on(tmp_path: Path) -> None:
    given = write(tmp_path / "p.jsonl", prompts(0, 40))
    select = write(tmp_path / "s.jsonl", [{"prompt": "Question, number 3!"}, *prompts(100, 120)])
    test = write(tmp_path / "t.jsonl", [{"prompt": "question number 4"}, *prompts(100, 102), *prompts(200, 220)])
    parts = parted(prompts=given, select=select, test=test)
    assert {"question number 3", "question number 4"}.isdisjoint(asked(parts.fit)) and len(parts.fit.examples) == 38
    assert len(parts.select.examples) == 19, "what test has too is left out of select"
    notes = [FLAGS.message(note) for note in parts.notes]
    assert any("--prompts: 2 of 40 prompts are left out" in note and "p.jsonl: line 4" in note for note in notes)
    assert any("--select: 2 of 21 prompts are left out" in note for note in notes)


def test_what_the_source_was_trained_on_is_fitted_on_at_most(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_digests(source / HASHES, (example_digest(f"question number {number}") for number in range(100)))
    parts = parted(source, prompts=write(tmp_path / "p.jsonl", prompts(0, 180)))
    measured = asked(parts.select) | asked(parts.test)
    assert measured and measured.isdisjoint(f"question number {number}" for number in range(100))
    select, test = write(tmp_path / "s.jsonl", prompts(90, 130)), write(tmp_path / "t.jsonl", prompts(200, 220))
    named = parted(source, prompts=tmp_path / "p.jsonl", select=select, test=test)
    assert asked(named.select) == {f"question number {number}" for number in range(100, 130)}
    assert any("--select: 10 of 40" in FLAGS.message(note) for note in named.notes)
    with pytest.raises(DataError, match="trained on all of these prompts"):
        parted(source, prompts=tmp_path / "p.jsonl", select=write(tmp_path / "u.jsonl", prompts(0, 20)), test=test)


def test_no_more_prompts_are_used_than_the_steps_see(tmp_path: Path) -> None:
    given = write(tmp_path / "p.jsonl", prompts(0, 500))
    parts = parted(prompts=given, steps=5, batch_size=4)
    assert len(parts.fit.examples) == 20
    assert any("--prompts: 20 of 100 prompts are used" in FLAGS.message(note) for note in parts.notes)
    answered = write(tmp_path / "e.jsonl", prompts(0, 500, answer="yes"))
    assert len(parted(examples=answered, steps=5, batch_size=4).fit.examples) == 100


def test_answers_measure_quality_only_if_every_prompt_of_a_part_has_one(tmp_path: Path) -> None:
    given = write(tmp_path / "p.jsonl", prompts(0, 40))
    select = write(tmp_path / "s.jsonl", prompts(100, 130, answer="yes"))
    test = write(tmp_path / "t.jsonl", [{"task": "a", **row} for row in prompts(200, 220, answer="yes")])
    parts = parted(prompts=given, select=select, test=test)
    assert parts.labelled(parts.select) and parts.labelled(parts.test)
    mixed = write(tmp_path / "m.jsonl", [*prompts(200, 220, answer="yes", task="a"), *prompts(220, 240, task="b")])
    parts = parted(prompts=given, select=select, test=mixed)
    assert not parts.labelled(parts.test) and {example.answer for example in parts.test.examples} == {""}
    assert any("--test: answers are not used, because b has none" in FLAGS.message(note) for note in parts.notes)


def test_half_of_the_texts_to_keep_is_measured_and_the_other_half_trained_on(tmp_path: Path) -> None:
    texts = [{"text": f"this is text {number}"} for number in range(9)]
    given = write(tmp_path / "p.jsonl", prompts(0, 100))
    parts = parted(prompts=given, retain=write(tmp_path / "r.jsonl", texts))
    (measured,) = parts.texts
    kept = {example.answer for example in measured.examples}
    near = {example.answer for example in parts.near}
    assert (len(kept), len(near)) == (5, 4) and kept.isdisjoint(near)


@pytest.mark.parametrize(
    ("given", "option", "words"),
    [
        ({}, "prompts", "is missing"),
        ({"prompts": "p.jsonl", "examples": "p.jsonl"}, "prompts", "are both given"),
        ({"prompts": "p.jsonl", "up_to": "tune"}, "up_to", "needs answers"),
        ({"prompts": "p.jsonl", "rungs": "tune"}, "rungs", "needs answers"),
        ({"prompts": "p.jsonl", "rungs": "distil", "up_to": "scale"}, "up_to", "does not go with"),
        ({"prompts": "p.jsonl", "rungs": ["align"]}, "rungs", "must be add, scale, layers, distil or tune"),
        ({"examples": "p.jsonl"}, "examples", "without an answer"),
        ({"prompts": "p.jsonl", "retain": "a.jsonl"}, "retain", "must be texts"),
        ({"prompts": "c.jsonl"}, "prompts", "has `choices`"),
        ({"prompts": "p.jsonl", "device": "tpu"}, "device", "must be cpu"),
    ],
)
def test_wrong_calls_are_refused_with_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], option: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl", prompts(0, 100))
    write(tmp_path / "a.jsonl", prompts(0, 100, answer="yes"))
    write(tmp_path / "c.jsonl", prompts(0, 100, answer="yes", choices=["yes", "no"]))
    with pytest.raises(UsageError) as caught:
        parted(**given)
    assert [fault.option for fault in caught.value.faults] == [option]
    assert words in FLAGS.message(str(caught.value))


def test_rungs_are_tried_in_their_order_up_to_what_the_data_allow() -> None:
    def wanted(**given: Any) -> tuple[str, ...]:
        named = {"base": "a", "tuned": "t", "onto": "b", "out": "o", **given}
        return build(AdaptOptions, named, "adapt").wanted

    assert wanted(prompts="p.jsonl") == ("add", "scale", "distil")
    assert wanted(examples="p.jsonl") == ("add", "scale", "distil", "tune")
    assert wanted(prompts="p.jsonl", up_to="add") == ("add",)
    for texts in (["tune", "scale"], "scale,tune", "scale, tune", ["scale,tune"]):
        assert wanted(examples="p.jsonl", rungs=texts) == ("add", "scale", "tune")
    for wrong in ("scale,align", "scale,", 3):
        with pytest.raises(UsageError) as caught:
            wanted(examples="p.jsonl", rungs=wrong)
        assert [fault.option for fault in caught.value.faults] == ["rungs"]
