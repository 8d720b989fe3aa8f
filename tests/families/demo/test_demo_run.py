"""The demo from end to end through the real engine, with budgets so small that nothing is learned."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.brief_recipes import BRIEF_DEMO

from tuneport.cli import main
from tuneport.errors import OutputError, UsageError
from tuneport.families.demo import demo_answers
from tuneport.families.demo.demo_run import MODELS, DemoRecipe, demo

pytest.importorskip("transformers")


pytestmark = pytest.mark.slow  # the first test waits for a whole demo


@pytest.fixture(scope="module")
def done(finished_demo: Path) -> Path:
    return finished_demo


def test_the_six_models_stay_and_load_as_any_others(done: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = ["v1", "v1-tuned", "v2", "v2-adapted", "v2-transferred", "v2-tuned"]
    assert sorted(path.name for path in (done / "models").iterdir()) == names
    for name in names:
        model = AutoModelForCausalLM.from_pretrained(done / "models" / name)
        assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(done / "models" / name))


def test_the_transferred_model_has_the_fine_tunings_manners_on_version_twos_tokens(done: Path) -> None:
    from transformers import AutoTokenizer

    tuned, transferred = (done / "models" / name for name in ("v2-tuned", "v2-transferred"))
    ids = AutoTokenizer.from_pretrained(transferred).get_vocab()
    assert (transferred / "chat_template.jinja").read_text() == (tuned / "chat_template.jinja").read_text()
    settings = json.loads((transferred / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [ids["<end>"], ids["<eos>"]]


def test_questions_stay_with_prompt_and_answer(done: Path) -> None:
    asked = [json.loads(line) for line in (done / "questions.jsonl").read_text().splitlines()]
    assert len(asked) > 100
    assert all(set(question) == {"task", "prompt", "answer"} for question in asked)


def test_the_summary_holds_what_it_promises(done: Path) -> None:
    record = json.loads((done / "summary.json").read_text())
    for field in (
        "target", "transferred", "tuned_target", "recovered_gain", "tasks", "new_knowledge", "backport",
        "shift_norm", "diff_norm", "controls", "n", "seed", "seconds", "transfer_then_tune",
    ):  # fmt: skip
        assert field in record, field
    assert {"v1_tuned", "v2", "v2_transferred"} <= set(record["new_knowledge"])
    assert set(record["controls"]) == {"shuffled", "foreign_family"}
    assert record["diff_norm"] > 0 and record["shift_norm"] > 0


def test_every_transfer_went_through_the_engine(done: Path) -> None:
    transferred = [MODELS[name] for name in ("v2-transferred", "v1-backported", "v2-shuffled", "v2-foreign")]
    for place in transferred:
        assert json.loads((done / place / "tuneport.json").read_text())["operation"] == "transfer"


def test_the_foreign_control_warns_and_the_demo_says_so(done: Path) -> None:
    record = json.loads((done / "summary.json").read_text())
    assert record["claims"]["the foreign control's transfer warns"]
    assert "warning of its transfer: base and target look unrelated" in demo_answers.table(record)


def test_a_second_run_finds_all_done_and_another_seed_is_refused(done: Path) -> None:
    shown: list[str] = []
    again = demo(done, seed=0, recipe=BRIEF_DEMO, show=shown.append)
    assert "recovered gain" in "".join(shown)
    assert again.already_done
    assert again.record == json.loads((done / "summary.json").read_text())
    with pytest.raises(OutputError, match=r"seed \(then 0, now 1\)"):
        demo(done, seed=1, recipe=BRIEF_DEMO)
    with pytest.raises(OutputError, match=r"recipe\.problems"):
        demo(done, seed=0, recipe=replace(BRIEF_DEMO, problems=13))


def test_with_json_stdout_holds_one_object_and_nothing_else(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = tmp_path / "demo"  # of the recipe that the command line runs
    finished.mkdir()
    (finished / "summary.json").write_text((done / "summary.json").read_text())
    plan = json.loads((done / "plan.json").read_text()) | {"recipe": asdict(DemoRecipe())}
    (finished / "plan.json").write_text(json.dumps(plan))
    assert main(["demo", "--out", str(finished), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n"] == json.loads((done / "summary.json").read_text())["n"]


def test_without_torch_the_demo_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneport.families.demo.demo_run.missing", lambda *names: ["torch"])
    with pytest.raises(UsageError, match=r"needs torch.*pip install 'tuneport\[models\]'"):
        demo(tmp_path / "demo")
    assert not list(tmp_path.iterdir())


def test_a_seed_below_zero_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seed=-1"):
        demo(tmp_path / "demo", -1)
    assert not list(tmp_path.iterdir())


def test_the_curves_start_before_the_first_step_and_end_after_the_last(done: Path) -> None:
    record = json.loads((done / "summary.json").read_text())["transfer_then_tune"]
    for curve in ("from_target", "from_transferred"):
        assert [point["step"] for point in record[curve]] == [0, 2, 4]
        assert all(low <= point["accuracy"] <= high for point in record[curve] for low, high in [point["interval"]])
    assert record["to_match"] == record["from_target"][-1]["accuracy"]


def test_fine_tuning_and_scoring_went_through_the_commands(done: Path) -> None:
    for name in ("v1-tuned", "v2-tuned"):
        assert json.loads((done / "models" / name / "tune.json").read_text())["plan"]["recipe"]["recipe"] == "sft"
    scored = json.loads((done / "scores" / "v2-transferred.json").read_text())
    assert scored["models"][0]["tasks"]["word-problems"]["n"] == BRIEF_DEMO.problems


def test_every_models_answers_stay_beside_the_questions(done: Path) -> None:
    asked, said = (
        [json.loads(line) for line in (done / name).read_text().splitlines()]
        for name in ("questions.jsonl", "answers.jsonl")
    )
    assert [line["prompt"] for line in said] == [line["prompt"] for line in asked]
    assert set(said[0]) == {"task", "prompt", *MODELS}
