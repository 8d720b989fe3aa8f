"""Settings of the commands in a study's file: what they would refuse is a fault of the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.declared_studies import EVALUATE, PLACE, declared, fault, faults, versions

from tuneport.engine.choices import Choices
from tuneport.studies.file.settings import of_transfer
from tuneport.studies.file.study_file import study_of


def test_everything_that_a_transfer_would_refuse_is_told_at_once_each_with_its_line() -> None:
    told = faults(
        f'[study]\nname = "s"\n{versions(["M1"])}[transfer]\n'
        'rule = ["(=1", "x=y", "embed=0"]\nconfig = ["x", "rope_theta=target"]\ndrop = "("\nvocabulary = "foo"\n'
        'new-tokens = "bar"\nsidecar = 3\n'
    )
    assert [line.split(": ")[:2] for line in told] == [
        ["study.toml:8", "[transfer] rule"],
        ["study.toml:8", "[transfer] rule"],
        ["study.toml:9", "[transfer] config"],
        ["study.toml:10", "[transfer] drop"],
        ["study.toml:11", "[transfer] vocabulary"],
        ["study.toml:12", "[transfer] new-tokens"],
        ["study.toml:13", "[transfer] sidecar"],
    ]
    together = "\n".join(told)
    for words in (
        "'(' is not a valid regular expression",
        "'x=y'",
        "'x' must be written as NAME=base",
        "'foo'",
        "'bar': must be append, all or drop",
        "is 3; it must be a list of strings",
    ):
        assert words in together


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('device = "foo"', "'foo': "),
        ('match = "("', "'(': "),
        ('match = "(a)(b)"', "'(a)(b)': has 2 groups"),
        ('batch-size = "autox"', "'autox': "),
        ("batch-size = 0", "0: "),
        ("max-new-tokens = 0", "0: "),
    ],
)
@pytest.mark.parametrize("section", ["paths", "evaluate"])
def test_what_evaluate_and_path_would_refuse_is_a_fault_of_the_file(section: str, setting: str, words: str) -> None:
    tasks = 'tasks = ["gsm8k"]\n' if section == "evaluate" else ""
    told = fault(f'[study]\nname = "s"\n{versions()}[{section}]\n{tasks}{setting}\n')
    assert f"[{section}] {setting.split()[0]}: {words}" in told


def test_what_evaluate_and_path_take_is_none() -> None:
    text = f'[study]\nname = "s"\n{versions()}'
    for size in ('"auto"', '"auto:4"', "3"):
        for device in ("cpu", "cuda", "cuda:7", "mps"):
            asking = f'batch-size = {size}\ndevice = "{device}"\n'
            study = study_of(f'{text}[paths]\n{asking}[evaluate]\ntasks = ["gsm8k"]\n{asking}', PLACE)
            assert study.lines.settings == study.evaluations[""].settings != {}
    assert study_of(f'{text}{EVALUATE}backend = "vllm"\ndevice = "xpu"\n', PLACE), "vLLM chooses for itself"
    told = fault(f'{text}{EVALUATE}dtype = "float99"\n')
    assert "[evaluate] dtype: 'float99': must be auto, float32" in told


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("points = 100_000", "points"),
        ("refine = 1_000", "refine"),
        ("points = 900\nrefine = 101", "points"),
        ('data = ["here.jsonl"]\npoints = 700', "points"),
    ],
)
def test_more_points_than_path_takes_are_a_fault_of_the_file(text: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "here.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    (told,) = faults(f'[study]\nname = "s"\n{versions()}[paths]\n{text}\n', tmp_path / "study.toml")
    assert f"[paths] {key}: more than 1,000 points on one line" in told
    assert ("a line along Δ continues to α = 1.5" in told) == ("data" in text)
    assert declared(versions(), "[paths]\npoints = 700", folder=tmp_path).lines.points == 700


def test_a_share_is_of_data_that_are_named_and_no_two_of_these_have_one_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("d.jsonl", "e.jsonl", "sub/d.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n')

    def told(data: str, mix: str) -> list[str]:
        tune = f"[tune]\nsteps = 1\ndata = {data}\nmix = {mix}\n"
        return faults(f'[study]\nname = "s"\n{versions()}{tune}', tmp_path / "study.toml")

    (one,) = told('["d.jsonl", "sub/d.jsonl"]', "[]")
    assert "[tune] data: d.jsonl is given twice, or two files have the same name. Rename one of them" in one
    wrong = told('["d.jsonl", "org/data", "lab:instructions"]', '["nosuch=3", "x", "d=1", "d.jsonl=2"]')
    assert sorted(line.partition("mix: ")[2].split(":")[0] for line in wrong) == ["'d.jsonl'", "'nosuch'", "'x'"]
    assert "must be one of the data: d.jsonl, org/data, instructions.jsonl" in "\n".join(wrong)
    assert any("it already has a share" in line for line in wrong)
    fine = ["d=1", "org/data=0.5", "lab:instructions=3", f"{tmp_path}/e.jsonl=1"]
    data = ["sub/d.jsonl", "org/data", "lab:instructions", f"{tmp_path}/e.jsonl"]
    tune = f"[tune]\nsteps = 1\ndata = {json.dumps(data)}\nmix = {json.dumps(fine)}\n"
    assert declared(versions(), tune, folder=tmp_path).tunings[0].mix == tuple(fine)


def test_transfers_take_presets_ramps_and_rules_for_tokens() -> None:
    table = {"preset": "shadow", "rule": [r"layers\.=0.2..1.0"], "row-rule": ["@all=0", "@template=scale"]}
    chosen, wrong = of_transfer(table)
    assert not wrong
    choices = Choices(**chosen)
    assert choices.preset == "shadow" and choices.rules[-1].value == (0.2, 1.0)
    assert [rule.shown for rule in choices.row_rules] == ["@all=0", "@template=scale"]
    for key, value in {"preset": "x", "rule": ["a=1..x"], "row-rule": ["a"]}.items():
        assert [fault[0] for fault in of_transfer({key: value})[1]] == [key]
