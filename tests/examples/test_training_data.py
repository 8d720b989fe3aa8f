"""Training data: every fault told at once with its line, one form a file, parts chosen by seed."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from support.tiny_tuning import sums, write_rows

from tuneport.errors import DataError, TuneportError, UsageError
from tuneport.examples.training_data import Share, parse_share, read_sources


def refusal(path: Path, recipe: str = "sft") -> str:
    with pytest.raises(DataError) as caught:
        read_sources([path], recipe, [], 0)
    return str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "row", "form"),
    [
        ("sft", {"text": "the fox"}, "text"),
        ("sft", {"prompt": "the", "completion": " fox", "id": 3, "text": None}, "prompt-completion"),
        ("sft", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ("dpo", {"prompt": "the", "chosen": " fox", "rejected": " dog"}, "preference"),
        ("grpo", {"prompt": "the", "answer": "fox", "level": 3}, "prompt"),
    ],
)
def test_each_recipe_reads_its_forms(tmp_path: Path, recipe: str, row: dict[str, object], form: str) -> None:
    (source,) = read_sources([write_rows(tmp_path / "data.jsonl", [row, row])], recipe, [], 0)
    assert (source.form, len(source.rows), source.name) == (form, 2, "data.jsonl")


def test_fields_that_are_not_used_are_listed(tmp_path: Path) -> None:
    (source,) = read_sources([write_rows(tmp_path / "d.jsonl", [{"text": "a", "id": 1, "from": "x"}])], "sft", [], 0)
    assert source.origin()["ignored_columns"] == ["id", "from"]
    assert source.notes == ("d.jsonl: ignored columns: `id`, `from`.",)


def test_parquet_gives_the_same_rows_as_lines_do(tmp_path: Path) -> None:
    lines = write_rows(tmp_path / "sums.jsonl", sums())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(sums()), tmp_path / "sums.parquet")
    found = read_sources([lines, tmp_path / "sums.parquet"], "sft", [], 0)
    assert list(found[0].rows) == list(found[1].rows) == sums()
    assert found[0].record()["rows_digest"] == found[1].record()["rows_digest"]
    assert found[0].digest != found[1].digest


def test_all_faults_of_a_file_are_told_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [
        json.dumps({"prompt": "a", "completion": "b"}),
        "{not json",
        "",
        json.dumps(["a", "b"]),
        json.dumps({"prompt": "a", "completion": 3}),
        json.dumps({"prompt": "a", "completion": "  "}),
        json.dumps({"question": "a"}),
        json.dumps({"text": "another form"}),
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    told = refusal(path)
    for words in (
        "line 2: is not valid JSON",
        "line 4: is a JSON list",
        "line 5: `completion` is a int",
        "line 6: `completion` is empty",
        "line 7: has `question`",
        "forms are mixed: 3 × prompt-completion (first: 1), 1 × text (first: 8)",
        "line 9: is not UTF-8",
    ):
        assert words in told
    places = [told.index(f"line {number}") for number in (2, 4, 5, 6, 7, 9)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("recipe", "row", "words"),
    [
        ("sft", {"messages": []}, "must be a list of messages"),
        ("sft", {"messages": [{"role": "user", "content": "a"}]}, "there is no answer to train on"),
        ("sft", {"messages": [{"role": "user", "content": None}]}, "has no text in `content`"),
        ("sft", {"messages": [{"content": "a"}]}, "message 1 has no role"),
        ("sft", {"prompt": [{"role": "user", "content": "a"}], "completion": "b"}, "must both be strings"),
        ("sft", {"prompt": "a", "completion": "\ud83d"}, "half a character"),
        ("sft", {"messages": [{"role": "user", "content": "\ud83d"}]}, "half a character"),
        ("sft", {"text": "a", "prompt": "a", "completion": "b"}, "fits more than one form"),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, "there is no preference"),
        ("dpo", {"prompt": "a", "completion": "b"}, "dpo needs `prompt` and `chosen` and `rejected`"),
        ("grpo", {"text": "a"}, "grpo needs `prompt`"),
    ],
)
def test_rows_that_fit_no_form_are_refused(tmp_path: Path, recipe: str, row: dict[str, object], words: str) -> None:
    assert words in refusal(write_rows(tmp_path / "data.jsonl", [row]), recipe)


def test_prompts_that_are_texts_and_lists_do_not_mix(tmp_path: Path) -> None:
    spoken = [{"role": "user", "content": "a"}]
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": spoken, "completion": [{"role": "assistant", "content": "b"}]},
    ]
    assert "forms are mixed" in refusal(write_rows(tmp_path / "data.jsonl", rows))


@pytest.mark.parametrize("name", ["absent.jsonl", "data.xls", "empty.jsonl", ".", "broken.parquet"])
def test_what_cannot_be_read_is_refused_in_words(tmp_path: Path, name: str) -> None:
    (tmp_path / "data.xls").write_text("a,b")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.parquet").write_text("PAR1 it is not")
    with pytest.raises(DataError) as caught:
        read_sources([tmp_path / name], "sft", [], 0)
    assert len(str(caught.value)) > 20


def test_a_data_set_that_the_hub_does_not_give_is_refused_with_what_to_check() -> None:
    with pytest.raises(DataError, match=r"org/absent \(split train\).*org/name\[/CONFIG\]"):
        read_sources(["org/absent"], "sft", [], 0)


@pytest.fixture
def in_two_languages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set org/aya, as the library gives it."""
    import datasets

    rows = [{"inputs": f"q{n}", "targets": f"a{n}", "language_code": "sin" if n % 3 else "plt"} for n in range(9)]

    def loaded(name: str, config: str | None, *, revision: str | None, split: str) -> datasets.Dataset:
        assert (name, config, revision, split) == ("org/aya", None, None, "train")
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr("datasets.load_dataset", loaded)


