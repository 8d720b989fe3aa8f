"""The family with relatives: one run and what was made from its end, each an ordinary checkpoint, and its files."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.brief_recipes import BRIEF_KIN

from tuneport.comparison.distances import distances
from tuneport.examples.questions import read_tasks
from tuneport.examples.training_data import read_sources
from tuneport.families import family, kin, tongues
from tuneport.families.kin import ADDED_TONGUE, FILES, MODELS, READ_TONGUE, make_kin

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kin(tmp_path_factory.mktemp("kin") / "family", seed=0, recipe=BRIEF_KIN)


def words_in(folder: Path) -> set[str]:
    from transformers import AutoTokenizer

    return set(AutoTokenizer.from_pretrained(folder).get_vocab())


def test_all_models_and_files_are_there_and_the_commands_read_them(made: Path) -> None:
    assert {*MODELS, *FILES} <= {path.name for path in made.iterdir()}
    assert read_sources([made / "kin-instructions.jsonl"], "sft", [], 0)
    tasks = [task.name for name in FILES if "questions" in name or "text" in name for task in read_tasks([made / name])]
    assert len(tasks) == len(set(tasks)) == 3 + 4


def test_only_the_branch_with_a_longer_vocabulary_has_more_tokens(made: Path) -> None:
    last = words_in(made / "kin-M5")
    assert set(tongues.words_of(READ_TONGUE)) <= last
    assert words_in(made / "kin-longer") - last == set(tongues.words_of(ADDED_TONGUE))
    for name in MODELS:
        assert name == "kin-longer" or words_in(made / name) == last, name


def test_branches_lie_near_the_version_they_come_from_and_the_foreign_one_does_not(made: Path) -> None:
    names = ["kin-M5", "kin-domain", "kin-language", "kin-more", "kin-longer", "kin-instruct", "kin-foreign"]
    found = distances({name: made / name for name in names})
    away = {pair["b"]: pair["distance"] for pair in found["pairs"] if pair["a"] == "kin-M5"}
    assert all(0 < away[name] < 0.5 * away["kin-foreign"] for name in names[1:-1])


class _StopError(Exception):
    """In the place of a kill."""


def test_a_family_that_is_stopped_goes_on_from_the_models_it_has(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, left = family.save, iter([*MODELS[:8]])

    def stop(*arguments: object, **more: object) -> None:
        if next(left, None) is None:
            raise _StopError
        save(*arguments, **more)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(family, "save", stop)
    with pytest.raises(_StopError):
        make_kin(tmp_path / "family", seed=0, recipe=BRIEF_KIN)
    monkeypatch.undo()
    again = make_kin(tmp_path / "family", seed=0, recipe=BRIEF_KIN)
    for name in MODELS:
        for one, other in _weights(made / name, again / name):
            assert one == other, name


def _weights(one: Path, other: Path) -> Iterator[tuple[bytes, bytes]]:
    files = sorted(path.name for path in one.glob("*.safetensors"))
    assert files
    for name in files:
        yield (one / name).read_bytes(), (other / name).read_bytes()


def test_the_words_of_both_vocabularies_stand_once() -> None:
    for longer in (False, True):
        found = kin.words(longer=longer)
        assert len(found) == len(set(found)) and found[-3:] == ["<user>", "<asst>", "<end>"]
