"""A study's file: what it says, and everything that is wrong with it, each with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.errors import StudyError
from tuneport.study.file import read_study, study_of

from .declaring import EVALUATE, TUNE, declared, paper, versions

PLACE = Path("nowhere") / "study.toml"


def faults(text: str, place: Path = PLACE) -> list[str]:
    with pytest.raises(StudyError) as caught:
        study_of(text, place)
    head, *told = str(caught.value).splitlines()
    assert head.startswith("study.toml"), head
    return [line.strip() for line in told]


def fault(text: str) -> str:
    (one,) = faults(text)
    return one


def with_do(do: str) -> str:
    return f'[study]\nname = "s"\n{versions()}{TUNE}{EVALUATE}[do]\n{do}\n'


def test_all_faults_of_a_file_are_told_at_once_each_with_its_line() -> None:
    text = """[study]
nam = "s"
seeds = [1, 1]

[[version]]
name = "M1"
model = "./nowhere"

[[version]]
name = "M1"
model = "org/model"

[tune]
data = ["missing.jsonl"]
leaning-rate = 1
steps = "many"

[evaluate]
tasks = ["gsm8k"]
max-new-tokens = true

[do]
transfer = [
  ["M1", "M9"],
]
"""
    told = faults(text)
    lines = [int(line.split(":")[1]) for line in told]
    assert lines == [1, 2, 3, 7, 10, 14, 15, 16, 20, 23]
    together = "\n".join(told)
    for words in (
        "`name` is missing",
        "did you mean 'name'?",
        "[1, 1]",
        "no such folder beside the file",
        "is the name of another version too",
        "missing.jsonl",
        "did you mean 'learning-rate'?",
        "give a whole number from 1 on",
        "[evaluate] max-new-tokens",
        "there is no version 'M9'",
    ):
        assert words in together


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[study", "is no TOML"),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("a = 1" + "0" * 5000, "is no TOML"),
    ],
)
def test_what_is_no_toml_is_told_in_words(text: str, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        study_of(text, PLACE)


def test_a_file_that_is_missing_no_text_or_too_large_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be read: No such file"):
        read_study(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match="not UTF-8"):
        read_study(tmp_path / "bytes.toml")
    with open(tmp_path / "large.toml", "wb") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(StudyError, match="more than 4 MiB"):
        read_study(tmp_path / "large.toml")


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("transfer = 3", "is 3; write"),
        ('transfer = [["M1", "M1"]]', "one version twice"),
        ('transfer = [["M1", "M2"], ["M1", "M2"]]', "stands there twice"),
        ('recycle = [["M2", "M3"], ["M1", "M2"]]', "order the pairs as a chain"),
        ('recycle = [["M1", "M3"], ["M2", "M3"]]', "reached twice"),
        ('paths = "all"', "give [paths] with text"),
        ("scales = [1, 1]", "list of different numbers"),
        ("scales = [nan]", "list of different numbers"),
        ("reduced-rate = 2", "no reduction"),
        ('carry = "float8"', "choose float32, bfloat16"),
        ('same-total = "yes"', "write true or false"),
        ("transfer = 2020-01-01", "a date or time"),
    ],
)
def test_what_cannot_be_done_is_told(do: str, words: str) -> None:
    assert words in fault(with_do(do))


def test_a_source_needs_a_fine_tuned_model_or_a_way_to_make_one() -> None:
    text = f'[study]\nname = "s"\n{versions()}[do]\ntransfer = [["M1", "M2"]]\n'
    assert "M1 has no fine-tuned model; give it `tuned`, or a [tune]" in fault(text)


@pytest.mark.parametrize(
    ("names", "more", "do", "words"),
    [
        (["M1"], TUNE, 'transfer = "all"', "there is one version alone"),
        (["M1"], TUNE, 'recycle = "all"', "there is one version alone"),
        (["M1"], "", 'distances = "all"', "there is one version alone"),
        (["M1", "M2"], "", 'transfer = "all"', "no version has a fine-tuned model to begin with"),
        (["M1", "M2"], '[paths]\ndata = ["here.jsonl"]\n', 'paths = "all"', "or [paths] text for lines"),
        (
            ["M1", "M2"],
            '[paths]\ndata = ["here.jsonl"]\n',
            'paths = [["M1", "M2"]]',
            "has nothing to measure on `data`",
        ),
    ],
)
def test_what_comes_to_nothing_is_told(names: list[str], more: str, do: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "here.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    with pytest.raises(StudyError) as told:
        declared(versions(names), more, f"[do]\n{do}", folder=tmp_path)
    assert words in str(told.value) and "has 1 fault" in str(told.value)


def test_lines_between_versions_need_no_fine_tuning(tmp_path: Path) -> None:
    (tmp_path / "here.jsonl").write_text('{"text": "one and one"}\n')
    text = '[paths]\ntext = ["here.jsonl"]\n[do]\npaths = "all"'
    assert declared(versions(["M1", "M2", "M3"]), text, folder=tmp_path).doing.paths == (
        ("M1", "M2"),
        ("M1", "M3"),
        ("M2", "M3"),
    )
    only = versions(["M4", "M5"], "target-only = true")
    some = declared(versions(["M1"]), only, TUNE, text, folder=tmp_path).doing.paths
    assert some == (("M1", "M4"), ("M1", "M5"), ("M4", "M5"))


def test_folders_that_are_no_models_are_told_together_each_with_its_line(tmp_path: Path) -> None:
    for name in ("empty", "cut"):
        (tmp_path / name).mkdir()
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"\x10")
    text = "".join(f'[[version]]\nname = "{name}"\nmodel = "{name}"\n' for name in ("empty", "cut"))
    with pytest.raises(StudyError, match=r"has 2 faults(.|\n)*:6: .*empty: no weights(.|\n)*:9: .*model cut: ") as told:
        declared(text, TUNE, '[do]\ntransfer = [["empty", "cut"]]', folder=tmp_path)
    assert "there is no version" not in str(told.value)


def test_a_target_only_version_is_no_source_and_is_not_fine_tuned() -> None:
    last = '[[version]]\nname = "M6"\nmodel = "org/other"\ntarget-only = true\n'
    text = f'[study]\nname = "s"\n{versions()}{last}{TUNE}[do]\n'
    assert "M6 is a target only" in fault(text + 'transfer = [["M6", "M1"]]')
    assert "M6 is never fine-tuned" in fault(text + 'transfer-then-tune = [["M1", "M6"]]')
    everything = study_of(text + 'transfer = "all"\ntransfer-then-tune = "all"\nrecycle = "all"', PLACE).doing
    assert ("M1", "M6") in everything.transfer and ("M6", "M1") not in everything.transfer
    assert not any("M6" in pair for pair in (*everything.transfer_then_tune, *everything.recycle))


def test_a_tuning_goes_on_from_one_that_exists_and_not_in_a_circle() -> None:
    one = '[tune.a]\ndata = ["org/d"]\nsteps = 1\nfrom = "b"\n'
    two = '[tune.b]\ndata = ["org/d"]\nsteps = 1\nfrom = "a"\n'
    told = faults(f'[study]\nname = "s"\n{versions()}{one}{two}')
    assert len(told) == 1 and "runs in a circle" in told[0], "once, though two are in it"
    assert "there is no fine-tuning 'b'" in fault(f'[study]\nname = "s"\n{versions()}{one}')


def test_one_fine_tuning_and_several_by_name_do_not_mix() -> None:
    other = '[tune.dpo]\nrecipe = "dpo"\ndata = ["org/d"]\nsteps = 1\n'
    told = fault(f'[study]\nname = "s"\n{versions()}{TUNE}{other}')
    assert "[tune] dpo: is a fine-tuning by name" in told and "[tune.NAME] of its own" in told


def test_a_tuning_may_go_on_from_models_that_are_there_in_every_version() -> None:
    tune = '[tune]\nrecipe = "dpo"\ndata = ["org/d"]\nsteps = 1\nfrom = "sft"\n'
    there = versions(["M1", "M2"], '[version.tuned]\nsft = "org/sft@a"')
    (tuning,) = declared(there, tune, EVALUATE).tunings
    assert (tuning.name, tuning.after) == ("dpo", "sft")
    told = faults(f'[study]\nname = "s"\n{there}{versions(["M3"])}{tune}')
    assert len(told) == 1 and "M3 has no fine-tuning 'sft' to go on from" in told[0]


def test_what_is_no_fault_and_may_be_meant_otherwise_is_warned_of() -> None:
    unscored, undone = declared(versions()).warnings
    assert "nothing is scored" in unscored and "nothing is to be done" in undone
    epochs = TUNE.replace("steps = 100", "epochs = 2")
    (total,) = declared(versions(), epochs, EVALUATE, '[do]\nrecycle = "all"').warnings
    assert "study.toml:" in total and "the same total of steps cannot be counted" in total
    assert declared(versions(), epochs, EVALUATE, '[do]\nrecycle = "all"\nsame-total = false').warnings == ()


def test_tunings_come_in_the_order_in_which_they_can_be_done() -> None:
    one = '[tune.dpo]\nrecipe = "dpo"\ndata = ["org/d"]\nfrom = "sft"\n'
    two = '[tune.sft]\ndata = ["org/d"]\nsteps = 1\n'
    assert [tuning.name for tuning in declared(versions(), one, two).tunings] == ["sft", "dpo"]


def test_validation_that_is_the_test_is_refused_by_name_and_by_its_examples(tmp_path: Path) -> None:
    def write(name: str, *questions: str) -> None:
        rows = [json.dumps({"prompt": question, "answer": "1"}) + "\n" for question in questions]
        (tmp_path / name).write_text("".join(rows))

    write("test.jsonl", "one?", "two?", "three?")
    write("apart.jsonl", "four?")
    write("seen.jsonl", "four?", " TWO? ")
    begin = f'[study]\nname = "s"\n{versions()}[evaluate]\ntasks = ["test.jsonl"]\n'
    place = tmp_path / "study.toml"
    assert study_of(begin + 'validation = ["apart.jsonl"]', place).evaluations[""].validation == ("apart.jsonl",)
    for name in ("test.jsonl", "seen.jsonl"):
        (told,) = faults(begin + f'validation = ["{name}"]', place)
        assert "selection on the test set is refused" in told
    assert "1 of 3 examples of test (2" in told


def test_a_curve_needs_validation_data() -> None:
    text = f'[study]\nname = "s"\n{versions()}{TUNE}eval-every = 10\n{EVALUATE}'
    assert "give [evaluate] validation" in fault(text)


def test_families_are_the_labs() -> None:
    assert "nothing comes from the lab" in fault(f'[study]\nname = "s"\nfamilies = [1]\n{versions()}')
    lab = '[[version]]\nname = "M1"\nmodel = "lab:M1"\n'
    assert declared(lab, head="families = [3, 4]").families == (3, 4)
    assert declared(lab).families == (0,)
    assert declared(versions()).families == (None,)


def test_names_of_the_lab_are_known() -> None:
    assert "The lab makes no 'M9'. Did you mean lab:M" in fault(
        '[study]\nname = "s"\n[[version]]\nname = "a"\nmodel = "lab:M9"\n'
    )
    assert "It makes lab:M0, lab:M1" in fault('[study]\nname = "s"\n[[version]]\nname = "a"\nmodel = "lab:zzz"\n')


def test_what_the_lab_makes_has_to_be_of_the_kind_that_is_wanted() -> None:
    begin = f'[study]\nname = "s"\n{versions()}'
    assert "is questions.jsonl of the lab's family, not a model" in fault(
        '[study]\nname = "s"\n[[version]]\nname = "a"\nmodel = "lab:questions"\n'
    )
    assert "is M4 of the lab's family, not a file of examples" in fault(begin + '[evaluate]\ntasks = ["lab:M4"]')
    assert "not a chat template" in fault(begin + '[evaluate]\ntasks = ["gsm8k"]\nchat-template = "lab:M4"')
    assert "no such file or folder" in fault(begin + '[evaluate]\ntasks = ["gsm8k"]\nchat-template = "missing.jinja"')


def test_versions_of_one_repository_without_a_revision_are_warned_of() -> None:
    loose = '[[version]]\nname = "main"\nmodel = "org/model"\n'
    (warning,) = declared(versions(), loose, EVALUATE).warnings
    assert "main of org/model name no revision" in warning
    assert declared(versions(), EVALUATE).warnings == ()


def test_settings_are_those_of_the_verbs_and_seeds_are_the_studys() -> None:
    study = declared(
        versions(),
        TUNE + 'learning-rate = 1e-4\nbatch-size = 4\nsave-every = 7\nmix = ["org/instructions=0.5"]',
        EVALUATE + "limit = 5\nbatch-size = 'auto'",
        "[transfer]\ndrop = 'score'\nrule = ['embed=0']\nconfig = ['rope_theta=target']",
    )
    assert study.tunings[0].settings == {"steps": 100, "learning_rate": 1e-4, "batch_size": 4}
    assert study.tunings[0].running == {"save_every": 7} and study.tunings[0].mix == ("org/instructions=0.5",)
    assert study.evaluations[""].settings == {"limit": 5, "batch_size": "auto"}
    assert study.transferring == {"drop": "score", "rules": ["embed=0"], "config": {"rope_theta": "target"}}
    text = f'[study]\nname = "s"\n{versions()}'
    assert "[tune] seed: is not known" in fault(text + TUNE + "seed = 1")
    assert "no regular expression" in fault(text + '[transfer]\ndrop = "("')
    assert "choose llama3" in fault(text + '[evaluate]\nsuite = "none"')
    assert "of Lora" not in fault(text + TUNE + 'lora = "rank=0"')


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
        "'(' is no regular expression",
        "'x=y': write it as REGEX=SCALE",
        "'x': write it as NAME=base",
        "'foo': choose strings or positions",
        "'bar': choose append or drop",
        "is 3; write a list of texts",
    ):
        assert words in together


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('device = "foo"', "'foo': choose cpu, cuda, cuda:N or mps"),
        ('match = "("', "'(' is no regular expression"),
        ('match = "(a)(b)"', "'(a)(b)' has 2 groups"),
        ('batch-size = "autox"', "'autox': give a whole number from 1 on, auto, or auto:N"),
        ("batch-size = 0", "is 0; give a whole number from 1 on, or auto"),
        ("max-new-tokens = 0", "is 0; give a whole number from 1 on"),
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
    assert "[evaluate] dtype: 'float99': choose auto, float32" in told


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
    assert ("a line along Δ goes on to α = 1.5" in told) == ("data" in text)
    assert declared(versions(), "[paths]\npoints = 700", folder=tmp_path).lines.points == 700


def test_a_share_is_of_data_that_are_named_and_no_two_of_these_have_one_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("d.jsonl", "e.jsonl", "sub/d.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n')

    def told(data: str, mix: str) -> list[str]:
        tune = f"[tune]\nsteps = 1\ndata = {data}\nmix = {mix}\n"
        return faults(f'[study]\nname = "s"\n{versions()}{tune}', tmp_path / "study.toml")

    (one,) = told('["d.jsonl", "sub/d.jsonl"]', "[]")
    assert "[tune] data: d.jsonl is given twice, or two files have one name. Rename one of them" in one
    wrong = told('["d.jsonl", "org/data", "lab:instructions"]', '["nosuch=3", "x", "d=1", "d.jsonl=2"]')
    assert [line.partition("mix: ")[2].split(":")[0] for line in wrong] == ["'x'", "d.jsonl", "nosuch"]
    assert "choose one of the data: d.jsonl, org/data, instructions.jsonl" in wrong[2]
    assert "a share of it was given before" in wrong[1]
    fine = ["d=1", "org/data=0.5", "lab:instructions=3", f"{tmp_path}/e.jsonl=1"]
    data = ["sub/d.jsonl", "org/data", "lab:instructions", f"{tmp_path}/e.jsonl"]
    tune = f"[tune]\nsteps = 1\ndata = {json.dumps(data)}\nmix = {json.dumps(fine)}\n"
    assert declared(versions(), tune, folder=tmp_path).tunings[0].mix == tuple(fine)


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        ('tasks = ["e1.jsonl", "s2/e1.jsonl"]', ["[evaluate] tasks: ", "the task 'e1' stands in ", "another `task`"]),
        ('tasks = ["e1.jsonl", "./e1.jsonl"]', ["[evaluate] tasks: ", "stands there twice"]),
        ('tasks = ["e1.jsonl", "e1"]', ["[evaluate] tasks: e1: so are a task of the harness and examples"]),
        ('tasks = ["bad.jsonl"]', ["[evaluate] tasks: ", "bad.jsonl:1: no JSON"]),
        ('loss = ["choices.jsonl"]', ["[evaluate] loss: ", "of which no loss is taken"]),
        (
            'tasks = ["gsm8k"]\nvalidation = ["empty.jsonl"]',
            ["[evaluate] validation: ", "empty.jsonl: holds no examples"],
        ),
        ('tasks = ["e1.jsonl"]\nvalidation = ["bad.jsonl"]', ["[evaluate] validation: ", "bad.jsonl:1: no JSON"]),
    ],
)
def test_what_is_wrong_with_questions_is_told_before_anything_runs(
    evaluate: str, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "s2").mkdir()
    for name in ("e1.jsonl", "s2/e1.jsonl"):
        (tmp_path / name).write_text('{"prompt": "1+1=", "answer": "2"}\n{"prompt": "1+2=", "answer": "3"}\n')
    (tmp_path / "choices.jsonl").write_text('{"prompt": "1+1=", "answer": "2", "choices": ["2", "3"]}\n')
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(StudyError, match="has 1 fault;") as caught:
        declared(versions(), f"[evaluate]\n{evaluate}\n", folder=tmp_path)
    told = str(caught.value)
    assert all(part in told for part in words) and "trained-on" not in told


def test_one_name_may_be_scored_and_its_answers_losses_measured(tmp_path: Path) -> None:
    for name, question in (("a", "1+1="), ("b", "1+2="), ("c", "1+3=")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "e.jsonl").write_text(json.dumps({"prompt": question, "answer": "2"}) + "\n")
    asked = '[evaluate]\ntasks = ["a/e.jsonl"]\nloss = ["b/e.jsonl"]\nvalidation = ["c/e.jsonl"]\n'
    assert declared(versions(), asked, folder=tmp_path).evaluations


def test_the_papers_tables_become_numbers_that_know_their_model() -> None:
    table = """
