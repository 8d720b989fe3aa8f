"""Every tensor of base, tuned and target has a fate; what does not fit is refused, all at once, with the flag that decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli, Ran

NEW = torch.ones(3, dtype=torch.bfloat16)


def parts(**changes: dict[str, torch.Tensor | None]) -> tuple[tiny.Tensors, tiny.Tensors, tiny.Tensors]:
    """Base, tuned and target with tensors added, replaced, or taken out (None)."""
    base = tiny.llama(1)
    made = {"base": base, "tuned": tiny.moved(base, 2), "target": tiny.moved(base, 3)}
    for role, tensors in changes.items():
        for name, value in tensors.items():
            if value is None:
                made[role].pop(name)
            else:
                made[role][name] = value
    return made["base"], made["tuned"], made["target"]


def run(
    cli: Cli, where: Path, made: tuple[tiny.Tensors, tiny.Tensors, tiny.Tensors], *flags: str, **options: Any
) -> Ran:
    return cli(*tiny.trio(where / "in", *made, **options).flags(where / "out", *flags))


def actions(where: Path) -> dict[str, str]:
    return {
        entry["name"]: entry["fate"] for entry in json.loads((where / "out" / "tuneport.json").read_text())["tensors"]
    }


def refused(ran: Ran, where: Path, *words: str) -> None:
    assert ran.status == 1, ran.out
    for word in words:
        assert word in ran.err, ran.err
    assert {path.name for path in where.iterdir()} == {"in"}, "not a byte was written"


def test_in_all_three_with_one_shape_is_transferred(cli: Cli, tmp_path: Path) -> None:
    made = parts(base={"x": NEW}, tuned={"x": 2 * NEW}, target={"x": 5 * NEW})
    assert run(cli, tmp_path, made).status == 0
    assert set(actions(tmp_path).values()) == {"transferred"}
    assert tiny.read_weights(tmp_path / "out")["x"].tolist() == [6, 6, 6]


def test_another_shape_is_refused_with_all_three_shapes(cli: Cli, tmp_path: Path) -> None:
    made = parts(target={"model.norm.weight": torch.ones(9).bfloat16()})
    refused(
        run(cli, tmp_path, made),
        tmp_path,
        "`model.norm.weight` is 8 in the base, 8 in the tuned model and 9 in the target",
    )


def test_another_shape_of_base_and_tuned_is_refused(cli: Cli, tmp_path: Path) -> None:
    made = parts(tuned={"model.norm.weight": torch.ones(9).bfloat16()})
    refused(run(cli, tmp_path, made), tmp_path, "`model.norm.weight`", "8 in the base and 9 in the tuned model")


def test_only_in_the_target_is_refused_unless_a_rule_of_zero_copies_it(cli: Cli, tmp_path: Path) -> None:
    made = parts(target={"x.weight": NEW})
    refused(run(cli, tmp_path, made), tmp_path, "`x.weight`", r"--rule '^x\.weight$=0'")
    refused(run(cli, tmp_path, made, "--rule", "^x=0.5"), tmp_path, "`x.weight`")
    assert run(cli, tmp_path, made, "--rule", r"^x\.weight$=0").status == 0
    assert actions(tmp_path)["x.weight"] == "copied"
    assert tiny.read_weights(tmp_path / "out")["x.weight"].tolist() == NEW.tolist()


def test_in_base_and_tuned_only_is_refused_unless_dropped_and_the_manifest_lists_its_norm(
    cli: Cli, tmp_path: Path
) -> None:
    made = parts(base={"x.weight": NEW}, tuned={"x.weight": 3 * NEW})
    refused(run(cli, tmp_path, made), tmp_path, "`x.weight`", r"--drop '^x\.weight$'")
    assert run(cli, tmp_path, made, "--drop", r"^x\.weight$").status == 0
    entry = next(
        e for e in json.loads((tmp_path / "out" / "tuneport.json").read_text())["tensors"] if e["name"] == "x.weight"
    )
    assert entry["fate"] == "dropped" and entry["norms"]["diff"] == pytest.approx(12**0.5)
    assert "x.weight" not in tiny.read_weights(tmp_path / "out")


@pytest.mark.parametrize("also_in_target", [False, True])
def test_only_in_the_tuned_model_is_refused_unless_dropped(cli: Cli, tmp_path: Path, also_in_target: bool) -> None:
    made = parts(tuned={"score.weight": NEW}, target={"score.weight": 2 * NEW} if also_in_target else {})
    refused(run(cli, tmp_path, made), tmp_path, "`score.weight`", "in the tuned model", r"--drop '^score\.weight$'")
    assert run(cli, tmp_path, made, "--drop", "^score").status == 0
    found = tiny.read_weights(tmp_path / "out")
    if also_in_target:
        assert found["score.weight"].tolist() == [2, 2, 2]
        assert actions(tmp_path)["score.weight"] == "copied"
    else:
        assert "score.weight" not in found


def test_everything_that_does_not_fit_is_told_at_once(cli: Cli, tmp_path: Path) -> None:
    made = parts(
        base={"a.weight": NEW, "ids": torch.arange(2)},
        tuned={"a.weight": NEW, "b.weight": NEW, "ids": torch.arange(2, dtype=torch.int32)},
        target={"c.weight": NEW, "model.norm.weight": torch.ones(9).bfloat16(), "ids": torch.arange(2)},
    )
    refused(
        run(cli, tmp_path, made), tmp_path, "`a.weight`", "`b.weight`", "`c.weight`", "`model.norm.weight`", "`ids`"
    )


def test_a_dry_run_tells_the_same_and_exits_1(cli: Cli, tmp_path: Path) -> None:
    made = parts(tuned={"b.weight": NEW}, target={"c.weight": NEW})
    ran = run(cli, tmp_path, made, "--dry-run", "--json")
    assert ran.status == 1
    told = ran.json()
    assert any("`b.weight`" in reason for reason in told["refused"]) and any(
        "`c.weight`" in reason for reason in told["refused"]
    )
    assert told["error"]["message"]
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_a_float_where_the_others_have_integers_is_refused(cli: Cli, tmp_path: Path) -> None:
    made = parts(base={"x": torch.arange(3)}, tuned={"x": torch.arange(3)}, target={"x": NEW})
    refused(run(cli, tmp_path, made), tmp_path, "`x` is I64 in the base and BF16 in the target")


def test_a_pattern_that_finds_nothing_is_a_slip_and_wrong_usage(cli: Cli, tmp_path: Path) -> None:
    for flags in (("--rule", "nothing=0"), ("--drop", "nothing")):
        ran = run(cli, tmp_path, parts(), *flags)
        assert ran.status == 2 and "nothing" in ran.err


# ---- whole models that do not belong together


def test_other_architectures_end_in_one_message_that_names_both(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    (made.target / "config.json").write_text(
        json.dumps(tiny.config(model_type="qwen3", architectures=["Qwen3ForCausalLM"]))
    )
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 1
    assert "`llama`" in ran.err and "`qwen3`" in ran.err and len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("side", ["tuned", "target"])
def test_models_that_share_too_little_end_in_one_message(cli: Cli, tmp_path: Path, side: str) -> None:
    made = list(parts())
    place = ["base", "tuned", "target"].index(side)
    made[place] = {f"other.{name}" if "lm_head" not in name else name: value for name, value in made[place].items()}
    ran = run(cli, tmp_path, (made[0], made[1], made[2]))
    assert ran.status == 1
    assert "of the parameters" in ran.err and ran.err.count("weight`") == 2, "one name in each spelling"
    assert "--rename" in ran.err


@pytest.mark.parametrize(
    "tensors",
    [
        {"model.layers.0.mlp.up_proj.qweight": torch.ones(4, dtype=torch.int32)},
        {"model.layers.0.mlp.up_proj.weight": torch.ones(24, 8).to(torch.float8_e4m3fn)},
        {"model.layers.0.mlp.up_proj.weight_scale": torch.ones(1)},
        {"model.layers.0.mlp.up_proj.weight.absmax": torch.ones(1)},
    ],
)
@pytest.mark.parametrize("role", ["base", "tuned", "target"])
def test_quantised_weights_are_refused_in_words(cli: Cli, tmp_path: Path, role: str, tensors: tiny.Tensors) -> None:
    refused(run(cli, tmp_path, parts(**{role: tensors})), tmp_path, "quantised", role)


def test_a_config_that_says_quantised_is_believed_of_packed_weights_alone(cli: Cli, tmp_path: Path) -> None:
    config = json.dumps(tiny.config(quantization_config={"quant_method": "gptq"}))
    packed = {**tiny.llama(1), "model.layers.0.mlp.up_proj.weight": torch.zeros(24, 2, dtype=torch.int32)}
    made = tiny.trio(tmp_path / "packed" / "in", tuned=packed)
    (made.tuned / "config.json").write_text(config)
    refused(cli(*made.flags(tmp_path / "packed" / "out")), tmp_path / "packed", "gptq", "tuned", "up_proj")
    made = tiny.trio(tmp_path / "in")
    (made.tuned / "config.json").write_text(config)
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 0 and "tuned has quantization_config (gptq)" in ran.err
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_complex_weights_are_refused(cli: Cli, tmp_path: Path) -> None:
    z = torch.ones(2, dtype=torch.complex64)
    refused(run(cli, tmp_path, parts(base={"z": z}, tuned={"z": z}, target={"z": z})), tmp_path, "complex")


# ---- tied heads


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tied(tensors: tiny.Tensors, store: str) -> tiny.Tensors:
    """A tied model, as it may be stored: without its head, with it twice, or under the head's name alone."""
    found = dict(tensors)
    if store == "head":
        found[HEAD] = found.pop(EMBED)
    elif store == "both":
        found[HEAD] = found[EMBED].clone()
    else:
        found.pop(HEAD)
    return found


