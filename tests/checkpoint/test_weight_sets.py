"""What may lie in one folder: which weights count, which stop the search, what is told. On this disk and on a Hub alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file
from support.command_results import Cli
from support.loopback_hub import LoopbackHub

from tuneport.checkpoint import weight_sets, weights
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.local_folder import open_folder
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.two_sets import Effort, compared
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import CheckpointError

Tensors = Mapping[str, np.ndarray[Any, Any]]
ONE: Tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}
OTHER: Tensors = {**ONE, "b": np.array([1, 1, 1, 2], np.float16)}  # one element
FEWER: Tensors = {"a": ONE["a"]}
NARROW: Tensors = {**ONE, "a": ONE["a"].astype(np.float16)}
RESHAPED: Tensors = {**ONE, "a": ONE["a"].reshape(3, 2)}
INDEX, SINGLE, BIN, BIN_INDEX = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def put(folder: Path, files: Mapping[str, Any]) -> Path:
    """Files by name: tensors become safetensors, text and bytes stand as they are, all else is JSON."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors") and isinstance(content, Mapping):
            save_file(dict(content), folder / name, metadata={"format": "pt"})
        elif isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def shards(tensors: Tensors = ONE, names: tuple[str, str] = SHARDS, index: str | None = INDEX) -> dict[str, Any]:
    """A set in two files: ``a`` in the first, all else in the second."""
    parts = ({"a": tensors["a"]}, {name: value for name, value in tensors.items() if name != "a"})
    placed = {name: names[name != "a"] for name in tensors}
    return {**dict(zip(names, parts, strict=True)), **({index: {"weight_map": placed}} if index else {})}


def without(files: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: content for name, content in files.items() if name not in names}


LORA = {"adapter_config.json": {"peft_type": "LORA", "r": 1}, "adapter_model.safetensors": FEWER}
LORA_FILES = ("adapter_model.safetensors", "adapter_config.json")
BYSTANDERS: dict[str, Any] = {
    "consolidated.safetensors": OTHER,
    "original/consolidated.00.pth": b"x",
    "original/params.json": {},
    "optimizer.pt": b"x",
    "training_args.bin": b"x",
    "global_step500/mp_rank_00_model_states.pt": b"x",
    "pytorch_model_fsdp_0/__0_0.distcp": b"x",
    "pytorch_model.bin": b"x",
    "model.fp16.safetensors": NARROW,
    "onnx/model.onnx": b"x",
    "._model.safetensors": b"a Mac's note",
}


@dataclass(frozen=True)
class Case:
    """A folder, the files whose weights count, and what is said of it in a warning."""

    files: Mapping[str, Any]
    counts: tuple[str, ...]
    told: tuple[str, ...] = ()


READ = {
    "an index and its shards": Case(shards(), SHARDS),
    "a whole file": Case({SINGLE: ONE}, (SINGLE,)),
    "shards beside everything that stands beside weights": Case({**BYSTANDERS, **shards()}, SHARDS),
    "a whole file beside everything that stands beside weights": Case({**BYSTANDERS, SINGLE: ONE}, (SINGLE,)),
    "the only safetensors file": Case({"weights.safetensors": ONE}, ("weights.safetensors",)),
    "the only file, of another precision": Case({"model.fp16.safetensors": ONE}, ("model.fp16.safetensors",)),
    "an index of the whole file": Case({SINGLE: ONE, INDEX: {"weight_map": dict.fromkeys(ONE, SINGLE)}}, (SINGLE,)),
    "two sets that hold the same": Case({SINGLE: ONE, **shards()}, SHARDS, ("with the same values", SINGLE, INDEX)),
    "two sets, the whole one damaged": Case(
        {SINGLE: b"", **shards()}, SHARDS, (SINGLE, "too short", "transformers", "Remove the damaged set")
    ),
    "the shards of an index gone": Case(
        {SINGLE: ONE, **without(shards(), *SHARDS)}, (SINGLE,), (INDEX, "2 missing file(s)")
    ),
    "one shard of an index gone": Case(
        {SINGLE: ONE, **without(shards(), SHARDS[0])}, (SINGLE,), (INDEX, "1 missing file(s)", SHARDS[1])
    ),
    "the same shards without their index": Case(
        {SINGLE: ONE, **shards(index=None)}, (SINGLE,), ("same values", SHARDS[0], SHARDS[1])
    ),
    "shards of another time": Case({**shards(), "model-00003-of-00003.safetensors": ONE}, SHARDS, ("00003-of-00003",)),
    "a shard that is left beside a whole file": Case({SINGLE: ONE, SHARDS[1]: ONE}, (SINGLE,), (SHARDS[1],)),
    "a shard of a row without end": Case(
        {SINGLE: ONE, "model-1-of-9999999999999.safetensors": ONE}, (SINGLE,), ("1-of-9",)
    ),
    "a shard that has the whole file's name": Case(
        shards(names=("model-extra.safetensors", SINGLE)),
        ("model-extra.safetensors", SINGLE),
        ("only this one", SINGLE),
    ),
    "an adapter beside a model": Case({SINGLE: ONE, **LORA}, (SINGLE,), ("adapter", "transformers applies it")),
    "shards beside an adapter": Case({**LORA, SHARDS[0]: ONE}, (*LORA_FILES,), (SHARDS[0],)),
    "the file that config.json names": Case(
        {"config.json": {"transformers_weights": "x.safetensors"}, "x.safetensors": ONE, "y.safetensors": OTHER},
        ("x.safetensors",),
    ),
    "the same weights in the file that config.json names": Case(
        {"config.json": {"transformers_weights": "x.safetensors"}, "x.safetensors": ONE, SINGLE: ONE},
        (SINGLE,),
        ("same values", "x.safetensors"),
    ),
}

