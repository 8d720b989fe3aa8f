"""The command on real tiny models: what the harness says is what an own, slower reading of the same models says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_scored
from transformers import AutoModelForCausalLM, AutoTokenizer

import tuneport
from tuneport.errors import CheckpointError, DoubtError, OutputError, ScoringError, UsageError
from tuneport.results.example_outcomes import ASKED, end_of
from tuneport.scoring.models import names_of
from tuneport.scoring.prompt_checks import checking

SHORT: dict[str, Any] = {"max_new_tokens": 4, "device": "cpu"}


def outcomes(out: Path) -> list[dict[str, Any]]:
    lines = out.with_suffix(".examples.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def scored(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Three models, one task each of prompts, messages, choices and text."""
    folder = tmp_path_factory.mktemp("run")
    everything = [*tiny_scored.rows("prompts")]
    for name, town in tiny_scored.FACTS.items():
        asked = [{"role": "user", "content": tiny_scored.question(name)}]
        everything.append({"task": "messages", "messages": asked, "answer": f"in {town}", "id": name})
        choices = sorted({f"in {town}", "in rome", "in madrid", "in lima"})
        everything.append(
            {"task": "choices", "prompt": tiny_scored.chat(name), "choices": choices, "answer": f"in {town}"}
        )
        everything.append({"task": "texts", "text": f"{name} lives in {town} . the town of {name} is {town}"})
    tasks = tiny_scored.write_rows(folder / "everything.jsonl", everything)
    names = ("none", "half", "all")
    record = tuneport.evaluate(
        [models / name for name in names], [tasks], folder / "out.json", recovered_gain=[names], batch_size=5, **SHORT
    )
    return record, folder / "out.json"


def test_a_model_that_knows_half_of_the_answers_scores_a_half(scored: tuple[dict[str, Any], Path]) -> None:
    record, out = scored
    values = {model["model"]: model["tasks"]["prompts"] for model in record["models"]}
    assert {name: found["value"] for name, found in values.items()} == {"none": 0.0, "half": 0.5, "all": 1.0}
    half = values["half"]
    assert (half["metric"], half["n"], half["interval_method"]) == ("exact_match", 12, "Wilson")
    assert half["stderr"] == pytest.approx((0.25 / 11) ** 0.5)
    assert half["interval"][0] < 0.5 < half["interval"][1]
    on_disk = json.loads(out.read_text(encoding="utf-8"))
    assert on_disk == {key: value for key, value in record.items() if key != "already_done"}