@pytest.mark.parametrize("base", ["embedding", "both", "head"])
@pytest.mark.parametrize("tuned", ["embedding", "both", "head"])
@pytest.mark.parametrize("target", ["embedding", "both", "head"])
def test_a_tied_matrix_counts_once_whichever_checkpoint_stores_it_how(
    cli: Cli, tmp_path: Path, base: str, tuned: str, target: str
) -> None:
    plain = parts()
    stored = [tied(tensors, how) for tensors, how in zip(plain, (base, tuned, target), strict=True)]
    made = tiny.trio(tmp_path, *stored, settings=tiny.config(tie_word_embeddings=True))
    ran = cli(*made.flags(tmp_path / "out", "--json"))
    assert ran.status == 0, ran.err
    found = tiny.read_weights(tmp_path / "out")
    wanted = {
        name: tiny.formula(plain[0][name], plain[1][name], value) for name, value in plain[2].items() if name != HEAD
    }
    if target == "head":
        wanted[HEAD] = wanted.pop(EMBED)
    tiny.assert_same(found, wanted)
    once = sum(
        float((plain[1][name].float() - plain[0][name].float()).double().norm() ** 2)
        for name in plain[2]
        if name != HEAD
    )
    assert ran.json()["measures"]["diff_norm"] == pytest.approx(once**0.5, rel=1e-5), "the tied matrix is measured once"


def test_an_untied_head_keeps_its_own_difference(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    assert cli(*made.flags(tmp_path / "out")).status == 0
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.expected(made))
    assert not torch.equal(tiny.expected(made)[HEAD], tiny.expected(made)[EMBED])
