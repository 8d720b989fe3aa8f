"""The ladder, climbed with real models: what is tried, what is kept, what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import torch
from support.adapted_models import Family
from support.command_results import Cli
from support.tiny_models import read_weights

import tuneport
from tuneport.adaptation import ladder
from tuneport.adaptation.adapt_options import RUNGS
from tuneport.adaptation.run import rehearse_adapt
from tuneport.diagnosis.probing import carried_weights
from tuneport.errors import TakenError
from tuneport.results.adaptation_reading import adaptation_of

SHORT: dict[str, Any] = {"max_new_tokens": 4, "device": "cpu"}
# Half of the rate that the family was fine-tuned at, and a quarter. The family's texts are two words: what names the first one
# loses them, which is a harm by the gate's rule.
TRAINED: dict[str, Any] = {
    "steps": 20, "learning_rate": 5e-3, "tune_learning_rate": 2.5e-3, "batch_size": 16, "keep_harmed": True,
}  # fmt: skip


@dataclass(frozen=True)
class Files:
    prompts: Path
    select: Path
    test: Path
    answered: Path

    @property
    def held(self) -> dict[str, Any]:
        return {"select": self.select, "test": self.test, **SHORT}


@pytest.fixture(scope="module")
def files(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Files:
    place = tmp_path_factory.mktemp("files")
    return Files(
        family.file(place / "prompts.jsonl", 0, 64),
        family.file(place / "select.jsonl", 100, 180),
        family.file(place / "test.jsonl", 200, 280),
        family.file(place / "answered.jsonl", 200, 280, answered=True),
    )


@pytest.fixture(scope="module")
def scaled(family: Family, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("scaled") / "out"
    return tuneport.adapt(*family.models, out, prompts=files.prompts, up_to="scale", keep_diff=True, **files.held)


def rungs(found: Any) -> dict[str, dict[str, Any]]:
    return {rung["name"]: rung for rung in found.record["rungs"]}


@pytest.fixture(scope="module")
def climbed(family: Family, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All rungs, with examples; layers is named, else it is not tried."""
    place = tmp_path_factory.mktemp("climbed")
    examples = family.file(place / "examples.jsonl", 0, 64, answered=True)
    select = family.file(place / "select.jsonl", 100, 180, answered=True)
    given = {**files.held, "select": select, "test": files.answered, "rungs": RUNGS, **TRAINED}
    return tuneport.adapt(*family.models, place / "out", examples=examples, **given)


def test_the_record_has_a_line_for_every_rung(scaled: Any) -> None:
    record = json.loads((scaled.out / "adapt.json").read_text())
    assert record["format"] == "tuneport.adapt/1"
    assert [rung["name"] for rung in record["rungs"]] == ["add", "scale", "layers", "distil", "tune"]
    fields = {"name", "status", "select", "test", "retention", "seconds", "examples", "steps", "why"}
    assert all(fields <= rung.keys() for rung in record["rungs"])
    assert {rung["status"] for rung in record["rungs"]} <= {"kept", "not better", "harmed", "skipped"}
    assert record["chosen"] in ("add", "scale") and rungs(scaled)["add"]["status"] == "kept"
    assert record["measure"] == {"select": "agreement", "test": "agreement"}


def test_figures_of_the_test_are_those_of_evaluate_on_what_was_written(
    family: Family, files: Files, scaled: Any, tmp_path: Path
) -> None:
    scores = tuneport.evaluate(
        [family.tuned, scaled.out], files.answered, tmp_path / "s.json", dtype="float32", **SHORT
    )
    said: dict[str, list[str]] = {}
    for line in map(json.loads, (tmp_path / "s.examples.jsonl").read_text().splitlines()):
        said.setdefault(line["model"], []).append(line["said"])
    source, written = said.values()
    alike = sum(one == other for one, other in zip(source, written, strict=True)) / len(source)
    assert rungs(scaled)[scaled.record["chosen"]]["test"]["value"] == alike
    assert scores["models"][0]["tasks"]["answered"]["value"] == 1.0, "agreement is quality where the source is right"


def test_retention_is_the_loss_of_texts_that_the_target_wrote_itself(scaled: Any) -> None:
    target, added = scaled.record["references"]["target"]["retention"], rungs(scaled)["add"]["retention"]
    assert 0 < target["loss"] < added["loss"], "no model finds a text likelier than the one that drew it"
    assert all(0 <= each["ended"] <= 1 and each["length"] <= 4 for each in (target, added))