def greedy(folder: Path, prompt: str) -> str:
    """What the model says to one prompt alone, by transformers itself."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        said = model.generate(**ids, do_sample=False, max_new_tokens=4)[0, ids["input_ids"].shape[1] :]
    return str(tokenizer.decode(said, skip_special_tokens=True)).strip()


def test_what_the_models_say_is_what_plain_greedy_decoding_says(
    models: Path, scored: tuple[dict[str, Any], Path]
) -> None:
    _, out = scored
    prompts = [row["prompt"] for row in tiny_scored.rows()]
    for name in ("none", "half", "all"):
        expected = [greedy(models / name, prompt) for prompt in prompts]
        for task in ("prompts", "messages"):  # the template writes the very prompts
            said = [line["said"] for line in outcomes(out) if (line["model"], line["task"]) == (name, task)]
            assert said == expected, (name, task)


def test_every_outcome_holds_what_was_asked(scored: tuple[dict[str, Any], Path]) -> None:
    _, out = scored
    wanted = {
        "prompts": [row["prompt"] for row in tiny_scored.rows()],
        "messages": [tiny_scored.question(name) for name in tiny_scored.FACTS],
        "texts": [None] * len(tiny_scored.FACTS),  # all of a text is measured
    }
    for task, asked in wanted.items():
        of_task = [line for line in outcomes(out) if (line["model"], line["task"]) == ("half", task)]
        assert [line.get("asked") for line in of_task] == asked


def test_of_a_long_prompt_the_end_is_kept() -> None:
    assert end_of("why?") == "why?" and end_of("") is None
    assert end_of("x" * 5000 + "why?") == "…" + "x" * (ASKED - 4) + "why?"


def test_likelihoods_are_those_of_one_forward_pass_a_text(models: Path, scored: tuple[dict[str, Any], Path]) -> None:
    _, out = scored
    for name in ("none", "half", "all"):
        model = AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(models / name)
        of_model = [line for line in outcomes(out) if line["model"] == name]

        def loss(context: list[int], continuation: list[int], model: Any = model) -> float:
            ids = torch.tensor([context + continuation])
            with torch.inference_mode():
                logprobs = model(ids).logits[0].log_softmax(-1)
            places = range(len(context) - 1, ids.shape[1] - 1)
            return -float(sum(logprobs[place, ids[0, place + 1]] for place in places))

        texts = [line for line in of_model if line["task"] == "texts"]
        for line, (person, town) in zip(texts, tiny_scored.FACTS.items(), strict=True):
            ids = tokenizer.encode(f"{person} lives in {town} . the town of {person} is {town}")
            assert line["weight"] == len(ids) == 11
            # Without a token of its own for the beginning, a text begins after the end token.
            assert line["score"] == pytest.approx(loss([tokenizer.eos_token_id], ids) / len(ids), rel=1e-4)
        choices = [line for line in of_model if line["task"] == "choices"]
        for line, (person, town) in zip(choices, tiny_scored.FACTS.items(), strict=True):
            context = tokenizer.encode(tiny_scored.chat(person))
            options = sorted({f"in {town}", "in rome", "in madrid", "in lima"})
            losses = [loss(context, tokenizer.encode(option)) for option in options]
            best = options[losses.index(min(losses))]
            assert (line["said"], line["score"]) == (best, float(best == f"in {town}"))


def test_comparisons_are_of_all_pairs_on_the_same_examples(scored: tuple[dict[str, Any], Path]) -> None:
    record, _ = scored
    rows = {(row["task"], *row["models"]): row for row in record["comparisons"]}
    assert len(rows) == 4 * 3
    row = rows["prompts", "none", "all"]
    assert (row["difference"], row["p"], row["method"], row["significant"]) == (1.0, 2 / 2**12, "exact McNemar", True)
    assert rows["texts", "none", "all"]["method"] == "paired bootstrap"
    (gained,) = [row for row in record["recovered_gain"] if row["task"] == "prompts"]
    assert gained["recovered_gain"] == pytest.approx(0.5)


def test_a_record_holds_versions_settings_and_no_absolute_path(
    models: Path, scored: tuple[dict[str, Any], Path]
) -> None:
    record, out = scored
    assert record["format"] == "tuneport.evaluation/1"
    assert {"lm_eval", "transformers", "torch", "tuneport"} <= set(record["versions"])
    assert record["settings"]["max_new_tokens"] == 4
    assert str(models) not in out.read_text()
    assert str(out.parent) not in out.read_text()


def test_a_regexs_group_is_the_answer(models: Path, tmp_path: Path) -> None:
    rows = [row | {"answer": row["answer"].removeprefix("in ")} for row in tiny_scored.rows()]
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", rows)
    record = tuneport.evaluate([models / "half"], [tasks], tmp_path / "o.json", match=r"in (\w+)", **SHORT)
    assert record["models"][0]["tasks"]["towns"]["value"] == 0.5
    record = tuneport.evaluate([models / "half"], [tasks], tmp_path / "p.json", **SHORT)
    assert record["models"][0]["tasks"]["towns"]["value"] == 0.0


def test_what_was_tokenised_before_is_kept_to_a_bound_that_changes_nothing(
    models: Path, towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, bound in (("kept", 1 << 20), ("forgotten", 1)):
        monkeypatch.setattr("tuneport.scoring.prompt_checks._REMEMBERED", bound)
        for loss in (False, True):
            out = tmp_path / f"{name}-{loss}.json"
            tuneport.evaluate([models / "half"], [towns], out, loss=loss, **SHORT)
            found.append(out.with_suffix(".examples.jsonl").read_bytes())
    assert found[:2] == found[2:]


def test_what_was_tokenised_before_is_forgotten_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    class Harness:
        calls = 0

        def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
            self.calls += 1
            return [0] * len(string)

    monkeypatch.setattr("tuneport.scoring.prompt_checks._REMEMBERED", 10)
    harness = checking(Harness)()
    for string, calls in (("aaaa", 1), ("bbbb", 2), ("aaaa", 2), ("cccc", 3), ("cccc", 3), ("aaaa", 4)):
        assert len(harness.tok_encode(string)) == 4 and harness.calls == calls


def test_the_loss_of_the_answers_tells_who_knows_them(models: Path, towns: Path, tmp_path: Path) -> None:
    record = tuneport.evaluate([models / "none", models / "all"], [towns], tmp_path / "o.json", loss=True, device="cpu")
    none, known = (model["tasks"]["towns"] for model in record["models"])
    assert (none["metric"], none["higher_is_better"], none["interval_method"]) == (
        "loss",
        False,
        "bootstrap over examples",
    )
    assert known["value"] < 0.1 < none["value"]
    assert [line["weight"] for line in outcomes(tmp_path / "o.json")] == [2.0] * 24  # "in", and the town
    (row,) = record["comparisons"]
    assert row["difference"] < 0
    assert row["significant"]


def test_the_same_command_again_is_already_done_and_another_is_refused(
    models: Path, towns: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.json"
    first = tuneport.evaluate([models / "half"], [towns], out, **SHORT)
    written = out.stat().st_mtime_ns
    again = tuneport.evaluate([models / "half"], [towns], out, batch_size=3, **SHORT)
    assert (first["already_done"], again["already_done"]) == (False, True)
    assert out.stat().st_mtime_ns == written
    with pytest.raises(OutputError, match="max_new_tokens"):
        tuneport.evaluate([models / "half"], [towns], out, max_new_tokens=5, device="cpu")
    assert out.stat().st_mtime_ns == written
    tuneport.evaluate([models / "half"], [towns], out, max_new_tokens=5, device="cpu", overwrite=True)
    assert out.stat().st_mtime_ns > written
    assert not list(tmp_path.glob("*.partial"))


def test_a_model_without_a_template_meets_messages_in_words_before_any_is_scored(models: Path, tmp_path: Path) -> None:
    bare = tiny_scored.copy_model(models / "all", tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    rows = [{"messages": [{"role": "user", "content": tiny_scored.question("anna")}], "answer": "in paris"}]
    tasks = tiny_scored.write_rows(tmp_path / "m.jsonl", rows)
    with pytest.raises(CheckpointError, match=r"bare: the examples are `messages` .* but it has no chat template"):
        tuneport.evaluate([models / "all", bare], [tasks], tmp_path / "o.json", **SHORT)
    assert not (tmp_path / "o.json").exists()
    record = tuneport.evaluate(
        [models / "all", bare], [tasks], tmp_path / "p.json", chat_template=models / "all", **SHORT
    )
    assert [model["tasks"]["m"]["value"] for model in record["models"]] == [1.0, 1.0]
    shipped = tuneport.evaluate([bare], [tasks], tmp_path / "q.json", chat_template="chatml", **SHORT)
    assert shipped["models"][0]["tasks"]["m"]["n"] == 1, "a template that comes along, by name"


def test_what_looks_wrong_warns_and_stops_when_strict(models: Path, towns: Path, tmp_path: Path) -> None:
    deaf = tiny_scored.copy_model(models / "all", tmp_path / "deaf", eos_token_id=3)
    settings = json.loads((deaf / "tokenizer_config.json").read_text()) | {"eos_token": "<eos>"}
    (deaf / "tokenizer_config.json").write_text(json.dumps(settings))
    record = tuneport.evaluate([deaf], [towns], tmp_path / "o.json", **SHORT)
    (warning,) = record["warnings"]
    assert "ends a turn with '<end>'" in warning
    with pytest.raises(DoubtError, match="ends a turn with '<end>'"):
        tuneport.evaluate([deaf], [towns], tmp_path / "p.json", strict=True, **SHORT)
    assert not (tmp_path / "p.json").exists()


def test_prompts_cut_at_the_context_length_are_counted(models: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": tiny_scored.chat("anna"), "answer": "in paris"},
        {"prompt": "the town " * 30 + tiny_scored.chat("ben"), "answer": "in rome"},
    ]
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", rows)
    record = tuneport.evaluate([models / "all"], [tasks], tmp_path / "o.json", **SHORT)
    (warning,) = record["warnings"]
    assert "1 of 2 prompts are cut at the context length (t 1): up to 66 tokens, but 44 fit" in warning
    with pytest.raises(UsageError, match="its context has 48 tokens in all"):
        tuneport.evaluate([models / "all"], [tasks], tmp_path / "p.json", max_new_tokens=48, device="cpu")


def test_where_nobody_says_how_long_answers_are_the_context_decides(models: Path, towns: Path, tmp_path: Path) -> None:
    record = tuneport.evaluate(models / "all", towns, device="cpu")
    assert record["models"][0]["tasks"]["towns"]["value"] == 1.0
    assert record["settings"]["max_new_tokens"] is None
    (warning,) = record["warnings"]
    assert "what the context of 48 leaves" in warning


def test_every_model_is_compared_with_the_one_that_was_named_which_is_scored_too(
    models: Path, towns: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.json"
    record = tuneport.evaluate([models / "half", models / "all"], towns, out, against=[models / "none"], **SHORT)
    assert [row["models"] for row in record["comparisons"]] == [["none", "half"], ["none", "all"]]
    assert [model["model"] for model in record["models"]] == ["half", "all", "none"]
    with pytest.raises(OutputError, match="against"):
        tuneport.evaluate([models / "half", models / "all", models / "none"], towns, out, **SHORT)


def test_a_question_that_stands_twice_counts_once_and_stops_a_strict_run(models: Path, tmp_path: Path) -> None:
    rows = [tiny_scored.rows()[0], *tiny_scored.rows()[:2]]
    tasks = tiny_scored.write_rows(tmp_path / "t.jsonl", [row | {"level": 1} for row in rows])
    record = tuneport.evaluate(models / "all", tasks, tmp_path / "o.json", **SHORT)
    assert [model["tasks"]["towns"]["n"] for model in record["models"]] == [2]
    twice, ignored = record["warnings"]
    assert "1 example(s) are duplicates" in twice and ignored == "t.jsonl: ignored columns: `level`."
    with pytest.raises(DoubtError, match="are duplicates"):
        tuneport.evaluate(models / "all", tasks, tmp_path / "p.json", strict=True, **SHORT)
    tiny_scored.write_rows(tasks, [row | {"level": 1} for row in rows[1:]])
    strict = tuneport.evaluate(models / "all", tasks, tmp_path / "p.json", strict=True, **SHORT)
    assert strict["warnings"] == [ignored], "columns without a use stop nothing"


def test_unknown_models_tasks_and_choices_end_in_words(models: Path, towns: Path, tmp_path: Path) -> None:
    out, binary = tmp_path / "o.json", tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xe1\x00\xff\n")
    for option, wrong in (
        (None, {"models": [tmp_path / "none"]}),
        ("models", {"models": [models / "all", models / "all"]}),
        ("models", {"models": []}),
        ("tasks", {"tasks": []}),
        ("tasks", {"tasks": [towns, towns]}),
        ("match", {"match": "("}),
        ("match", {"match": "(a)(b)"}),
        ("batch_size", {"batch_size": 0}),
        ("batch_size", {"batch_size": "autox"}),
        ("seed", {"seed": -1}),
        ("max_new_tokens", {"max_new_tokens": 0}),
        ("limit", {"limit": 0}),
        ("backend", {"backend": "gguf"}),
        ("device", {"device": "gpu"}),
        ("device", {"device": "cuda:99"}),
        ("dtype", {"dtype": "half"}),
        ("trained_on", {"trained_on": [binary]}),
        ("chat_template", {"chat_template": binary}),
        (None, {"chat_template": "none"}),
        ("recovered_gain", {"recovered_gain": [["all", "half", "all"]]}),
        ("recovered_gain", {"recovered_gain": ["all", "half"]}),
    ):
        arguments: dict[str, Any] = {"models": [models / "all"], "tasks": [towns], "out": out, **SHORT, **wrong}
        with pytest.raises((CheckpointError, UsageError)) as caught:
            tuneport.evaluate(**arguments)
        faults = caught.value.faults if isinstance(caught.value, UsageError) else ()
        assert {fault.option for fault in faults} == ({option} - {None}), caught.value
    assert not list(tmp_path.glob("o*"))


def test_a_model_that_cannot_be_loaded_ends_in_words(models: Path, towns: Path, tmp_path: Path) -> None:
    broken = tiny_scored.copy_model(models / "all", tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text()) | {"model_type": "no-such-architecture"}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, ScoringError), match="broken"):
        tuneport.evaluate([broken], [towns], tmp_path / "o.json", **SHORT)


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(models: Path, towns: Path, tmp_path: Path) -> None:
    foreign = tiny_scored.copy_model(models / "all", tmp_path / "foreign")
    own = {"AutoConfig": "own.Config", "AutoTokenizer": ["own.Tokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((foreign / name).read_text()) | {"auto_map": own}
        (foreign / name).write_text(json.dumps(settings | {"model_type": "own", "tokenizer_class": "Own"}))
    (foreign / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(CheckpointError, match=r"foreign.*custom code"):
        tuneport.evaluate([foreign], [towns], tmp_path / "o.json", **SHORT)
    assert not (tmp_path / "ran").exists()


def test_folders_are_named_by_as_much_of_their_path_as_tells_them_apart(tmp_path: Path) -> None:
    for place in ("a/v1", "b/v1", "b/v2"):
        (tmp_path / place).mkdir(parents=True)
    specs = [str(tmp_path / "a/v1"), str(tmp_path / "b/v1"), str(tmp_path / "b/v2"), "org/name@main"]
    assert names_of(specs) == ["a/v1", "b/v1", "v2", "org/name@main"]
    assert names_of(specs[2:]) == ["v2", "org/name@main"]


def test_one_process_asks_everything_whatever_the_harness_thinks_of_its_share() -> None:
    class OnOneOfFourGpus:
        """What the harness's class is under `accelerate launch` with four GPUs, as far as its evaluator looks."""

        def __init__(self) -> None:
            self._rank, self._world_size = 2, 4

    model = checking(OnOneOfFourGpus)()
    assert (model._rank, model._world_size) == (0, 1)


def test_a_limit_asks_the_first_examples_only(models: Path, towns: Path, tmp_path: Path) -> None:
    record = tuneport.evaluate([models / "half"], [towns], tmp_path / "o.json", limit=6, **SHORT)
    assert (record["models"][0]["tasks"]["towns"]["n"], record["models"][0]["tasks"]["towns"]["value"]) == (6, 1.0)