MOVE = "Move the files you do not need"
STOPPED = {
    "one element differs": ({SINGLE: OTHER, **shards()}, ("`b` has different values", SINGLE, INDEX, "vLLM", MOVE)),
    "a tensor is missing": ({SINGLE: FEWER, **shards()}, ("`b` is only in", MOVE)),
    "a tensor is more": ({SINGLE: ONE, **shards(FEWER)}, ("`b` is only in model.safetensors", MOVE)),
    "another dtype": ({SINGLE: NARROW, **shards()}, ("`a` is F32 [2, 3]", "F16 [2, 3]", MOVE)),
    "another shape": ({SINGLE: RESHAPED, **shards()}, ("[2, 3]", "[3, 2]", MOVE)),
    "shards without an index": ({SINGLE: OTHER, **shards(index=None)}, ("vLLM every .safetensors file", MOVE)),
    "another file is named in config.json": (
        {"config.json": {"transformers_weights": "x.safetensors"}, "x.safetensors": OTHER, SINGLE: ONE},
        ("transformers loads x.safetensors", MOVE),
    ),
    "safetensors of no usual name and a pickle": (
        {"value_head.safetensors": ONE, BIN: b"x"},
        ("transformers loads pytorch_model.bin", "value_head.safetensors", MOVE),
    ),
    "an index without its shards": (without(shards(), *SHARDS), (SHARDS[0], SHARDS[1], "Download")),
    "an index of other shards": (
        {**without(shards(), *SHARDS), "model-00001-of-00001.safetensors": ONE},
        ("does not name these files", "model-00001-of-00001.safetensors"),
    ),
    "a damaged index beside a whole file": ({SINGLE: ONE, INDEX: "{"}, ("not valid JSON", "remove it", SINGLE)),
    "shards alone": (shards(index=None), (*SHARDS, "add the index")),
    "two files of other names": ({"x.safetensors": ONE, "y.safetensors": ONE}, ("x.safetensors", "y.safetensors")),
    "shards of another precision": (
        shards(
            names=("model.fp16-1.safetensors", "model.fp16-2.safetensors"), index="model.safetensors.index.fp16.json"
        ),
        ("copy model.safetensors.index.fp16.json to model.safetensors.index.json",),
    ),
    "an adapter without its config": (without(LORA, "adapter_config.json"), ("adapter_config.json is missing",)),
    "nothing": ({"config.json": {}}, ("no weights", "config.json")),
    "checkpoints of a training": ({"checkpoint-500/model.safetensors": ONE}, ("checkpoint-500/", "pass that folder")),
    "DeepSpeed's pieces": (
        {"zero_to_fp32.py": "", "global_step1/x.pt": b""},
        ("global_step1/", "zero_to_fp32.py gath"),
    ),
    "FSDP's pieces": ({"pytorch_model_fsdp_0/__0_0.distcp": b""}, ("accelerate merge-weights",)),
    "a pickle of another name": ({"pytorch_model_fsdp.bin": b""}, ("rename it to pytorch_model.bin",)),
    "GGUF": ({"model.Q4_K_M.gguf": b""}, ("model.Q4_K_M.gguf is GGUF",)),
    "a pointer of Git LFS": ({SINGLE: b"version https://git-lfs.github.com/spec/v1\n"}, ("Git LFS", "git lfs pull")),
    "what ZeRO-3 left": (
        {SINGLE: {"x.weight": np.zeros(0, np.float16), "norm.weight": np.ones(2, np.float16)}},
        (
            "1 weight(s)",
            "`x.weight`",
            "DeepSpeed ZeRO-3",
            "zero_to_fp32.py",
            "stage3_gather_16bit_weights_on_model_save",
        ),
    ),
    "what ZeRO-3 left, and what was gathered": (
        {SINGLE: {"x.weight": np.zeros(0, np.float16)}, BIN: b"x"},
        ("move model.safetensors away; tuneport then reads pytorch_model.bin",),
    ),
    "what ZeRO-3 left of an adapter": (
        {**LORA, "adapter_model.safetensors": {"base_model.model.q.lora_A.weight": np.zeros(0, np.float32)}},
        ("lora_A", "DeepSpeed ZeRO-3"),
    ),
}  # fmt: skip  (a row a line)

