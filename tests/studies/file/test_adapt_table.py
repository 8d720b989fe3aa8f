"""What [adapt] of a study's file says: the options of the command, for all fine-tunings or for one by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.declared_studies import EVALUATE, STAGES, TUNE, declared, fault, faults, paper, versions, with_do

ADAPT = '[adapt]\nprompts = ["org/prompts"]\n'
DO = 'adapt = [["M4", "M5"]]'


def asked(folder: Path, name: str, start: int, stop: int, *, answered: bool = False) -> str:
    """Questions of which no two are alike, as a file."""
    words = [
        f"{number * 7919 % 10_007:x}".translate(str.maketrans("0123456789", "ghijklmnop")) for number in range(stop)
    ]
    rows = [{"prompt": " ".join((word, word[::-1], word * 2))} for word in words[start:]]
    rows = [row | {"answer": "yes"} if answered else row for row in rows]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def test_settings_are_those_of_the_command_with_its_defaults() -> None:
    table = ADAPT + 'up-to = "scale"\nsteps = 20\nmatch = "regex:x"\ndevice = "cpu"\neval-batch-size = 4\n'
    found = paper(DO, table).adapting("sft")
    assert found is not None and found.data == {"prompts": ("org/prompts",)}
    assert found.rungs == ("add", "scale")
    assert found.fitting["steps"] == 20 and found.fitting["batch_size"] == 32 and found.fitting["lora"] is None
    assert found.settings == {"match": "regex:x"} and found.running == {"device": "cpu", "eval_batch_size": 4}


def test_without_a_last_rung_prompts_go_as_far_as_distil_and_examples_as_far_as_tune() -> None:
    prompts, examples = (
        paper(DO, f'[adapt]\n{role} = ["org/data"]\n').adapting("sft") for role in ("prompts", "examples")
    )
    assert prompts is not None and prompts.rungs == ("add", "scale", "distil")
    assert examples is not None and examples.rungs == ("add", "scale", "distil", "tune")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "[adapt] prompts: is missing"),
        ('prompts = ["org/a"]\nexamples = ["org/b"]\n', "[adapt] prompts: are both given"),
        ('prompts = ["nowhere.jsonl"]\n', "[adapt] prompts: 'nowhere.jsonl': no such file beside the study file"),
        ('prompts = ["org/a"]\nup-to = "tune"\n', "[adapt] up-to: 'tune': needs answers to train on"),
        ('prompts = ["org/a"]\nrungs = ["ad"]\n', "[adapt] rungs: 'ad': must be add, scale, layers, distil or tune"),
        ('prompts = ["org/a"]\nlearning-rate = 7\n', "[adapt] learning-rate: 7: must be a number above 0"),
        ('prompts = ["org/a"]\nlearningrate = 1\n', "did you mean 'learning-rate'?"),
        ('prompts = ["org/a"]\nchat-template = "./none.jinja"\n', "[adapt] chat-template"),
        ('prompts = ["lab:M4"]\n', "[adapt] prompts"),
    ],
)
def test_a_wrong_setting_is_told_by_its_key(table: str, words: str) -> None:
    assert words in fault(with_do(DO) + f"[adapt]\nmax-new-tokens = 8\n{table}")


def test_adapting_and_healing_need_the_table() -> None:
    assert "[do] adapt: an [adapt] section is missing" in fault(with_do(DO))
    assert "[do] recycle: an [adapt] section is missing" in fault(with_do('recycle = { heal = "distil" }'))
    (warning,) = paper('transfer = "all"', ADAPT).warnings
    assert "nothing is adapted by [adapt]" in warning


def test_a_fine_tuning_may_have_settings_of_its_own() -> None:
    own = '[adapt.dpo]\nprompts = ["org/others"]\nsteps = 9\n'
    study = declared(versions(), STAGES, EVALUATE, ADAPT, own, f"[do]\n{DO}")
    first, second = study.adapting("sft"), study.adapting("dpo")
    assert first is not None and first.data["prompts"] == ("org/prompts",) and first.fitting["steps"] == 50
    assert second is not None and second.data["prompts"] == ("org/others",) and second.fitting["steps"] == 9
    head = f'[study]\nname = "s"\n{versions()}{STAGES}{EVALUATE}[do]\n{DO}\n'
    assert "sft has no settings; give [adapt.sft], or [adapt] for all" in fault(head + own)
    assert "there is no fine-tuning 'dpa' (did you mean 'dpo'?)" in fault(head + ADAPT + own.replace("dpo", "dpa"))


@pytest.mark.parametrize("role", ["prompts", "select"])
def test_nothing_is_fitted_on_or_chosen_by_the_studys_test(role: str, tmp_path: Path) -> None:
    test = asked(tmp_path, "test.jsonl", 0, 20, answered=True)
    others = asked(tmp_path, "other.jsonl", 20, 60)
    shared = asked(tmp_path, "shared.jsonl", 19, 40)
    data = {"prompts": others, "select": asked(tmp_path, "select.jsonl", 60, 80), role: shared}
    table = "".join(f'{name} = ["{file}"]\n' for name, file in data.items())
    text = f'[study]\nname = "s"\n{versions()}{TUNE}[evaluate]\ntasks = ["{test}"]\n[adapt]\n{table}[do]\n{DO}\n'
    (told,) = faults(text, tmp_path / "study.toml")
    assert f"[adapt] {role}: 1 of 20 examples of test" in told and "Selection on the test set" in told
    (named,) = faults(text.replace(shared, test), tmp_path / "study.toml")
    assert f"[adapt] {role}: 'test.jsonl' is also a test task" in named


def test_files_are_read_as_the_command_reads_them(tmp_path: Path) -> None:
    asked(tmp_path, "asked.jsonl", 0, 40)
    text = f'[study]\nname = "s"\n{versions()}{TUNE}{EVALUATE}[adapt]\nexamples = ["asked.jsonl"]\n[do]\n{DO}\n'
    (told,) = faults(text, tmp_path / "study.toml")
    assert "[adapt] examples: " in told and "these have prompts without an answer" in told


@pytest.mark.parametrize(
    ("recycle", "words"),
    [
        ('{ heal = "tune" }', "[do.recycle] heal: is 'tune'; it must be add, scale or distil"),
        ('{ healing = "add" }', "did you mean 'heal'?"),
        ('{ pairs = 3, heal = "add" }', "[do] recycle: is 3; write"),
    ],
)
def test_what_recycle_cannot_be_is_told(recycle: str, words: str) -> None:
    assert words in fault(with_do(f"recycle = {recycle}") + ADAPT)


def test_recycle_heals_along_all_versions_or_along_its_pairs() -> None:
    every = paper('recycle = { heal = "distil" }', ADAPT).doing
    assert every.recycle == paper('recycle = "all"').doing.recycle and every.healing.heal == "distil"
    some = paper('recycle = { pairs = [["M2", "M3"]], heal = "scale" }', ADAPT).doing
    assert some.recycle == (("M2", "M3"),) and some.healing.heal == "scale"
    assert paper('recycle = { pairs = "all" }').doing == paper('recycle = "all"').doing
