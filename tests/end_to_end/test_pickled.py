"""Legacy pytorch_model.bin: the same bits as from safetensors, and a file that holds code is refused unrun."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.carried_models import Carried
from support.command_results import Cli
from support.slow_reference import differing
from support.tiny_models import read_weights

Transfers = Callable[[str], Carried]


def pickled(source: Path, folder: Path, files: int) -> Path:
    """A checkpoint as transformers wrote it before safetensors: one .bin, or several with an index."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights = read_weights(source)
    if files == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return folder
    names = [f"pytorch_model-{number:05d}-of-{files:05d}.bin" for number in range(1, files + 1)]
    weight_map = {tensor: names[place % files] for place, tensor in enumerate(sorted(weights))}
    for name in names:
        torch.save({tensor: weights[tensor] for tensor, file in weight_map.items() if file == name}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


class Payload:
    """What unpickling would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("name", ["llama", "mixtral", "olmo2"])
def test_pickled_parents_give_the_same_bits(
    name: str, files: int, transfers: Transfers, run: Cli, tmp_path: Path
) -> None:
    whole = transfers(name)
    base, tuned, target = (
        pickled(folder, tmp_path / folder.name, files)
        for folder in (whole.family.base, whole.family.tuned, whole.family.target)
    )
    parents = ["--base", base, "--tuned", tuned, "--onto", target]
    said = run("transfer", *parents, "--out", tmp_path / "out")
    assert said.status == 0, said.err
    assert differing(read_weights(tmp_path / "out"), read_weights(whole.out)) == []
    assert not list((tmp_path / "out").glob("*.bin"))
    assert run("verify", tmp_path / "out", *parents, "--full").status == 0


def test_tied_tensors_that_share_storage_in_a_pickle_count_once(transfers: Transfers, run: Cli, tmp_path: Path) -> None:
    whole = transfers("qwen3")
    tuned = pickled(whole.family.tuned, tmp_path / "tuned", 1)
    weights = read_weights(whole.family.tuned)
    torch.save(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}, tuned / "pytorch_model.bin")
    parents = ["--base", whole.family.base, "--tuned", tuned, "--onto", whole.family.target]
    assert run("transfer", *parents, "--out", tmp_path / "out").status == 0
    assert differing(read_weights(tmp_path / "out"), read_weights(whole.out)) == []


def test_tensors_that_are_views_are_read_in_their_own_order(transfers: Transfers, run: Cli, tmp_path: Path) -> None:
    whole = transfers("llama")
    tuned = pickled(whole.family.tuned, tmp_path / "tuned", 1)
    strided = {
        name: t.t().contiguous().t() if t.ndim == 2 else t for name, t in read_weights(whole.family.tuned).items()
    }
    assert any(not tensor.is_contiguous() for tensor in strided.values())
    torch.save(strided, tuned / "pytorch_model.bin")
    parents = ["--base", whole.family.base, "--tuned", tuned, "--onto", whole.family.target]
    assert run("transfer", *parents, "--out", tmp_path / "out").status == 0
    assert differing(read_weights(tmp_path / "out"), read_weights(whole.out)) == []


@pytest.mark.parametrize("form", ["zip", "bare pickle", "beside weights"])
def test_a_pickle_that_holds_code_is_refused_and_never_run(
    form: str, transfers: Transfers, run: Cli, tmp_path: Path
) -> None:
    whole, mark = transfers("llama"), tmp_path / "ran"
    tuned = pickled(whole.family.tuned, tmp_path / "tuned", 1)
    path = tuned / "pytorch_model.bin"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps({"model.norm.weight": Payload(mark)}))
    elif form == "zip":
        torch.save({"model.norm.weight": Payload(mark)}, path)
    else:
        torch.save(read_weights(whole.family.tuned) | {"extra": Payload(mark)}, path)
    said = run(
        "transfer",
        "--base",
        whole.family.base,
        "--tuned",
        tuned,
        "--onto",
        whole.family.target,
        "--out",
        tmp_path / "out",
    )
    assert said.status == 1 and not mark.exists() and not (tmp_path / "out").exists()
    assert "pytorch_model.bin" in said.err and "code are refused" in said.err and said.err.count("\n") == 1
    assert run("inspect", tuned).status == 1 and not mark.exists()
    if form == "zip":  # the pickle does what it says when it is trusted
        torch.load(path, weights_only=False)
        assert mark.exists()


def test_a_pickle_beside_safetensors_is_not_even_opened(transfers: Transfers, run: Cli, tmp_path: Path) -> None:
    whole, mark = transfers("llama"), tmp_path / "ran"
    tuned = tmp_path / "tuned"
    shutil.copytree(whole.family.tuned, tuned)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (tuned / name).write_bytes(pickle.dumps(Payload(mark)))
    parents = ["--base", whole.family.base, "--tuned", tuned, "--onto", whole.family.target]
    assert run("transfer", *parents, "--out", tmp_path / "out").status == 0
    assert not mark.exists() and differing(read_weights(tmp_path / "out"), read_weights(whole.out)) == []


@pytest.mark.parametrize("damage", ["cut short", "empty", "no tensors", "list", "complex", "missing shard"])
def test_a_broken_pickle_is_one_clear_error(damage: str, transfers: Transfers, run: Cli, tmp_path: Path) -> None:
    whole = transfers("llama")
    tuned = pickled(whole.family.tuned, tmp_path / "tuned", 2 if damage == "missing shard" else 1)
    path = tuned / "pytorch_model.bin"
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no tensors":
        torch.save({"model": read_weights(whole.family.tuned), "epoch": 3}, path)
    elif damage == "list":
        torch.save([1, 2], path)
    elif damage == "complex":
        weights = read_weights(whole.family.tuned)
        torch.save(weights | {"model.norm.weight": weights["model.norm.weight"].to(torch.complex64)}, path)
    else:
        (tuned / "pytorch_model-00002-of-00002.bin").unlink()
    said = run(
        "transfer",
        "--base",
        whole.family.base,
        "--tuned",
        tuned,
        "--onto",
        whole.family.target,
        "--out",
        tmp_path / "out",
    )
    assert said.status == 1 and "Traceback" not in said.err and said.err.count("tuneport: ") == 1
    culprit = "`model.norm.weight`" if damage == "complex" else "pytorch_model"
    assert "tuned" in said.err and culprit in said.err and not (tmp_path / "out").exists()


def test_an_index_of_pickles_leads_nowhere_else(transfers: Transfers, run: Cli, tmp_path: Path) -> None:
    whole = transfers("llama")
    tuned = pickled(whole.family.tuned, tmp_path / "tuned", 2)
    index = tuned / "pytorch_model.bin.index.json"
    torch.save(read_weights(whole.family.tuned), tmp_path / "elsewhere.bin")
    for place in ("../elsewhere.bin", str(tmp_path / "elsewhere.bin"), "tokenizer.json"):
        weight_map = dict.fromkeys(read_weights(whole.family.tuned), place)
        index.write_text(json.dumps({"weight_map": weight_map}))
        said = run("inspect", tuned)
        assert said.status == 1 and repr(place) in said.err


def test_without_torch_the_error_names_the_extra(transfers: Transfers, tmp_path: Path) -> None:
    whole = transfers("llama")
    tuned = pickled(whole.family.tuned, tmp_path / "tuned", 1)
    script = "import sys; sys.modules['torch'] = None; from tuneport.cli import main; sys.exit(main(sys.argv[1:]))"
    command = ["transfer", "--base", whole.family.base, "--tuned", tuned, "--onto", whole.family.target]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, command), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "pip install 'tuneport[models]'" in done.stderr and "Traceback" not in done.stderr


def test_a_zip_of_torch_is_what_these_tests_write(transfers: Transfers, tmp_path: Path) -> None:
    assert zipfile.is_zipfile(pickled(transfers("llama").family.tuned, tmp_path / "tuned", 1) / "pytorch_model.bin")