Open = Callable[[Path], Checkpoint]


@pytest.fixture(params=["folder", "Hub"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens a folder as it lies here, or as a repository on a Hub."""
    if request.param == "folder":
        yield lambda folder: open_checkpoint(folder, "tuned")
        return
    with LoopbackHub() as hub, pytest.MonkeyPatch.context() as patch:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        for name, value in {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path / "hf")}.items():
            patch.setattr(constants, name, value)

        def from_hub(folder: Path) -> Checkpoint:
            hub.repositories["org/m"] = {"main": folder}
            return open_checkpoint("org/m", "tuned")

        yield from_hub


@pytest.mark.parametrize("name", READ)
def test_the_weights_that_count_are_read_and_what_may_have_been_meant_is_told(
    name: str, opened: Open, tmp_path: Path
) -> None:
    case = READ[name]
    found = opened(put(tmp_path / "m", {"config.json": {"model_type": "llama"}, **case.files}))
    assert tuple(found.files) == case.counts
    assert bool(found.warnings) == bool(case.told), found.warnings
    assert all(warning.startswith("tuned ") for warning in found.warnings)
    for word in case.told:
        assert word in "\n".join(found.warnings)


@pytest.mark.parametrize("name", STOPPED)
def test_what_cannot_be_known_stops_with_what_is_there_and_what_to_do(name: str, opened: Open, tmp_path: Path) -> None:
    files, words = STOPPED[name]
    with pytest.raises(CheckpointError) as caught:
        opened(put(tmp_path / "m", files))
    for word in ("tuned ", *words):
        assert word in str(caught.value) or (word is MOVE and "hf download org/m --revision" in str(caught.value))


def test_headers_of_all_files_together_and_the_number_of_files_are_bounded(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "m", {"config.json": {"model_type": "llama"}, **shards()})
    together = sum(int.from_bytes((folder / name).read_bytes()[:8], "little") for name in SHARDS)
    monkeypatch.setattr(weights, "MOST_HEADER_BYTES", together)
    monkeypatch.setattr(weight_sets, "MOST_FILES", 2)
    assert set(opened(folder).tensors) == set(ONE)
    monkeypatch.setattr(weights, "MOST_HEADER_BYTES", together - 1)
    with pytest.raises(CheckpointError, match=rf"^tuned .*{together - 1} bytes together, the limit"):
        opened(folder)
    monkeypatch.setattr(weight_sets, "MOST_FILES", 1)
    with pytest.raises(CheckpointError, match=r"^tuned .*names 2 files, over the limit of 1\..*max_shard_size"):
        opened(folder)


def test_of_many_disagreements_some_are_listed_and_the_rest_is_counted(opened: Open, tmp_path: Path) -> None:
    many = {f"t{number}": np.zeros(0, np.float16) for number in range(300)}
    files = dict.fromkeys(SHARDS, many)
    folder = put(tmp_path / "m", {**files, INDEX: {"weight_map": dict.fromkeys(many, SHARDS[0]) | {"z": SHARDS[1]}}})
    with pytest.raises(
        CheckpointError, match=rf"(?s)`t0` is in {SHARDS[0]} and in {SHARDS[1]}.*… and 201 more"
    ) as caught:
        opened(folder)
    assert len(str(caught.value).splitlines()) == 103


def test_a_second_set_is_told_in_the_plan_the_manifest_and_by_strict_and_the_output_is_of_the_first(
    cli: Cli, tmp_path: Path
) -> None:
    config = {"config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}}
    tuned = {"a": ONE["a"] + 1, "b": ONE["b"]}
    base, onto = put(tmp_path / "base", {**config, SINGLE: ONE}), put(tmp_path / "onto", {**config, SINGLE: ONE})
    twice = put(tmp_path / "tuned", {**config, SINGLE: tuned, **shards(tuned)})
    flags = ["--base", base, "--tuned", twice, "--onto", onto]
    strict = cli("transfer", *flags, "--out", tmp_path / "out", "--strict")
    assert strict.status == 1 and "two sets of weights" in strict.err and not (tmp_path / "out").exists()
    done = cli("transfer", *flags, "--out", tmp_path / "out")
    assert done.status == 0 and "two sets of weights" in done.err
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    assert any("two sets of weights" in warning for warning in manifest["warnings"])
    assert "two sets of weights" in (tmp_path / "out" / "README.md").read_text()
    assert np.array_equal(load_file(tmp_path / "out" / SINGLE)["a"], tuned["a"])
    assert "two sets of weights" in cli("inspect", twice, "--json").json()["warnings"][0]
    assert cli("verify", tmp_path / "out", *flags, "--full").status == 0
    vector = tmp_path / "vector"
    made = cli("diff", *flags[:4], "--out", vector)
    assert made.status == 0 and "two sets of weights" in made.err
    # The vector's own files are looked at as a model's are.
    whole = dict(load_file(vector / "diff.safetensors"))
    put(
        vector,
        shards(whole, ("diff-00001-of-00002.safetensors", "diff-00002-of-00002.safetensors"), f"diff{INDEX[5:]}"),
    )
    added = cli("apply", vector, "--onto", onto, "--out", tmp_path / "added")
    assert added.status == 0 and "diff.safetensors.index.json and diff.safetensors: the same" in added.err
    assert (tmp_path / "added" / SINGLE).read_bytes() == (tmp_path / "out" / SINGLE).read_bytes()
    save_file({**whole, "b": whole["b"] + 1}, vector / "diff.safetensors")
    refused = cli("apply", vector, "--onto", onto, "--out", tmp_path / "not")
    assert refused.status == 1 and "`b` has different values" in refused.err


def test_a_fine_tuning_that_is_an_adapter_beside_its_base_is_told_where_the_diff_vector_is_zero(
    cli: Cli, tmp_path: Path
) -> None:
    config = {"config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}}
    base, tuned = (
        put(tmp_path / "base", {**config, SINGLE: ONE}),
        put(tmp_path / "tuned", {**config, SINGLE: ONE, **LORA}),
    )
    stopped = cli("transfer", "--base", base, "--tuned", tuned, "--onto", base, "--out", tmp_path / "out")
    assert stopped.status == 1 and "diff vector is zero" in stopped.err
    assert "tuned tuned: the folder contains an adapter" in stopped.err


@pytest.mark.parametrize("place", [0, 17, 499, 999])
def test_sets_too_large_to_compare_are_sampled_all_over_and_what_was_not_compared_is_said(
    place: int, tmp_path: Path
) -> None:
    values = {f"t{number}": np.full(1000, number, np.uint8) for number in range(8)}
    changed = {**values, "t5": np.where(np.arange(1000) >= place, 99, values["t5"]).astype(np.uint8)}
    one, other = put(tmp_path / "one", {SINGLE: values}), put(tmp_path / "other", {SINGLE: changed})
    found = [(open_folder(folder, "base"), (folder / SINGLE).read_bytes()) for folder in (one, other)]
    asked: list[int] = []

    def read(content: bytes) -> Callable[[StoredTensor, int, int], bytes]:
        def from_content(tensor: StoredTensor, start: int, count: int) -> bytes:
            asked.append(count)
            assert 0 <= start <= start + count <= tensor.nbytes
            return content[tensor.offset + start : tensor.offset + start + count]

        return from_content

    reads = read(found[0][1]), read(found[1][1])
    assert compared(found[0][0].tensors, found[1][0].tensors, reads, Effort(32, 10)) == (
        ["`t5` has different values"],
        False,
    )
    assert len(asked) <= 2 * 32 and max(asked) == 10
    assert compared(found[0][0].tensors, found[0][0].tensors, (reads[0], reads[0]), Effort(32, 10)) == ([], False)
    assert compared(found[0][0].tensors, found[0][0].tensors, (reads[0], reads[0]), Effort(32, 250)) == ([], True)
    asked.clear()
    assert compared(found[0][0].tensors, found[1][0].tensors, reads, Effort(3, 10))[1] is False
    assert len(asked) <= 2 * 3


def test_of_all_that_lies_beside_the_weights_the_files_on_the_list_are_there_and_no_other(
    opened: Open, tmp_path: Path
) -> None:
    travel = ("config.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
    travel += ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "chat_template.json", "LICENSE")
    stay = ("optimizer.pt", "2_Dense/model.safetensors", "1_Pooling/other.json", "original/config.json", "x.json")
    folder = put(tmp_path / "m", {SINGLE: ONE, **dict.fromkeys(travel, "{}"), **dict.fromkeys(stay, b"x")})
    found = opened(folder)
    assert found.sidecars.names() == sorted(travel)
    here = {path.relative_to(found.path).as_posix() for path in found.path.rglob("*") if path.is_file()}
    assert here == {*travel, *(() if found.hub_id else (SINGLE, *stay))}