def test_the_output_is_an_ordinary_checkpoint_that_verify_proves(family: Family, scaled: Any, cli: Cli) -> None:
    proof = tuneport.verify(scaled.out, *family.models, full=True)
    assert proof.kind == "full"
    card = (scaled.out / "README.md").read_text()
    assert "## How it was adapted" in card and "agreement, not quality" in card
    ran = cli("inspect", scaled.out)
    assert ran.status == 0 and "output" in ran.out
    assert not (scaled.out / "rungs").exists()


def test_what_a_rung_made_is_a_diff_vector(family: Family, scaled: Any, tmp_path: Path) -> None:
    assert tuneport.verify(scaled.out / "diff").kind == "integrity only"
    again = tuneport.apply(scaled.out / "diff", family.target, tmp_path / "again").out
    one, other = read_weights(again), read_weights(scaled.out)
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_the_same_call_again_says_that_it_is_done_and_another_call_is_refused(
    family: Family, files: Files, scaled: Any
) -> None:
    same = {"prompts": files.prompts, "keep_diff": True, **files.held}
    assert tuneport.adapt(*family.models, scaled.out, up_to="scale", **same).already_done
    with pytest.raises(TakenError, match="different plan"):
        tuneport.adapt(*family.models, scaled.out, up_to="add", **same)