def test_rows_and_columns_of_a_data_set_are_chosen_in_its_name(in_two_languages: None) -> None:
    name = "org/aya:train?language_code=sin&prompt:inputs&completion:targets"
    (source,) = read_sources([name], "sft", [], 0)
    assert [(row["prompt"], row["completion"]) for row in source.rows] == [
        (f"q{n}", f"a{n}") for n in (1, 2, 4, 5, 7, 8)
    ]
    assert (source.name, source.form, source.available) == (name, "prompt-completion", 6)
    (part,) = read_sources([name], "sft", [Share(name, 4)], 0)
    assert len(part.rows) == 4


def test_of_a_data_set_only_the_rows_of_a_share_come_into_memory(
    in_two_languages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    name, taken = "org/aya?prompt:inputs&completion:targets", list[int]()
    whole = datasets.Dataset.iter

    def counted(self: datasets.Dataset, **how: Any) -> Any:
        taken.append(len(self))
        return whole(self, **how)

    monkeypatch.setattr(datasets.Dataset, "iter", counted)
    (source,) = read_sources([name], "sft", [Share(name, 2)], 0)
    assert (taken, len(source.rows), source.available) == ([2], 2, 9)


def test_a_column_that_is_not_there_is_named_with_those_that_are(in_two_languages: None) -> None:
    with pytest.raises(DataError, match="no column `lang`; there are `inputs`, `targets`, `language_code`"):
        read_sources(["org/aya:train?lang=sin&prompt:inputs&completion:targets"], "sft", [], 0)


def test_values_that_no_row_has_leave_nothing_to_train_on(in_two_languages: None) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_sources(["org/aya:train?language_code=tr&prompt:inputs&completion:targets"], "sft", [], 0)


def test_a_share_is_chosen_by_seed_in_the_order_of_the_file_and_recorded(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "sums.jsonl", [{"text": f"text {n}"} for n in range(100)])

    def rows(seed: int, amount: float | int = 20) -> list[str]:
        (source,) = read_sources([path], "sft", [Share("sums", amount)], seed)
        assert source.record()["of"] == 100
        return [row["text"] for row in source.rows]

    assert len(rows(1)) == len(rows(1, 0.2)) == 20
    assert rows(1) == rows(1) != rows(2)
    assert rows(1) == sorted(rows(1), key=lambda text: int(text.split()[1]))


@pytest.mark.parametrize("text", ["sums", "sums=", "sums=0", "sums=1.5", "sums=-1", "=3", "sums=many"])
def test_a_share_that_cannot_be_meant_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="mix="):
        parse_share(text)


@pytest.mark.parametrize("share", [Share("other", 3), Share("sums", 41)])
def test_a_share_of_other_data_or_of_more_than_there_is_is_refused(tmp_path: Path, share: Share) -> None:
    with pytest.raises(TuneportError, match="mix="):
        read_sources([write_rows(tmp_path / "sums.jsonl", sums())], "sft", [share], 0)


def test_two_shares_of_one_source_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"it already has a share"):
        read_sources(
            [write_rows(tmp_path / "sums.jsonl", sums())], "sft", [Share("sums", 9), Share("sums.jsonl", 3)], 0
        )


def test_counts_and_fractions_are_told_apart_by_the_point() -> None:
    assert parse_share("a=b=16700") == Share("a=b", 16700)
    assert parse_share("a=1.0") == Share("a", 1.0)
    assert parse_share("a=1") == Share("a", 1)
