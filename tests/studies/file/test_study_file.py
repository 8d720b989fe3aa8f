"""A study's file: what it says, and everything that is wrong with it, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.declared_studies import EVALUATE, PLACE, TUNE, declared, fault, faults, paper, versions, with_do

from tuneport.errors import StudyError
from tuneport.studies.file.study_file import read_study, study_of


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
        "is the name of two versions",
        "missing.jsonl",
        "did you mean 'learning-rate'?",
        "must be a whole number of at least 1",
        "[evaluate] max-new-tokens",
        "there is no version 'M9'",
    ):
        assert words in together


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[study", "is not valid TOML"),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("a = 1" + "0" * 5000, "is not valid TOML"),
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
        ('transfer = [["M1", "M1"]]', "the same version twice"),
        ('transfer = [["M1", "M2"], ["M1", "M2"]]', "is listed twice"),
        ('recycle = [["M2", "M3"], ["M1", "M2"]]', "order the pairs as a chain"),
        ('recycle = [["M1", "M3"], ["M2", "M3"]]', "the target twice"),
        ('paths = "all"', "give [paths] with text"),
        ("scales = [1, 1]", "different numbers"),
        ("scales = [nan]", "a finite number"),
        ("reduced-rate = 2", "below 1"),
        ('carry = "float8"', "must be float32 or bfloat16"),
        ('same-total = "yes"', "must be True or False"),
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
        (["M1"], TUNE, 'transfer = "all"', "there is only one version"),
        (["M1"], TUNE, 'recycle = "all"', "there is only one version"),
        (["M1"], "", 'distances = "all"', "there is only one version"),
        (["M1", "M2"], "", 'transfer = "all"', "no version has a fine-tuned model"),
        (["M1", "M2"], "", 'compare = "all"', "no version has a fine-tuned model"),
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
    assert "M6 is target-only, but is a source" in fault(text + 'transfer = [["M6", "M1"]]')
    assert "M6 is target-only and never fine-tuned" in fault(text + 'transfer-then-tune = [["M1", "M6"]]')
    everything = study_of(text + 'transfer = "all"\ntransfer-then-tune = "all"\nrecycle = "all"', PLACE).doing
    assert ("M1", "M6") in everything.transfer and ("M6", "M1") not in everything.transfer
    assert not any("M6" in pair for pair in (*everything.transfer_then_tune, *everything.recycle))


def test_a_tuning_goes_on_from_one_that_exists_and_not_in_a_circle() -> None:
    one = '[tune.a]\ndata = ["org/d"]\nsteps = 1\nfrom = "b"\n'
    two = '[tune.b]\ndata = ["org/d"]\nsteps = 1\nfrom = "a"\n'
    told = faults(f'[study]\nname = "s"\n{versions()}{one}{two}')
    assert len(told) == 1 and "is circular" in told[0], "once, though two are in it"
    assert "there is no fine-tuning 'b'" in fault(f'[study]\nname = "s"\n{versions()}{one}')


def test_one_fine_tuning_and_several_by_name_do_not_mix() -> None:
    other = '[tune.dpo]\nrecipe = "dpo"\ndata = ["org/d"]\nsteps = 1\n'
    told = fault(f'[study]\nname = "s"\n{versions()}{TUNE}{other}')
    assert "[tune] dpo: is a named fine-tuning" in told and "its own [tune.NAME]" in told


def test_a_tuning_may_go_on_from_models_that_are_there_in_every_version() -> None:
    tune = '[tune]\nrecipe = "dpo"\ndata = ["org/d"]\nsteps = 1\nfrom = "sft"\n'
    there = versions(["M1", "M2"], '[version.tuned]\nsft = "org/sft@a"')
    (tuning,) = declared(there, tune, EVALUATE).tunings
    assert (tuning.name, tuning.after) == ("dpo", "sft")
    told = faults(f'[study]\nname = "s"\n{there}{versions(["M3"])}{tune}')
    assert len(told) == 1 and "M3 has no fine-tuning 'sft' to continue from" in told[0]


def test_what_is_no_fault_and_may_be_meant_otherwise_is_warned_of() -> None:
    unscored, undone = declared(versions()).warnings
    assert "nothing is scored" in unscored and "there is nothing to do" in undone
    epochs = TUNE.replace("steps = 100", "epochs = 2")
    (total,) = declared(versions(), epochs, EVALUATE, '[do]\nrecycle = "all"').warnings
    assert "study.toml:" in total and "the same total of steps is unknown" in total
    assert declared(versions(), epochs, EVALUATE, '[do]\nrecycle = "all"\nsame-total = false').warnings == ()


def test_tunings_come_in_the_order_in_which_they_can_be_done() -> None:
    one = '[tune.dpo]\nrecipe = "dpo"\ndata = ["org/d"]\nfrom = "sft"\n'
    two = '[tune.sft]\ndata = ["org/d"]\nsteps = 1\n'
    assert [tuning.name for tuning in declared(versions(), one, two).tunings] == ["sft", "dpo"]


def test_a_curve_needs_validation_data() -> None:
    text = f'[study]\nname = "s"\n{versions()}{TUNE}eval-every = 10\n{EVALUATE}'
    assert "give [evaluate] validation" in fault(text)


def test_families_are_the_labs() -> None:
    assert "is only for models from the lab" in fault(f'[study]\nname = "s"\nfamilies = [1]\n{versions()}')
    lab = '[[version]]\nname = "M1"\nmodel = "lab:M1"\n'
    assert declared(lab, head="families = [3, 4]").families == (3, 4)
    assert declared(lab).families == (0,)
    assert declared(versions()).families == ()


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


def test_settings_are_those_of_the_commands_and_seeds_are_the_studys() -> None:
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
    assert "not a valid regular expression" in fault(text + '[transfer]\ndrop = "("')
    assert "must be one of llama3" in fault(text + '[evaluate]\nsuite = "none"')
    assert "of Lora" not in fault(text + TUNE + 'lora = "rank=0"')


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
    assert "which is not base, FT, before or a version" in fault(begin + 'rows = [["M9", 1]]')
    assert "is not a number" in fault(begin + 'rows = [["M1", true]]')


def test_a_study_that_is_read_again_is_the_same() -> None:
    study = paper('transfer = "all"\nrecycle = "all"\nscales = [0.5, 1]', head="seeds = [1, 2]")
    assert study_of(study.text, study.path) == study
