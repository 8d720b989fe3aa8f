"""Every kind of step by its real command: tiny models are fine-tuned, carried over, scored and laid on lines."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_study import what_repeats
from support.tiny_tuning import base_model, sums, weights, write_rows

import tuneport
from tuneport.adaptation import ladder
from tuneport.errors import StudyError, UsageError
from tuneport.studies.graph.graph import Parent, Step
from tuneport.studies.run.perform import numbered, part_in_folder, perform

STUDY = """
[study]
name = "sums"

[[version]]
name = "M1"
model = "M1"
[[version]]
name = "M2"
model = "M2"

[tune]
recipe = "sft"
data = ["sums.jsonl", "more.jsonl"]
mix = ["more.jsonl=8"]
steps = 6
learning-rate = 3e-2
batch-size = 8
eval-every = 3

[evaluate]
tasks = ["test.jsonl"]
validation = ["validation.jsonl"]
max-new-tokens = 4

[paths]
text = ["text.jsonl"]
data = ["validation.jsonl"]
points = 3
max-new-tokens = 4

[adapt]
prompts = ["prompts.jsonl"]
select = ["select.jsonl"]
test = ["report.jsonl"]
steps = 2
batch-size = 8
max-new-tokens = 4

[do]
transfer = [["M1", "M2"]]
adapt = [["M1", "M2"]]
recycle = { pairs = [["M1", "M2"]], heal = "add" }
paths = [["M1", "M2"]]
distances = [["M1", "M2"]]
compare = [["M1", "M2"]]
same-total = false
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sums")
    base_model(folder / "M1", seed=1)
    base_model(folder / "M2", seed=2)
    rows = sums(35)
    write_rows(folder / "sums.jsonl", rows[:20])
    write_rows(folder / "more.jsonl", [{"prompt": f"one and {n} =", "completion": f" {n + 1}"} for n in range(12)])
    asked = [{"prompt": f"{n} times two =", "answer": f" {2 * n}"} for n in range(12)]
    write_rows(folder / "test.jsonl", asked[:8])
    write_rows(folder / "validation.jsonl", asked[8:])
    write_rows(folder / "text.jsonl", [{"text": f"the {word} fox is quick"} for word in ("red", "old", "shy", "sly")])
    drawn = random.Random(0)
    for name in ("prompts", "select", "report"):
        words = ("".join(drawn.choices("abdefghiklmnopr", k=24)) for _ in range(16))
        write_rows(folder / f"{name}.jsonl", [{"prompt": word} for word in words])
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"


@pytest.fixture(scope="module")
def out(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("study") / "out"
    told = tuneport.study(file, place)
    assert told["failed"] == []
    assert told["not_run"] == []
    return place


@pytest.fixture(scope="module")
def records(out: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) | {"at": path.parent} for path in out.glob("steps/*/record.json")]
    return {record["name"]: record for record in found}


def test_each_kind_of_step_leaves_what_its_command_writes(records: dict[str, dict[str, Any]]) -> None:
    wanted = {
        "tune": "model/model.safetensors",
        "transfer": "model/tuneport.json",
        "adapt": "model/adapt.json",
        "evaluate": "scores.json",
        "path": "path.json",
        "distance": "distance.json",
        "rounding": "rounding.json",
        "compare": "compare.json",
    }
    assert {record["kind"] for record in records.values()} == set(wanted)
    for record in records.values():
        names = record["outputs"]
        assert wanted[record["kind"]] in names or any(name.startswith("model/model-0000") for name in names)
        assert (record["at"] / wanted[record["kind"]]).exists() or record["kind"] == "tune"
        assert record["measured"]


def test_a_paths_record_says_all_that_results_json_says_of_it(records: dict[str, dict[str, Any]], out: Path) -> None:
    """So that results.json can be put together from the records."""
    measured = records["path M1 – M2"]["measured"]
    row = next(row for row in json.loads((out / "results.json").read_text())["paths"] if row["a"] == "M1")
    for name in ("alphas", "loss", "accuracy", "barrier", "interval", "at", "threshold", "connected"):
        assert measured[name] == row[name], name


