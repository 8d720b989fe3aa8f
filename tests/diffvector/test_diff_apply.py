"""Taking a diff vector and applying it gives, byte for byte, what a transfer gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import tiny_checkpoints as tiny
from support.command_results import Cli

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SPECIAL = ["<|reserved_0|>", "<|reserved_1|>", "</s>"]


def run_both(cli: Cli, made: tiny.Trio, where: Path, *flags: str, taking: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """The output of a transfer, and that of a diff and an apply."""
    assert (ran := cli(*made.flags(where / "at-once", *flags))).status == 0, ran.err
    ran = cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", where / "delta", *taking)
    assert ran.status == 0, ran.err
    ran = cli("apply", where / "delta", "--onto", made.target, "--out", where / "in-two", *flags)
    assert ran.status == 0, ran.err
    return where / "at-once", where / "in-two"


def assert_same_model(one: Path, other: Path) -> None:
    """Every tensor byte and every sidecar; manifest and card tell how it was made, and differ."""
    told = {"tuneport.json", "README.md"}
    left, right = tiny.contents(one), tiny.contents(other)
    assert {k: v for k, v in left.items() if k not in told} == {k: v for k, v in right.items() if k not in told}
    assert sum(name.endswith(".safetensors") for name in left) >= 1


def differing(
    where: Path, *, padded: tuple[int, int, int] = (0, 0, 0), dtype: torch.dtype = torch.bfloat16
) -> tiny.Trio:
    """A tuned model that renames a reserved token and adds one; a target with two words put in front."""
    words = tiny.WORDS[:18]
    vocabularies = {
        "base": (words, SPECIAL),
        "tuned": (words, ["<|im_start|>", *SPECIAL[1:], "<tool>"]),
        "target": (["new0", "new1", *words], SPECIAL),
    }
    tensors, paths = {}, {}
    whole = tiny.llama(1, dtype, rows=40)
    for place, (role, (own, added)) in enumerate(vocabularies.items()):
        rows = len(own) + len(added) + padded[place]
        moved = tiny.moved(whole, place + 2, by=0.05 * place)
        tensors[role] = {name: value[:rows].clone() if value.shape[0] == 40 else value for name, value in moved.items()}
        settings = tiny.config(vocab_size=rows, torch_dtype=str(dtype).removeprefix("torch."))
        paths[role] = tiny.write_model(where / role, tensors[role], words=own, added=added, settings=settings)
    return tiny.Trio(paths["base"], paths["tuned"], paths["target"], tensors)


def by_token(made: tiny.Trio, name: str, scale: float, extra_rows: int) -> torch.Tensor:
    """A vocabulary matrix of the output, row by row, with plain dictionaries."""
    base, tuned, target = (made.tensors[role][name] for role in ("base", "tuned", "target"))
    words = tiny.WORDS[:18]
    ids = {
        "base": {token: id for id, token in enumerate([*words, *SPECIAL])},
        "tuned": {
            token: id for id, token in enumerate([*words, SPECIAL[0], *SPECIAL[1:], "<tool>"])
        },  # renamed in place
        "target": {token: id for id, token in enumerate(["new0", "new1", *words, *SPECIAL])},
    }
    out = torch.cat([target, target.new_zeros(extra_rows, target.shape[1])])
    for token, id in ids["target"].items():
        if token in ids["base"]:
            out[id] = tiny.formula(base[ids["base"][token]], tuned[ids["tuned"][token]], target[id], scale)
    out[23] = tuned[ids["tuned"]["<tool>"]].to(target.dtype)
    return out


@pytest.mark.parametrize("scale", ["1", "0.3", "-1", "0"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_with_one_vocabulary(cli: Cli, tmp_path: Path, scale: str, dtype: torch.dtype) -> None:
    made = tiny.trio(
        tmp_path, base={**tiny.llama(1, dtype), "ids": torch.arange(3), "empty": torch.zeros(0, 2)}, shards=(1, 2, 3)
    )
    one, other = run_both(cli, made, tmp_path, "--scale", scale)
    assert_same_model(one, other)
    tiny.assert_same(tiny.read_weights(other), tiny.expected(made, float(scale)))


def test_with_dtypes_that_differ_between_the_three(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    made = tiny.trio(
        tmp_path,
        base,
        {k: v.float() for k, v in tiny.moved(base, 2).items()},
        {k: v.half() for k, v in tiny.moved(base, 3).items()},
    )
    assert_same_model(*run_both(cli, made, tmp_path, "--scale", "0.7"))


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("padded", [(0, 0, 0), (3, 2, 0), (0, 0, 5), (3, 2, 5)])
def test_with_tokens_renamed_added_and_put_in_front(
    cli: Cli, tmp_path: Path, padded: tuple[int, int, int], scale: float
) -> None:
    made = differing(tmp_path, padded=padded)
    one, other = run_both(cli, made, tmp_path, "--scale", str(scale), "--shard-size", "900")
    assert_same_model(one, other)
    found = tiny.read_weights(other)
    wanted = tiny.expected(
        tiny.Trio(
            *made.paths, {r: {k: v for k, v in t.items() if k not in (EMBED, HEAD)} for r, t in made.tensors.items()}
        ),
        scale,
    )
    for name in (EMBED, HEAD):
        wanted[name] = by_token(made, name, scale, extra_rows=0 if padded[2] else 1)
    tiny.assert_same(found, wanted)
    tokens = {e["content"]: e["id"] for e in json.loads((other / "tokenizer.json").read_text())["added_tokens"]}
    assert tokens == {"<|im_start|>": 20, "<|reserved_1|>": 21, "</s>": 22, "<tool>": 23}
    assert json.loads((other / "config.json").read_text())["vocab_size"] == found[EMBED].shape[0]
    for out, parents in ((one, []), (other, ["--diff", str(tmp_path / "delta")])):
        flags = [*parents, "--onto", str(made.target)] if parents else made.flags(tmp_path)[1:7]
        assert (ran := cli("verify", out, *flags, "--full")).status == 0, ran.err
    assert cli("verify", other, *made.flags(tmp_path)[1:7], "--full").status == 0


def test_new_tokens_can_be_dropped_when_the_vector_is_applied(cli: Cli, tmp_path: Path) -> None:
    made = differing(tmp_path)
    one, other = run_both(cli, made, tmp_path, "--new-tokens", "drop")
    assert_same_model(one, other)
    assert "<tool>" not in (other / "tokenizer.json").read_text()


@pytest.mark.parametrize(
    "flags",
    [("--dtype", "float32"), ("--rounding", "stochastic", "--seed", "3"), ("--rule", "norm=0", "--rule", "q_proj=2")],
)
@pytest.mark.parametrize("vocabulary", ["same", "other"])
def test_with_every_choice_of_arithmetic(cli: Cli, tmp_path: Path, flags: tuple[str, ...], vocabulary: str) -> None:
    made = tiny.trio(tmp_path) if vocabulary == "same" else differing(tmp_path)
    assert_same_model(*run_both(cli, made, tmp_path, *flags))


def test_with_every_kind_of_sidecar(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    for path in made.paths:
        (path / "LICENSE").write_text(f"terms of {path.name}")
        (path / "generation_config.json").write_text(
            json.dumps({"eos_token_id": 1 if path.name != "tuned" else [1, 2]})
        )
        (path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 5}))
        (path / "modeling_own.py").write_text(f"# {path.name}")
    (made.tuned / "chat_template.jinja").write_text("{{ messages }}")
    one, other = run_both(cli, made, tmp_path)
    assert_same_model(one, other)
    assert (other / "chat_template.jinja").read_text() == "{{ messages }}"
    assert {"LICENSE", "generation_config.json", "modeling_own.py"} <= set(tiny.contents(other))


def test_several_vectors_are_added_one_after_another_each_with_its_scale(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1, torch.float32)
    first, second = (
        tiny.trio(tmp_path / "1", base=base),
        tiny.trio(tmp_path / "2", base=base, tuned=tiny.moved(base, 9, by=0.1)),
    )
    for number, made in (("1", first), ("2", second)):
        assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", tmp_path / f"d{number}").status == 0
    results = {}
    for name, order in (("ab", ["d1=0.3", "d2=-2"]), ("ba", ["d2=-2", "d1=0.3"])):
        ran = cli("apply", *[tmp_path / d for d in order], "--onto", first.target, "--out", tmp_path / name)
        assert ran.status == 0, ran.err
        found = results[name] = tiny.read_weights(tmp_path / name)
        for tensor, value in first.tensors["target"].items():
            wanted = value
            for vector in order:
                made, scale = (first, 0.3) if vector.startswith("d1") else (second, -2.0)
                wanted = tiny.formula(made.tensors["base"][tensor], made.tensors["tuned"][tensor], wanted, scale)
            assert tiny.bits(found[tensor]) == tiny.bits(wanted)
    assert any(tiny.bits(results["ab"][name]) != tiny.bits(results["ba"][name]) for name in base), (
        "the order shows in the last bit"
    )
    ran = cli(
        "verify",
        tmp_path / "ab",
        "--diff",
        tmp_path / "d1",
        "--diff",
        tmp_path / "d2",
        "--onto",
        first.target,
        "--full",
    )
    assert ran.status == 0, ran.err
    ran = cli(
        "verify",
        tmp_path / "ab",
        "--diff",
        tmp_path / "d2",
        "--diff",
        tmp_path / "d1",
        "--onto",
        first.target,
        "--full",
    )
    assert ran.status == 1


def test_norms_are_told_where_only_a_later_vector_takes_part(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", tmp_path / "d").status == 0
    assert (
        cli(
            "apply", f"{tmp_path / 'd'}=0", f"{tmp_path / 'd'}=1", "--onto", made.target, "--out", tmp_path / "out"
        ).status
        == 0
    )
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.expected(made))
    for entry in json.loads((tmp_path / "out" / "tuneport.json").read_text())["tensors"]:
        target = made.tensors["target"][entry["name"]].double()
        assert entry["norms"]["target"] == pytest.approx(float(target.norm()), rel=1e-5)


def test_a_diff_vector_needs_neither_parent(cli: Cli, tmp_path: Path) -> None:
    made = differing(tmp_path)
    one, _ = run_both(cli, made, tmp_path)
    shutil.rmtree(made.base)
    shutil.rmtree(made.tuned)
    assert cli("apply", tmp_path / "delta", "--onto", made.target, "--out", tmp_path / "later").status == 0
    assert_same_model(one, tmp_path / "later")


def test_a_diff_vector_names_its_parents_by_digest_of_every_tensor_and_is_verified(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    run_both(cli, made, tmp_path)
    manifest = json.loads((tmp_path / "delta" / "tuneport.json").read_text())
    assert [entry["role"] for entry in manifest["inputs"]] == ["base", "tuned"]
    assert all(set(entry["tensors"]) == set(made.tensors["base"]) for entry in manifest["inputs"])
    parents = ["--base", str(made.base), "--tuned", str(made.tuned)]
    assert cli("verify", tmp_path / "delta", *parents, "--full").status == 0
    assert cli("verify", tmp_path / "delta", "--base", made.tuned, "--tuned", made.base, "--full").status == 1
    assert cli("inspect", tmp_path / "delta", "--json").json()["kind"] == "diff vector"


def test_differences_are_stored_in_the_working_dtype(cli: Cli, tmp_path: Path) -> None:
    base = {**tiny.llama(1), "wide": torch.ones(2, dtype=torch.float64)}
    made = tiny.trio(tmp_path, base=base)
    given = ("--base", made.base, "--tuned", made.tuned, "--out", tmp_path / "d", "--encoding", "float32")
    assert cli("diff", *given).status == 0
    found = tiny.read_weights(tmp_path / "d")
    for name, value in base.items():
        work = torch.float64 if name == "wide" else torch.float32
        assert tiny.bits(found[name]) == tiny.bits(made.tensors["tuned"][name].to(work) - value.to(work))


def test_two_vectors_that_both_change_the_vocabulary_are_refused(cli: Cli, tmp_path: Path) -> None:
    made = differing(tmp_path)
    run_both(cli, made, tmp_path)
    shutil.copytree(tmp_path / "delta", tmp_path / "delta2")
    ran = cli("apply", tmp_path / "delta", tmp_path / "delta2", "--onto", made.target, "--out", tmp_path / "both")
    assert ran.status == 1 and "delta2" in ran.err


@pytest.mark.parametrize("scale", ["nan", "inf", "x", "1e999", ""])
def test_a_scale_that_is_no_number_is_wrong_usage(cli: Cli, tmp_path: Path, scale: str) -> None:
    made = tiny.trio(tmp_path)
    cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", tmp_path / "d")
    ran = cli("apply", f"{tmp_path / 'd'}={scale}", "--onto", made.target, "--out", tmp_path / "out")
    assert ran.status == 2 and ran.err.count("tuneport: ") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_checkpoint_is_no_diff_vector_and_a_diff_vector_no_checkpoint(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    run_both(cli, made, tmp_path)
    for wrong in (made.base, tmp_path / "at-once", tmp_path / "nowhere"):
        ran = cli("apply", wrong, "--onto", made.target, "--out", tmp_path / "out")
        assert ran.status == 1, wrong
    ran = cli(
        "transfer",
        "--base",
        tmp_path / "delta",
        "--tuned",
        made.tuned,
        "--onto",
        made.target,
        "--out",
        tmp_path / "out",
    )
    assert ran.status == 1 and "tuneport apply" in ran.err


@pytest.mark.parametrize(
    "lie", ["base shape", "base dtype", "unknown dtype", "stored shape", "stored dtype", "raw ids", "rows", "stored"]
)
def test_a_vector_whose_manifest_and_tensors_tell_different_stories_is_refused(
    cli: Cli, tmp_path: Path, lie: str
) -> None:
    made = differing(tmp_path)
    run_both(cli, made, tmp_path)
    delta, manifest = tmp_path / "delta", json.loads((tmp_path / "delta" / "tuneport.json").read_text())
    entry: dict[str, Any] = manifest["diff"]["model.norm.weight"]
    stored = tiny.read_weights(delta)
    match lie:
        case "base shape":
            entry["base"]["shape"] = [4, 2]
        case "base dtype":
            entry["base"]["dtype"] = "I32"
        case "unknown dtype":
            entry["base"]["dtype"] = "F7"
        case "stored shape":  # shorter than the target's tensor: reading on would read the next tensor
            stored["model.norm.weight"] = stored["model.norm.weight"][:4].clone()
        case "stored dtype":
            stored["model.norm.weight"] = stored["model.norm.weight"].half()
        case "raw ids":
            manifest["diff"][EMBED]["raw_ids"] = [-3]
        case "rows":  # as an adapter leaves a matrix that it does not train: nothing is stored that could contradict
            claimed = {"dtype": "BF16", "shape": [2**30, 8]}
            manifest["diff"][EMBED] = {"stored": False, "by_token": True, "base": claimed, "tuned": claimed}
            del stored[EMBED], stored[f"raw:{EMBED}"]
        case _:
            entry["stored"] = False
    (delta / "tuneport.json").write_text(json.dumps(manifest))
    save_file(stored, delta / "diff.safetensors")
    ran = cli("apply", delta, "--onto", made.target, "--out", tmp_path / "out")
    assert ran.status == 1, ran.out
    assert "Traceback" not in ran.err and not (tmp_path / "out").exists()


def test_processor_files_and_modules_go_the_same_way_in_two_steps_as_in_one(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path / "models")
    for place, mode in zip(made.paths, ("mean", "cls", "mean"), strict=True):
        (place / "preprocessor_config.json").write_text(json.dumps({"size": 8 if place == made.base else 16}))
        (place / "processor_config.json").write_text(json.dumps({"patch_size": 2, "of": place.name}))
        modules = [
            {"path": path, "type": f"x.{name}"} for path, name in (("", "Transformer"), ("1_Pooling", "Pooling"))
        ]
        (place / "modules.json").write_text(json.dumps(modules))
        (place / "x.py").write_text("")
        (place / "1_Pooling").mkdir()
        (place / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
    once, vector, twice, again = (tmp_path / name for name in ("once", "vector", "twice", "again"))
    assert cli(*made.flags(once)).status == 0
    assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", vector).status == 0
    assert cli("apply", vector, "--onto", made.target, "--out", twice).status == 0
    own = ("README.md", "tuneport.json")
    found = {name: digest for name, digest in tiny.contents(once).items() if name not in own}
    assert found == {name: digest for name, digest in tiny.contents(twice).items() if name not in own}
    assert {"preprocessor_config.json", "processor_config.json", "modules.json", "1_Pooling/config.json"} < set(found)
    assert json.loads((once / "processor_config.json").read_text())["of"] == "target"
    assert json.loads((once / "1_Pooling" / "config.json").read_text()) == {"pooling_mode": "cls"}
    assert cli("verify", once, "--base", made.base, "--tuned", made.tuned, "--onto", made.target, "--full").status == 0
    assert cli("verify", twice, "--diff", vector, "--onto", made.target, "--full").status == 0
    described = cli("inspect", once, "--json").json()
    assert described["processor_files"] == ["preprocessor_config.json", "processor_config.json"]
    assert described["modules"] == ["Transformer", "Pooling"]
    # The merge of one vector is the target of the next.
    assert cli("apply", vector, f"{vector}=0.5", "--onto", made.target, "--out", again).status == 0
    assert json.loads((again / "1_Pooling" / "config.json").read_text()) == {"pooling_mode": "cls"}
    (once / "1_Pooling" / "config.json").write_text("{}")
    assert "1_Pooling/config.json was changed" in cli("verify", once).err


def test_a_template_of_the_vectors_is_not_called_the_targets(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    (made.tuned / "chat_template.jinja").write_text("{{ messages }}")
    assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", tmp_path / "one").status == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    ran = cli("apply", tmp_path / "one", tmp_path / "two", "--onto", made.target, "--out", tmp_path / "out")
    assert ran.status == 0, ran.err
    told = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    assert told["behaviour"]["template"] == ["tuned"]