[[expected]]
table = "3"
task = "gsm8k"
columns = ["M1", "M2"]
rows = [["base", 13.2, 19.4], ["M1", "", 26.6], ["FT", 45.1, 50.7]]

[[expected]]
table = 6
task = "gsm8k"
kind = "recycle-iterative"
columns = ["M3", "M4"]
rows = [["before", 67.0, 77.3]]

[[expected]]
table = "1"
target = "M2"
tasks = ["GSM8K", "MATH"]
rows = [["M1 sft", 79.8, 29.9]]
"""
    study = paper('recycle = "all"', table)
    found = {(n.table, n.task, n.kind, n.source, n.target, n.tuning): n.value for n in study.expected}
    assert found == {
        ("3", "gsm8k", "base", None, "M1", "sft"): 13.2,
        ("3", "gsm8k", "base", None, "M2", "sft"): 19.4,
        ("3", "gsm8k", "transfer", "M1", "M2", "sft"): 26.6,
        ("3", "gsm8k", "tuned", None, "M1", "sft"): 45.1,
        ("3", "gsm8k", "tuned", None, "M2", "sft"): 50.7,
        ("6", "gsm8k", "recycle-iterative", "M2", "M3", "sft"): 67.0,
        ("6", "gsm8k", "recycle-iterative", "M3", "M4", "sft"): 77.3,
        ("1", "GSM8K", "transfer", "M1", "M2", "sft"): 79.8,
        ("1", "MATH", "transfer", "M1", "M2", "sft"): 29.9,
    }
    begin = f'[study]\nname = "s"\n{versions()}{TUNE}[[expected]]\ntable = "3"\ntask = "t"\ncolumns = ["M1"]\n'
    assert "2 numbers for 1 columns" in fault(begin + 'rows = [["base", 1, 2]]')
    assert "neither base, FT, before nor a version" in fault(begin + 'rows = [["M9", 1]]')
    assert "is no number" in fault(begin + 'rows = [["M1", true]]')


def test_a_study_that_is_read_again_is_the_same() -> None:
    study = paper('transfer = "all"\nrecycle = "all"\nscales = [0.5, 1]', head="seeds = [1, 2]")
    assert study_of(study.text, study.path) == study


KEYS = st.sampled_from(
    [
        "study",
        "version",
        "tune",
        "evaluate",
        "paths",
        "do",
        "expected",
        "resources",
        "cost",
        "transfer",
        "name",
        "model",
        "seeds",
        "families",
        "lab",
        "keep",
        "notes",
        "tuned",
        "recipe",
        "data",
        "steps",
        "from",
        "mix",
        "lora",
        "reward",
        "tasks",
        "suite",
        "validation",
        "loss",
        "text",
        "points",
        "recycle",
        "scales",
        "carry",
        "table",
        "columns",
        "rows",
        "kind",
        "tuning",
        "cpus",
        "flops",
        "sft",
        "target-only",
        "transfer-then-tune",
        "eval-every",
        "chat-template",
    ]
)
TEXTS = st.sampled_from(
    ["all", "M1", "M2", "lab:M1", "lab:", "org/model@x", "sft", "dpo", "a\x00b", "x" * 5000, "", "~", "/"]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        TEXTS,
        st.text(max_size=8),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.dates(),
        st.times(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return (
            json.dumps(value).replace("\x7f", "\\u007f")
            if value.isprintable()
            else json.dumps("".join(filter(str.isprintable, value)))
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, int | float):
        return repr(value)
    return str(value.isoformat())


@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_tables_are_a_study_or_an_error_in_words(tables: dict[str, Any]) -> None:
    text = "".join(f"{key} = {toml(value)}\n" for key, value in tables.items())
    try:
        study = study_of(text, PLACE)
    except StudyError as error:
        assert "study.toml" in str(error)
    else:
        assert study_of(text, PLACE) == study


@given(
    st.dictionaries(st.sampled_from(["name", "seeds", "families", "lab", "keep", "notes"]), VALUES, max_size=4),
    st.data(),
)
def test_any_values_in_the_right_places_are_a_study_or_an_error_in_words(
    head: dict[str, Any], data: st.DataObject
) -> None:
    def section(name: str, *keys: str) -> str:
        drawn = data.draw(st.dictionaries(st.sampled_from(keys), VALUES, max_size=5))
        return f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in drawn.items())

    text = (
        "[study]\n"
        + "".join(f"{key} = {toml(value)}\n" for key, value in head.items())
        + versions(["M1", "M2"])
        + section("[version]", "name", "model", "tuned", "target-only", "parameters")
        + section(
            "tune", "recipe", "data", "mix", "steps", "learning-rate", "schedule", "lora", "eval-every", "reward", "x"
        )
        + section(
            "evaluate", "tasks", "suite", "loss", "validation", "match", "limit", "batch-size", "chat-template", "sft"
        )
        + section("paths", "text", "data", "points", "threshold", "match")
        + section(
            "do", "transfer", "transfer-then-tune", "recycle", "paths", "distances", "scales", "reduced-rate", "carry"
        )
        + section("transfer", "drop", "rule", "config", "vocabulary", "new-tokens")
        + section("resources", "tune", "transfer")
        + section("cost", "gpu", "flops", "utilisation")
        + section("[expected]", "table", "task", "columns", "rows", "kind", "target", "tasks")
    )
    try:
        study = study_of(text, PLACE)
    except StudyError as error:
        assert "study.toml" in str(error)
    else:
        assert study_of(text, PLACE) == study


@given(st.text(alphabet=st.sampled_from("[]{}=.\"'#\n \\ab1,\t-"), max_size=60))
def test_any_text_is_a_study_or_an_error_in_words(text: str) -> None:
    with pytest.raises(StudyError, match=r"study\.toml"):
        study_of(text, PLACE)


def test_the_files_that_lines_are_measured_on_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "torn.jsonl").write_text('{"text": "a"}\n{"text"')
    lines = '[paths]\ntext = ["empty.jsonl"]\ndata = ["torn.jsonl"]\n[do]\npaths = [["M1", "M2"]]\n'
    told = "\n".join(faults(f'[study]\nname = "s"\n{versions()}{TUNE}{lines}', tmp_path / "study.toml"))
    assert "empty.jsonl" in told and "torn.jsonl:2" in told


def test_a_task_that_is_asked_in_two_ways_is_a_fault_for_a_base_has_one_score_of_it() -> None:
    stages = "[version.tuned]\nsft = 'org/m@sft'\ndpo = 'org/m@dpo'\n"
    asked = '[evaluate]\ntasks = ["gsm8k", "mmlu"]\n[evaluate.dpo]\ntasks = ["gsm8k"]\n'
    do = '[do]\ntransfer = "all"\n'
    text = f'[study]\nname = "s"\n{versions(("M1", "M2"), stages)}'
    told = fault(f"{text}{asked}max-new-tokens = 1024\n{do}")
    assert "gsm8k: so does [evaluate] ask, with other settings (max-new-tokens), and a base has one score" in told
    study_of(f"{text}{asked}batch-size = 4\n{do}", PLACE)


def test_a_loss_is_another_score_than_the_answers_and_depends_on_fewer_settings(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "{name} + 1 =", "answer": "2"}}\n')
    stages = "[version.tuned]\nsft = 'org/m@sft'\ndpo = 'org/m@dpo'\n"
    head = f'[study]\nname = "s"\n{versions(("M1", "M2"), stages)}[do]\ntransfer = "all"\n'
    place = tmp_path / "study.toml"
    one = '[evaluate.sft]\ntasks = ["a.jsonl"]\nloss = ["b.jsonl"]\nmatch = "([0-9])"\n'
    other = '[evaluate.dpo]\ntasks = ["c.jsonl"]\nloss = ["a.jsonl", "b.jsonl"]\nmax-new-tokens = 5\n'
    study_of(head + one + other, place)
    (told,) = faults(head + one + other + "limit = 1\n", place)
    assert "the loss of b.jsonl: so does [evaluate.sft] ask, with other settings (limit)" in told