def test_recycling_carries_float32_from_a_bfloat16_base(records: dict[str, dict[str, Any]], file: Path) -> None:
    def dtypes(folder: Path) -> set[torch.dtype]:
        return {tensor.dtype for path in folder.glob("*.safetensors") for tensor in load_file(path).values()}

    assert dtypes(file.parent / "M1") == {torch.bfloat16}
    for name in ("tune FT(M1)", "transfer M2 + Δ", "tune M2 + Δ"):
        record = next(record for found, record in records.items() if found.startswith(name))
        assert dtypes(record["at"] / "model") == {torch.float32}, name
        assert json.loads((record["at"] / "model" / "config.json").read_text())["dtype"] == "float32"


def test_records_and_results_hold_no_path_of_this_machine(out: Path, file: Path) -> None:
    for path in [*out.glob("steps/*/record.json"), out / "results.json"]:
        text = path.read_text()
        assert str(file.parent) not in text, path
        assert str(out) not in text, path


def test_commands_name_things_as_they_are_seen_from_the_study(records: dict[str, dict[str, Any]]) -> None:
    tuned = next(record for name, record in records.items() if name.startswith("tune FT(M1)"))
    assert tuned["command"].startswith("tuneport tune M1 --data sums.jsonl --data more.jsonl --mix more.jsonl=8")
    for words in ("--steps 6", "--learning-rate 0.03", "--dtype float32", "--eval-every 3 --tasks validation.jsonl"):
        assert words in tuned["command"]
    scored = next(record for name, record in records.items() if name.startswith("evaluate FT(M1)"))
    folder = tuned["at"].name
    assert scored["command"].startswith(f"tuneport evaluate steps/{folder}/model --tasks test.jsonl")
    line = records["path M1 – M2"]
    assert line["command"].startswith("tuneport path M1 M2 --data text.jsonl --points 3")


def test_the_commands_in_records_are_ones_that_the_command_line_takes(records: dict[str, dict[str, Any]]) -> None:
    import shlex

    from tuneport.cli import build_parser

    parser, seen = build_parser(), set()
    for record in records.values():
        if record["command"] is not None:
            program, *arguments = shlex.split(record["command"])
            assert program == "tuneport"
            parser.parse_args(arguments)
            seen.add(record["kind"])
    assert seen == {"tune", "transfer", "adapt", "evaluate", "path", "compare"}


def test_an_adapted_model_is_what_the_ladder_chose_and_its_record_says_how(records: dict[str, dict[str, Any]]) -> None:
    record = records["adapt M2 + Δ(M1) → adapted"]
    told = json.loads((record["at"] / "model" / "adapt.json").read_text())
    assert record["measured"]["chosen"] == told["chosen"]
    tried = {rung["name"]: rung["status"] for rung in record["measured"]["rungs"]}
    assert tried == {rung["name"]: rung["status"] for rung in told["rungs"]}
    assert tried["add"] == "kept" and tried["tune"] == "skipped" and "skipped" not in (tried["scale"], tried["distil"])
    assert record["measured"]["steps"] == 0 and record["outputs"]["model/adapt.json"] is None
    if told["chosen"] == "add":
        plain = records["transfer M2 + Δ(M1)"]["at"] / "model"
        assert weights(record["at"] / "model").keys() == weights(plain).keys()
        assert all(
            torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(record["at"] / "model").items()
        )


