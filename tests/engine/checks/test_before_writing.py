"""What is told of the roles before the first byte is written, and what stays of it at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.written_manifests import manifest

from tuneport.checkpoint import reading as reading_module
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.hub import RangesError
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.reading import TensorReader
from tuneport.checkpoint.weights import StoredTensor
from tuneport.diffvector.run import apply, diff, plan_of, transfer
from tuneport.engine.checks import before_writing as look_module
from tuneport.engine.checks import drawn_matrices, sampling
from tuneport.engine.checks.before_writing import RolesVerdict, look
from tuneport.engine.choices import Choices
from tuneport.engine.summands.pair_summand import plan_transfer
from tuneport.errors import CheckpointError, DoubtError, VerificationError
from tuneport.verification import verify

BASE = tiny.llama(1, torch.float32)
STRANGER = tiny.llama(77, torch.float32)


def seen(made: tiny.Trio) -> RolesVerdict:
    roles = zip(made.paths, ("base", "tuned", "target"), strict=True)
    return look(plan_transfer(*(open_checkpoint(path, role) for path, role in roles), Choices()))


def kinds(verdict: RolesVerdict) -> list[str]:
    return [doubt.kind for doubt in verdict.doubts]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    return tiny.trio(tmp_path_factory.mktemp("honest"), BASE)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    return tiny.trio(tmp_path_factory.mktemp("strange"), BASE, target=STRANGER)


def test_a_dry_run_tells_a_stranger_and_writes_nothing(cli: Cli, strange: tiny.Trio, tmp_path: Path) -> None:
    ran = cli(*strange.flags(tmp_path / "out", "--dry-run", "--json"))
    assert ran.status == 0 and not list(tmp_path.iterdir())
    roles = ran.json()["roles"]
    assert [doubt["kind"] for doubt in roles["doubts"]] == ["base-and-target-unrelated"]
    assert ran.json()["warnings"] == [roles["doubts"][0]["message"]]
    sample = roles["samples"]["tuned"]
    assert sample["complete"] and (sample["matrices"], sample["elements"]) == (4, 640)
    assert abs(sample["base_target"]) < 0.1 and sample["base_tuned"] > 0.99
    assert roles["whole"] is None
    words = cli(*strange.flags(tmp_path / "out", "--dry-run"))
    assert "roles: cosines (median of 4 matrices" in words.out and "base and target look unrelated" in words.out


def test_with_strict_a_dry_run_says_that_the_run_would_stop(cli: Cli, strange: tiny.Trio, tmp_path: Path) -> None:
    ran = cli(*strange.flags(tmp_path / "out", "--dry-run", "--strict"))
    assert ran.status == 1 and "--strict stops this run" in ran.out


def test_strict_stops_before_the_first_byte(strange: tiny.Trio, tmp_path: Path) -> None:
    with pytest.raises(DoubtError, match="unrelated"):
        transfer(*strange.paths, tmp_path / "out", strict=True)
    assert not list(tmp_path.iterdir())


def test_a_run_tells_each_doubt_once_and_before_it_writes(cli: Cli, strange: tiny.Trio, tmp_path: Path) -> None:
    ran = cli(*strange.flags(tmp_path / "out"))
    assert ran.status == 0 and ran.err.count("warning: ") == 1
    there: list[bool] = []
    transfer(*strange.paths, tmp_path / "two", warn=lambda warning: there.append((tmp_path / "two.partial").exists()))
    assert there == [False]


def test_the_whole_pass_says_what_the_sample_said(honest: tiny.Trio, tmp_path: Path) -> None:
    roles = transfer(*honest.paths, tmp_path / "out", strict=True).manifest["roles"]
    sample, whole = roles["samples"]["tuned"], roles["whole"]
    for name in ("matrices", "elements", "base_target", "at_base", "at_tuned", "at_target"):
        assert whole[name] == pytest.approx(sample[name], abs=1e-6), name
    assert roles["doubts"] == roles["notes"] == []
    assert sample["error"] == dict.fromkeys(sample["error"], 0), "all was read"


@pytest.mark.parametrize(("role", "kind"), [("tuned", "base-and-tuned-unrelated"), ("base", "base-unrelated")])
def test_whichever_model_is_the_stranger_is_named_to_the_end(tmp_path: Path, role: str, kind: str) -> None:
    parts = {"base": BASE, "tuned": tiny.moved(BASE, 2), "target": tiny.moved(BASE, 3)} | {role: STRANGER}
    made = tiny.trio(tmp_path, **parts)
    assert kinds(seen(made)) == [kind]
    found = transfer(*made.paths, tmp_path / "out").manifest
    assert [doubt["kind"] for doubt in found["roles"]["doubts"]] == [kind] and len(found["warnings"]) == 1


class Counting:
    """A reader that counts what it reads."""

    def __init__(self, reader: TensorReader, counted: list[int]) -> None:
        self._reader, self._counted = reader, counted

    def read_into(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        self._counted.append(len(buffer))
        self._reader.read_into(tensor, start, buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def test_what_is_read_is_bounded_and_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    @contextmanager
    def counting(checkpoint: Checkpoint) -> Iterator[Any]:
        with reading_module.reading(checkpoint) as reader:
            yield Counting(reader, counted)

    monkeypatch.setattr(sampling, "reading", counting)
    monkeypatch.setattr(drawn_matrices, "MATRICES", 3)
    monkeypatch.setattr(drawn_matrices, "ELEMENTS", 50)
    base = {f"layers.{number}.weight": value for number in range(20) for value in [torch.randn(30, 40)]}
    made = tiny.trio(tmp_path, base)
    sample = seen(made).samples["tuned"]
    assert [matrix.elements for matrix in sample.matrices] == [100, 100, 100] and not sample.complete
    assert counted == [200] * 18, "three models, three matrices, two pieces, fifty float32"
    assert sample.figures.base_target == pytest.approx(1, abs=0.01)
    assert 0 < sample.error("at_base") < 1


def test_rows_are_sampled_where_their_tokens_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1)).tolist()
    words = [f"w{number}" for number in range(20)]
    base = {"model.embed_tokens.weight": torch.randn(20, 30, generator=torch.Generator().manual_seed(2))}
    target = {"model.embed_tokens.weight": torch.cat([torch.randn(3, 30), base["model.embed_tokens.weight"][order]])}
    parts = {"base": (base, words), "tuned": (tiny.moved(base, 3), words)}
    parts["target"] = (target, ["new0", "new1", "new2", *(words[place] for place in order)])
    paths = [
        tiny.write_model(tmp_path / role, tensors, words=own, settings=tiny.config(vocab_size=len(own)))
        for role, (tensors, own) in parts.items()
    ]
    made = tiny.Trio(paths[0], paths[1], paths[2], {})
    assert (whole := seen(made).samples["tuned"]).complete and whole.matrices[0].elements == 600
    assert whole.figures.base_target == pytest.approx(1)
    monkeypatch.setattr(drawn_matrices, "ELEMENTS", 100)
    part = seen(made).samples["tuned"]
    assert not part.complete and 0 < part.matrices[0].elements <= 200
    assert part.figures.base_target == pytest.approx(1)


def test_an_adapter_is_looked_at_through_its_base(tmp_path: Path) -> None:
    base, honest, stranger = (
        tiny.write_model(tmp_path / name, tensors)
        for name, tensors in (("base", BASE), ("target", tiny.moved(BASE, 3)), ("stranger", STRANGER))
    )
    adapter = tiny.write_lora(tmp_path / "lora", BASE, rank=2)
    assert kinds(seen(tiny.Trio(base, adapter, honest, {}))) == []
    found = seen(tiny.Trio(base, adapter, stranger, {}))
    assert kinds(found) == ["base-and-target-unrelated"]
    assert found.samples["tuned"].figures.base_tuned is found.samples["tuned"].figures.at_base is None
    roles = transfer(base, adapter, stranger, tmp_path / "out").manifest["roles"]
    assert [doubt["kind"] for doubt in roles["doubts"]] == ["base-and-target-unrelated"] and roles["whole"] is None


def test_a_server_that_sends_whole_files_only_leaves_a_note(honest: tiny.Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(plan: object, opened: object) -> dict[str, sampling.Sample]:
        raise RangesError("base org/model: the server sends whole files only, not parts of them.")

    monkeypatch.setattr(look_module, "take_samples", refused)
    found = seen(honest)
    assert [note.kind for note in found.notes] == ["not-sampled"] and "whole files only" in found.notes[0].message
    assert found.samples == {} and found.doubts == ()


# ---- diff and apply


@pytest.fixture(scope="module")
def vector(honest: tiny.Trio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vector") / "delta"
    diff(honest.base, honest.tuned, out, strict=True)
    return out


def test_a_diff_of_models_that_are_unrelated_warns(honest: tiny.Trio, tmp_path: Path) -> None:
    stranger = tiny.write_model(tmp_path / "stranger", STRANGER)
    found = diff(honest.base, stranger, tmp_path / "delta").manifest["roles"]
    assert [doubt["kind"] for doubt in found["doubts"]] == ["base-and-tuned-unrelated"]


def test_a_diff_with_swapped_roles_is_told_by_the_template_that_only_its_base_has(
    cli: Cli, honest: tiny.Trio, tmp_path: Path
) -> None:
    tuned = shutil.copytree(honest.tuned, tmp_path / "tuned")
    (tuned / "chat_template.jinja").write_text("{{ messages }}")
    ran = cli("diff", "--base", tuned, "--tuned", honest.base, "--out", tmp_path / "out", "--dry-run", "--json")
    assert ["swapped" in line for line in ran.json()["warnings"]] == [True]
    ran = cli("diff", "--base", honest.base, "--tuned", tuned, "--out", tmp_path / "out", "--dry-run", "--json")
    assert ran.json()["warnings"] == []


def test_a_diff_vector_knows_a_stranger_when_it_is_applied(
    vector: Path, honest: tiny.Trio, strange: tiny.Trio, tmp_path: Path
) -> None:
    assert kinds(look(plan_of((), strange.target, [(vector, 1.0)], lambda names: Choices()))) == [
        "base-and-target-unrelated"
    ]
    apply([(vector, 1.0)], honest.target, tmp_path / "out", strict=True)
    sample = manifest(tmp_path / "out")["roles"]["samples"]["diff"]
    whole = transfer(*honest.paths, tmp_path / "at-once").manifest["roles"]["whole"]
    assert sample["at_base"] == pytest.approx(whole["at_base"], abs=1e-6), "so small a base is kept whole"
    with pytest.raises(DoubtError, match="unrelated"):
        apply([(vector, 1.0)], strange.target, tmp_path / "strict", strict=True)


def test_a_diff_vector_onto_its_own_tuned_model_is_told(vector: Path, honest: tiny.Trio) -> None:
    assert len(kinds(look(plan_of((), honest.tuned, [(vector, 1.0)], lambda names: Choices())))) == 1


def test_a_fine_tuning_that_is_taken_away_is_expected_in_its_target(
    vector: Path, honest: tiny.Trio, tmp_path: Path
) -> None:
    undone = look(plan_of((), honest.tuned, [(vector, -1.0)], lambda names: Choices()))
    assert kinds(undone) == []
    doubled = look(plan_of((), honest.tuned, [(vector, -1.0), (vector, 1.0)], lambda names: Choices()))
    assert len(kinds(doubled)) == 1, "the one that is added is doubted as ever"
    transfer(honest.base, honest.tuned, honest.tuned, tmp_path / "out", scale=-0.5, strict=True)
    with pytest.raises(DoubtError):
        stranger = tiny.write_model(tmp_path / "stranger", STRANGER)
        transfer(honest.base, honest.tuned, stranger, tmp_path / "other", scale=-1, strict=True)


def test_of_several_diff_vectors_the_one_that_does_not_fit_is_named(
    vector: Path, honest: tiny.Trio, strange: tiny.Trio, tmp_path: Path
) -> None:
    other = tiny.write_model(tmp_path / "other", tiny.moved(STRANGER, 5))
    diff(strange.target, other, tmp_path / "foreign")
    found = look(plan_of((), honest.target, [(vector, 1.0), (tmp_path / "foreign", 0.5)], lambda names: Choices()))
    assert kinds(found) == ["base-and-target-unrelated"] and found.warnings[0].startswith("foreign: ")


def test_a_vector_without_values_of_its_base_is_applied_unseen(vector: Path, honest: tiny.Trio, tmp_path: Path) -> None:
    old = shutil.copytree(vector, tmp_path / "old")
    told = manifest(old)
    del told["base_sample"]
    (old / "tuneport.json").write_text(json.dumps(told))
    found = look(plan_of((), honest.target, [(old, 1.0)], lambda names: Choices()))
    assert replace(found, rounding=None) == RolesVerdict({}, None, ())


@pytest.mark.parametrize("piece", [{"values": "%%"}, {"values": ""}, {"start": 10**9}, {"start": -1}])
def test_damaged_values_of_a_base_are_an_error(
    vector: Path, honest: tiny.Trio, tmp_path: Path, piece: dict[str, Any]
) -> None:
    broken = shutil.copytree(vector, tmp_path / "broken")
    told = manifest(broken)
    next(iter(told["base_sample"].values()))[0].update(piece)
    (broken / "tuneport.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="damaged"):
        look(plan_of((), honest.target, [(broken, 1.0)], lambda names: Choices()))


def test_verify_compares_the_values_of_the_base(vector: Path, honest: tiny.Trio, tmp_path: Path) -> None:
    verify(vector, honest.base, honest.tuned, full=True)
    changed = shutil.copytree(vector, tmp_path / "changed")
    told = manifest(changed)
    next(iter(told["base_sample"].values()))[0]["start"] += 1
    (changed / "tuneport.json").write_text(json.dumps(told))
    with pytest.raises(VerificationError, match="the base's sample"):
        verify(changed, honest.base, honest.tuned)


# ---- what the files say


def test_a_base_that_is_the_tuned_model_is_refused_unread(cli: Cli, honest: tiny.Trio, tmp_path: Path) -> None:
    same = tiny.Trio(honest.base, honest.base, honest.target, {})
    ran = cli(*same.flags(tmp_path / "out", "--dry-run"))
    assert ran.status == 1 and "The diff vector is zero" in ran.out
    ran = cli(*same.flags(tmp_path / "out"))
    assert ran.status == 1 and "zero" in ran.err and not list(tmp_path.iterdir())


def test_a_copy_of_the_base_is_told_as_far_as_was_seen(honest: tiny.Trio, tmp_path: Path) -> None:
    copy = shutil.copytree(honest.base, tmp_path / "copy")
    notes = [note.kind for note in seen(tiny.Trio(honest.base, copy, honest.target, {})).notes]
    assert notes == ["no-difference-seen"]


@pytest.mark.parametrize("copied", [False, True])
def test_a_target_that_is_the_base_is_noted_and_no_doubt(honest: tiny.Trio, tmp_path: Path, copied: bool) -> None:
    target = shutil.copytree(honest.base, tmp_path / "copy") if copied else honest.base
    made = tiny.Trio(honest.base, honest.tuned, target, {})
    assert [note.kind for note in seen(made).notes] == ["same-target-seen" if copied else "target-is-base"]
    roles = transfer(*made.paths, tmp_path / "out", strict=True).manifest["roles"]
    assert [note["kind"] for note in roles["notes"]] == ["target-is-base"] and roles["doubts"] == []


CARD = "---\nlicense: mit\nbase_model:\n- org/first\n- {}\ntags: [x]\n---\n# A model\n"


@pytest.mark.parametrize(
    ("role", "file", "content", "kind"),
    [
        ("base", "README.md", CARD.format("org/tuned"), ["base-names-tuned"]),
        ("base", "README.md", "---\nbase_model: 'org/Tuned'\r\n---\r\n", ["base-names-tuned"]),
        ("tuned", "README.md", CARD.format('"org/target"'), ["tuned-names-target"]),
        ("target", "README.md", CARD.format("org/tuned"), ["target-names-tuned"]),
        ("tuned", "config.json", {"_name_or_path": "/home/someone/target/"}, ["tuned-names-target"]),
        ("tuned", "config.json", {"_name_or_path": "/home/someone/base"}, []),
        ("tuned", "config.json", {"_name_or_path": "tuned"}, []),
        ("tuned", "README.md", CARD.format("org/base") + CARD.format("org/target"), []),
        ("tuned", "README.md", "base_model: target\n", []),
        ("tuned", "README.md", "---\nbase_model:\n---\n", []),
        ("target", "README.md", CARD.format("org/base"), []),
    ],
)
def test_names_in_the_models_files_are_compared_with_those_given(
    honest: tiny.Trio, tmp_path: Path, role: str, file: str, content: str | dict[str, str], kind: list[str]
) -> None:
    """Each of the four weights alone would leave open which is which; the files do not."""
    paths = {name: shutil.copytree(path, tmp_path / name) for name, path in zip(ROLES, honest.paths, strict=True)}
    place = paths[role] / file
    if isinstance(content, dict):
        content = json.dumps(json.loads(place.read_text()) | content)
    place.write_bytes(content.encode())
    assert kinds(seen(tiny.Trio(paths["base"], paths["tuned"], paths["target"], {}))) == kind


ROLES = ("base", "tuned", "target")