def test_a_given_scale_is_that_of_plain_addition_and_the_grid_is_relative_to_it(
    family: Family, files: Files, tmp_path: Path
) -> None:
    found = tuneport.adapt(
        *family.models,
        tmp_path / "out",
        prompts=files.prompts,
        up_to="scale",
        scale=0.6,
        keep_harmed=True,
        **files.held,
    )
    tried, chosen = rungs(found)["scale"]["tried"], rungs(found)["scale"]["scale"]
    assert list(tried) == ["0", "0.15", "0.3", "0.45", "0.6", "0.75", "0.9"] and chosen in map(float, tried)
    scale = 0.6 if found.record["chosen"] == "add" else chosen
    expected = tuneport.transfer(*family.models, tmp_path / "expected", scale=scale).out
    assert weights_are_equal(found.out, expected)
    assert tuneport.verify(found.out, *family.models, full=True).kind == "full"


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.25])
def test_a_scale_in_memory_is_the_model_that_would_be_written_bit_for_bit(
    family: Family, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    from tuneport.adaptation.rungs import scale_rung

    held: list[dict[str, torch.Tensor]] = []
    carry = carried_weights.carry

    def watched(model: Any, *arguments: Any, **named: Any) -> None:
        carry(model, *arguments, **named)
        held.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

    monkeypatch.setattr(scale_rung, "carry", watched)
    monkeypatch.setattr(scale_rung, "SCALES", (1.0, scale))
    tuneport.adapt(*family.models, tmp_path / "out", prompts=files.prompts, up_to="scale", **files.held)
    if scale == 0:
        expected = read_weights(family.target)
    else:
        expected = read_weights(tuneport.transfer(*family.models, tmp_path / "expected", scale=scale).out)
    assert held[1].keys() == expected.keys()
    assert all(torch.equal(held[1][name], tensor.float()) for name, tensor in expected.items())


def test_a_stopped_run_does_nothing_twice(
    family: Family, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scaled: Any
) -> None:
    out = tmp_path / "out"
    given: dict[str, Any] = {"prompts": files.prompts, "up_to": "scale", "keep_diff": True, **files.held}

    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    attempts = dict(ladder.ATTEMPTS)
    monkeypatch.setattr(ladder, "ATTEMPTS", {**attempts, "scale": stopped})
    with pytest.raises(KeyboardInterrupt):
        tuneport.adapt(*family.models, out, **given)
    assert not out.exists()
    monkeypatch.setattr(ladder, "ATTEMPTS", {**attempts, "add": stopped})
    found = tuneport.adapt(*family.models, out, **given)
    assert weights_are_equal(out, scaled.out)

    def without_time(record: dict[str, Any]) -> Any:
        return {**record, "rungs": [{**rung, "seconds": 0, "warnings": []} for rung in record["rungs"]], "plan": {}}

    assert without_time(found.record) == without_time(scaled.record)


def weights_are_equal(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def kill_after(count: int) -> Callable[[Path, Path], Path]:
    """Path.replace that is interrupted before the rename with this number."""
    done = 0
    replace = Path.replace

    def counted(self: Path, target: Path) -> Path:
        nonlocal done
        done += 1
        if done > count:
            raise KeyboardInterrupt
        return replace(self, target)

    return counted


@pytest.mark.parametrize("count", [0, 4, 9])
def test_a_run_that_is_stopped_while_it_moves_its_files_goes_on(
    family: Family, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    from tuneport.adaptation import run

    out = tmp_path / "out"
    given: dict[str, Any] = {"prompts": files.prompts, "up_to": "add", "keep_diff": True, **files.held}
    put = run._put

    def stopped_in_between(*arguments: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", kill_after(count))
            put(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(run, "_put", stopped_in_between)
        try:
            tuneport.adapt(*family.models, out, **given)
        except KeyboardInterrupt:
            assert not out.exists()
    tuneport.adapt(*family.models, out, **given)
    assert tuneport.verify(out, *family.models, full=True).kind == "full"
    assert tuneport.verify(out / "diff").kind == "integrity only"
    assert sorted(path.name for path in out.iterdir() if path.suffix == ".json") == [
        "adapt.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tuneport.json",
    ]  # fmt: skip


def test_an_earlier_output_is_replaced_only_when_asked_and_the_users_section_is_kept(
    family: Family, files: Files, tmp_path: Path
) -> None:
    out = tuneport.transfer(*family.models, tmp_path / "out").out
    card = (out / "README.md").read_text()
    (out / "README.md").write_text(card.replace("begins -->\n", "begins -->\nMy own words.\n"))
    given: dict[str, Any] = {"prompts": files.prompts, "up_to": "add", **files.held}
    with pytest.raises(TakenError):
        tuneport.adapt(*family.models, out, **given)
    tuneport.adapt(*family.models, out, overwrite=True, **given)
    assert "My own words." in (out / "README.md").read_text()
    assert (out / "adapt.json").is_file()
    tuneport.adapt(*family.models, out, overwrite=True, keep_diff=True, **given)
    assert (out / "diff").is_dir(), "an output of adapt is tuneport's own too"
    assert not out.with_name("out.old").exists()


def test_distilling_closes_the_gap_that_addition_leaves_without_labels(
    family: Family, files: Files, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given: dict[str, Any] = {**files.held, "test": files.answered, **TRAINED}
    found = tuneport.adapt(*family.models, out, prompts=files.prompts, rungs="distil", **given)
    made = rungs(found)
    added, distilled = made["add"]["test"]["value"], made["distil"]["test"]["value"]
    assert found.record["chosen"] == "distil" and distilled > added + 0.25
    assert (made["distil"]["examples"], made["distil"]["steps"], made["distil"]["from"]) == (64, 20, "add")
    low, _ = made["distil"]["select"]["difference"]["interval"]
    assert low > 0
    told = json.loads((out / "tune.json").read_text())
    assert told["plan"]["recipe"]["recipe"] == "distil" and told["adapted"]["chosen"] == "distil"
    card = (out / "README.md").read_text()
    assert "## How it was adapted" in card and "# target: distillation" in card
    assert all(f"- **{role}**: {role}" in card for role in ("base", "tuned", "target"))
    assert "--base target --tuned this-folder" in card, "what target + Δ learned is relative to the target"
    scores = tuneport.evaluate(out, files.answered, dtype="float32", **SHORT)
    assert scores["models"][0]["tasks"]["answered"]["value"] == distilled
    with pytest.raises(TakenError):
        tuneport.transfer(*family.models, out)
    tuneport.transfer(*family.models, out, overwrite=True)


def test_what_is_better_and_forgets_is_told_to_harm(family: Family, files: Files, tmp_path: Path) -> None:
    given: dict[str, Any] = {**files.held, **TRAINED, "keep_harmed": False, "without_retain": True}
    found = tuneport.adapt(*family.models, tmp_path / "out", prompts=files.prompts, rungs="distil", **given)
    distil = rungs(found)["distil"]
    assert (distil["status"], found.record["chosen"]) == ("harmed", "add")
    assert "the loss of the texts to keep rises" in distil["why"]
    assert distil["retention"]["loss"] > rungs(found)["add"]["retention"]["loss"] + 0.1


def test_an_adapter_is_trained_and_added_to_the_weights(family: Family, files: Files, tmp_path: Path) -> None:
    given: dict[str, Any] = {**files.held, **TRAINED, "learning_rate": 2e-2}
    found = tuneport.adapt(
        *family.models, tmp_path / "out", prompts=files.prompts, rungs="distil", lora="rank=8", **given
    )
    assert found.record["chosen"] == "distil"
    assert (tmp_path / "out" / "tuneport.json").is_file() and not list((tmp_path / "out").glob("adapter*"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# target: fine-tuning transferred" in card
    what = card.partition("# target")[2].partition("## Load it")[0]
    assert all(f"- **{role}**: {role}" in what for role in ("base", "tuned", "target"))
    assert "distil-adapter" not in card and "trained from the rung add" in what and "without training" not in card


def test_with_examples_all_rungs_are_tried_in_their_order(climbed: Any) -> None:
    made = rungs(climbed)
    assert "skipped" not in {rung["status"] for rung in made.values()}
    assert climbed.record["measure"] == {"select": "quality", "test": "quality"}
    assert climbed.record["references"]["source"]["test"]["value"] == 1.0
    best = max(rung["select"]["value"] for rung in made.values() if rung["select"])
    chosen = made[climbed.record["chosen"]]
    assert chosen["select"]["value"] > made["add"]["select"]["value"]
    assert made["tune"]["from"] in ("add", "scale", "distil") and made["tune"]["examples"] == 64
    if made["scale"]["status"] == "kept":
        assert made["distil"]["tried"].keys() == {"add", "scale"}
    assert best >= chosen["select"]["value"]


def test_without_texts_it_stays_near_the_target_on_texts_that_the_target_writes(
    family: Family, files: Files, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"prompts": files.prompts, "rungs": "distil", **files.held, **TRAINED}
    free = tuneport.adapt(*family.models, tmp_path / "free", without_retain=True, **given)
    near = tuneport.adapt(*family.models, tmp_path / "near", **given)
    drifted, kept = (rungs(each)["distil"]["retention"]["loss"] for each in (free, near))
    assert kept < drifted - 0.1
    assert json.loads((near.out / "tune.json").read_text())["plan"]["retain_from"]["name"].endswith("target")


def test_texts_of_the_users_are_measured_and_half_of_them_keep_the_model_near(
    family: Family, files: Files, tmp_path: Path
) -> None:
    rows = [{"text": f"{b} {a} {b}"} for a, b in family.pairs[300:340]]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given: dict[str, Any] = {"prompts": files.prompts, "rungs": "distil", **files.held, **TRAINED}
    free = tuneport.adapt(*family.models, tmp_path / "free", without_retain=True, **given)
    near = tuneport.adapt(*family.models, tmp_path / "near", retain=texts, **given)
    assert near.record["plan"]["data"][-1]["examples"] == 20
    measured = tmp_path / "measured.jsonl"
    measured.write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses = tuneport.evaluate([free.out, near.out], measured, dtype="float32", device="cpu", allow_selection=True)
    one, other = (model["tasks"]["measured"]["value"] for model in losses["models"])
    assert other < one


def test_the_plan_says_what_would_be_tried(family: Family, files: Files, tmp_path: Path) -> None:
    planned = rehearse_adapt(*family.models, tmp_path / "out", prompts=files.prompts, up_to="scale", **files.held)
    assert planned["rungs"] == ["add", "scale"] and planned["parts"] == {"fit": 64, "select": 80, "test": 80}
    assert planned["disk"] == 2 * planned["size"] > 0
    asking = planned["asking"]  # of target and source, add and scale
    assert (asking["models"], asking["prompts"]) == (4, 160) and asking["seconds"] > 0
    assert "the same 160 prompts of 4 models; time (at most)" in planned.in_words()
    assert not list(tmp_path.iterdir())
    few = family.file(tmp_path / "few.jsonl", 0, 20)
    planned = rehearse_adapt(*family.models, tmp_path / "out", prompts=few)
    assert planned["rungs"] == ["add"] and "at least" in planned["few"].lower()


def test_the_terminal_says_what_was_kept_and_why(family: Family, files: Files, tmp_path: Path, cli: Cli) -> None:
    base, tuned, target = family.models
    ran = cli(
        "adapt", "--base", base, "--tuned", tuned, "--onto", target, "--out", tmp_path / "out", "--prompts", files.prompts,
        "--select", files.select, "--test", files.answered, "--up-to", "add", "--max-new-tokens", "4",
    )  # fmt: skip
    assert ran.status == 0
    assert "Test: right answers." in ran.out and "the tuned source" in ran.out
    assert "add: kept." in ran.out and "distil: skipped. It was not asked for." in ran.out


def test_the_page_and_inspect_have_the_figures_of_the_record(scaled: Any, cli: Cli) -> None:
    found = adaptation_of(scaled.record, "out")
    chosen = found.rung(found.chosen)
    assert chosen is not None and chosen.measured.test is not None and set(found.references) == {"target"}
    assert chosen.measured.test.value == rungs(scaled)[found.chosen]["test"]["value"]
    assert [part.name for part in found.parts] == ["prompts", "select", "test"] and found.wanted == ("add", "scale")
    page = cli("report", scaled.out, "--format", "markdown", "--json").json()["out"]
    assert Path(page).parent == scaled.out.parent and "not quality" in Path(page).read_text(encoding="utf-8")
    assert cli("inspect", scaled.out, "--json").json()["adapted"] == found.in_a_line()
