"""Public functions: what a call may give, and what a wrong one is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_checkpoints as tiny

import tuneport
from tuneport.errors import FLAGS, KEYS, TuneportError, UsageError
from tuneport.options import options_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    return tiny.trio(tmp_path_factory.mktemp("models"))


def test_numbers_mappings_and_dtypes_are_taken_as_python_has_them(made: tiny.Trio, tmp_path: Path) -> None:
    plan = tuneport.plan(*made.paths, scale=0.5, rules={"embed": 0}, dtype=torch.float16, workers=2)
    assert "0.5" in plan["formula"] and not plan["refused"]
    out = tuneport.transfer(*made.paths, tmp_path / "a", scale=0.5, rules={"embed": 0}, dtype=torch.float16)
    texts = tuneport.transfer(*made.paths, tmp_path / "b", scale=0.5, rules=["embed=0"], dtype="float16")
    assert out.manifest["plan"]["choices"] == texts.manifest["plan"]["choices"]
    assert out.to_dict()["operation"] == "transfer" and "done" in repr(out) and "<table>" in out._repr_html_()


def test_a_diff_vector_is_applied_by_name_by_pair_and_by_mapping(made: tiny.Trio, tmp_path: Path) -> None:
    tuneport.diff(made.base, made.tuned, tmp_path / "diff")
    name = str(tmp_path / "diff")
    for place, diffs in enumerate((name, tmp_path / "diff", [name], [(name, 1.0)], {name: 1})):
        out = tuneport.apply(diffs, made.target, tmp_path / str(place))
        assert out.manifest["scales"] == [1.0]


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (lambda: tuneport.transfer("a", "b", "c", "d", workers="2"), ["workers"]),
        (lambda: tuneport.transfer("a", "b", "c", "d", scale="x", wokers=2), ["wokers", "scale"]),
        (lambda: tuneport.transfer("a", "b", "c", "d", rules={"(": 1}), ["rules"]),
        (lambda: tuneport.transfer("a", "b", "c", "d", dtype="int8"), ["dtype"]),
        (lambda: tuneport.transfer("a", "b", base="c"), ["base"]),
        (lambda: tuneport.transfer(1, None, "c", "d"), ["base", "tuned"]),
        (lambda: tuneport.diff("a"), ["tuned", "out"]),
        (lambda: tuneport.apply([], "v2", "out"), ["diffs"]),
        (lambda: tuneport.verify("out", seed=-1), ["seed"]),
        (lambda: tuneport.tune("v1", data="mine.jsonl", steps=20), ["out"]),
        (lambda: tuneport.tune("v1", data="mine.jsonl", out="x", stesp=20), ["stesp"]),
        (lambda: tuneport.evaluate("v2", "test.jsonl", batch_size=0), ["batch_size"]),
        (lambda: tuneport.path("v1", "v2"), ["data"]),
        (lambda: tuneport.study("s.toml", "out", jobs="2"), ["jobs"]),
        (lambda: tuneport.report("s", format="pdf"), ["format"]),
        (lambda: tuneport.publish("out", "no-owner"), ["repo"]),
        (lambda: tuneport.plan(), ["base", "tuned"]),
        (lambda: tuneport.distances(["v1"]), ["versions"]),
    ],
)
def test_a_wrong_call_names_every_option_that_is_wrong(call: Callable[[], Any], options: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert [fault.option for fault in caught.value.faults] == options
    assert isinstance(caught.value, TypeError)


def test_each_reader_sees_an_option_as_it_writes_it() -> None:
    with pytest.raises(UsageError) as caught:
        tuneport.tune("v1", "mine.jsonl", out="x", learning_rate=7)
    error = caught.value
    assert str(error).startswith("learning_rate=7: ")
    assert error.message(FLAGS).startswith("--learning-rate 7: ")
    assert error.message(KEYS).startswith("learning-rate = 7: ")


@pytest.mark.parametrize(
    "call", [lambda: tuneport.apply("my-diff", "v2", "o"), lambda: tuneport.evaluate("v2", "t.jsonl")]
)
def test_a_name_that_is_nowhere_is_an_error_of_ours(
    call: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TuneportError):
        call()


@pytest.mark.parametrize("name", tuneport.__all__)
def test_the_signature_is_that_of_the_record(name: str) -> None:
    function = getattr(tuneport, name)
    parameters = inspect.signature(function).parameters
    assert set(parameters) == {one.name for one in options_of(function.record)}
    assert all(one.spec.help for one in options_of(function.record))


def test_a_listing_of_the_package_shows_the_functions_and_no_rooms() -> None:
    import tuneport.engine.run  # a room that is in the package's namespace from now on

    shown = [name for name in dir(tuneport) if not name.startswith("__")]
    assert shown == sorted(tuneport.__all__)