def test_an_adaptation_that_broke_off_goes_on_and_ends_the_same(
    file: Path, out: Path, records: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, tried = "adapt M2 + Δ(M1) → adapted", list[str]()
    again = tmp_path / "out"
    shutil.copytree(out, again)
    shutil.rmtree(again / "steps" / records[name]["at"].name)

    def counted(rung: str, attempt: Any) -> Any:
        def one(climb: Any) -> Any:
            tried.append(rung)
            if tried.count("distil") == 1 and rung == "distil":
                raise OSError("no room")
            return attempt(climb)

        return one

    monkeypatch.setattr(ladder, "ATTEMPTS", {rung: counted(rung, one) for rung, one in ladder.ATTEMPTS.items()})
    (failed,) = tuneport.study(file, again, only=[name])["failed"]
    assert failed["name"] == name
    assert tuneport.study(file, again, only=[name])["failed"] == []
    assert tried == ["add", "scale", "distil", "distil"], "what was done is not done again"
    assert what_repeats(again)[records[name]["at"].name] == what_repeats(out)[records[name]["at"].name]


def test_healing_with_plain_addition_alone_is_algorithm_1_as_it_stands(records: dict[str, dict[str, Any]]) -> None:
    iterative, healed = (
        weights(records[f"tune M2 + Δiter(M1){healed} → FT"]["at"] / "model") for healed in ("", " → adapted")
    )
    assert iterative.keys() == healed.keys() and all(torch.equal(healed[name], iterative[name]) for name in healed)


def test_the_same_study_again_gives_the_same_records(file: Path, out: Path, tmp_path: Path) -> None:
    told = tuneport.study(file, tmp_path / "out", only=["evaluate FT(M1)*", "rounding*", "adapt M2 + Δiter*"])
    assert told["failed"] == []
    again, first = what_repeats(tmp_path / "out"), what_repeats(out)
    del again["results.json"]
    assert sum(name.endswith("safetensors") for name in again) >= 1
    for name, found in again.items():
        assert found == first[name], name


def test_things_are_taken_in_the_order_of_the_file() -> None:
    given = {f"data.{n}": f"file {n}" for n in (10, 2, 0, 1)} | {"data": "no", "datas.1": "no", "start": "no"}
    assert numbered(given, "data") == ["file 0", "file 1", "file 2", "file 10"]


def test_what_a_family_holds_lies_in_its_folder() -> None:
    family = Step("family", "family", {"recipe": "versions", "size": "small", "seed": 0})
    assert part_in_folder(Parent(family, "M4")) == "family/M4"


def test_a_kind_that_is_none_and_a_setting_that_is_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"'dance' is not a kind of step. Known kinds: adapt, compare, distance, evaluate, family"
    ):
        perform(Step("dance", "d", {}), {}, tmp_path)
    step = Step("transfer", "t", {"scale": 1.0, "settings": {"colour": "red"}})
    with pytest.raises(UsageError) as told:
        perform(step, {"base": "a", "tuned": "b", "target": "c"}, tmp_path)
    assert [fault.option for fault in told.value.faults] == ["colour"]


def test_results_are_what_the_commands_wrote(records: dict[str, dict[str, Any]], out: Path, file: Path) -> None:
    document = json.loads((out / "results.json").read_text())
    rows = {(row["kind"], row["name"], row["step"]): row for row in document["results"]}
    scored = [row for row in rows.values() if row["step"] is None]
    recycled = {"recycle-iterative", "recycle-healed", "recycle-direct"}
    assert {row["kind"] for row in scored} == {"base", "tuned", "transfer", "adapted", *recycled}
    for row in scored:
        (folder,) = {score["folder"] for score in row["scores"].values()}
        said = json.loads((out / "steps" / folder / "scores.json").read_text())["models"][0]["tasks"]["test"]
        assert {key: row["scores"]["test"][key] for key in ("value", "n", "metric")} == {
            key: said[key] for key in ("value", "n", "metric")
        }
    lines = (records["tune FT(M2)"]["at"] / "model" / "curve.jsonl").read_text().splitlines()
    assert [
        rows["tuned", "FT(M2)", point["step"]]["scores"]["validation"]["value"] for point in map(json.loads, lines)
    ] == [json.loads(line)["tasks"]["validation"]["value"] for line in lines]
    assert ("tuned", "FT(M2)", 0) in rows, "a curve begins with its start"
    for path in document["paths"]:
        record = records[f"path {path['a']} – {path['b']}"]
        told = json.loads((record["at"] / "path.json").read_text())
        assert (path["barrier"], path["alphas"], path["loss"]) == (told["barrier"], told["alphas"], told["loss"])
    (apart,) = document["distances"]
    one, other = (
        {
            name: tensor.double()
            for path in (file.parent / base).glob("*.safetensors")
            for name, tensor in load_file(path).items()
        }
        for base in ("M1", "M2")
    )
    slowly = sum(float(((one[name] - other[name]) ** 2).sum()) for name in one) ** 0.5
    assert apart["distance"] == pytest.approx(slowly, rel=1e-6)
    (foreseen,) = document["comparisons"]
    written = json.loads((records["compare M2 + Δ(M1)"]["at"] / "compare.json").read_text())
    assert (foreseen["source"], foreseen["target"]) == ("M1", "M2") and foreseen["measures"] == written["measures"]
    assert foreseen["measures"]["norm_shift"] == pytest.approx(apart["distance"], rel=1e-6)
    assert [gate["name"] for gate in foreseen["gates"]] == [gate["name"] for gate in written["gates"]]
    assert foreseen["verdict"]["word"] == written["verdict"]["word"]
    (lost,) = document["rounding"]
    assert 0 <= lost["share_lost"] < 1 and lost["tuned"] == "FT(M1)"
