"""Every field of a manifest is proved by --full, or named as one of that run alone."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.diffvector.run import apply, diff, transfer
from tuneport.engine.manifest_comparison import OF_THAT_RUN, differences
from tuneport.errors import VerificationError
from tuneport.verification import verify

pytestmark = pytest.mark.slow

Path_ = tuple[str | int, ...]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    """Tokenizers that differ, settings that all three have otherwise."""
    where = tmp_path_factory.mktemp("models")
    made = tiny.trio(where, shards=(1, 2, 1))
    base, tuned, target = (made.tensors[name] for name in ("base", "tuned", "target"))
    ends = [json.dumps({"eos_token_id": id}) for id in (1, 1, 2)]
    tiny.write_model(made.base, base, settings=tiny.config(), generation_config__json=ends[0])
    tiny.write_model(made.tuned, tuned, settings=tiny.config(bos_token_id=3), generation_config__json=ends[1])
    words = [*tiny.WORDS[:-2], "other", "else"]
    tiny.write_model(
        made.target, target, words=words, settings=tiny.config(rms_norm_eps=1e-6), generation_config__json=ends[2]
    )
    return made


@pytest.fixture(scope="module")
def outputs(models: tiny.Trio, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Each operation's output, and the parents that prove it."""
    where = tmp_path_factory.mktemp("outputs")
    transfer(*models.paths, where / "transfer", scale=0.5, shard_size="600", digest_inputs=True)
    diff(models.base, models.tuned, where / "diff")
    apply([(where / "diff", 0.5)], models.target, where / "apply")
    return {
        "transfer": (where / "transfer", dict(zip(("base", "tuned", "onto"), models.paths, strict=True))),
        "diff": (where / "diff", {"base": models.base, "tuned": models.tuned}),
        "apply": (where / "apply", {"onto": models.target, "diffs": [where / "diff"]}),
    }


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not entries or not value:
        yield path, value
    else:
        for name, inner in entries:
            yield from leaves(inner, (*path, name))


def another(value: Any) -> Any:
    """Of the same kind, and not the same."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * (1 + 1e-9) if value else 1e-9
        case str():
            return f"{value[:-1]}{'x' if value[-1:] != 'x' else 'y'}"
        case None:
            return 0.5
    return ["x"] if isinstance(value, list) else {"x": 1}


def is_listed(path: Path_) -> bool:
    field = "".join("[]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    patterns = [re.escape(each).replace(r"\*", ".+") for each in OF_THAT_RUN]
    return any(re.match(rf"{pattern}([.\[]|$)", field) for pattern in patterns)


# Of an operation that the others share most fields with every fourth leaf is changed.
@pytest.mark.parametrize("operation,step", [("transfer", 1), ("diff", 4), ("apply", 4)])
def test_every_leaf_that_is_changed_is_found_or_listed(
    outputs: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path, operation: str, step: int
) -> None:
    made, parents = outputs[operation]
    out = Path(shutil.copytree(made, tmp_path / "out"))
    proof = verify(out, **parents, full=True)
    others = {"adapted", *([] if operation == "apply" else ["lineage"])}  # which only other operations have
    own = tuple(field for field in OF_THAT_RUN if field not in others)
    assert proof.of_that_run == own and "options without an effect" in str(proof)
    text = (out / "tuneport.json").read_text()
    every = list(leaves(json.loads(text)))
    assert len(every) > 150
    unseen = []
    for path, value in every[::step]:
        manifest = json.loads(text)
        holder = manifest
        for part in path[:-1]:
            holder = holder[part]
        holder[path[-1]] = another(value)
        (out / "tuneport.json").write_text(json.dumps(manifest))
        try:
            verify(out, **parents, full=True)
        except VerificationError:
            continue
        except Exception as error:  # words of another kind tell as well; no traceback is meant
            assert type(error).__module__ == "tuneport.errors", (path, error)
            continue
        unseen.append(path)
    assert unseen and all(map(is_listed, unseen)), [path for path in unseen if not is_listed(path)]


def test_names_and_places_of_the_parents_are_not_what_is_proved(
    models: tiny.Trio, outputs: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    moved = [Path(shutil.copytree(path, tmp_path / f"elsewhere-{place}")) for place, path in enumerate(models.paths)]
    for path in moved:
        for file in path.iterdir():
            os.utime(file, ns=(1, 1))
    assert verify(outputs["transfer"][0], *moved, full=True).kind == "full"


def test_the_parts_that_three_models_cannot_prove_of_an_apply_are_named(
    cli: Cli, models: tiny.Trio, outputs: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    flags = models.flags(Path("unused"))[1:7]
    ran = cli("verify", outputs["apply"][0], *flags, "--full", "--json")
    assert ran.status == 0 and {"measures", "tensors[].norms"} <= set(ran.json()["of_that_run"])


def test_a_header_that_says_more_is_found_with_parents(
    outputs: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    made, parents = outputs["transfer"]
    out = Path(shutil.copytree(made, tmp_path / "out"))
    shard = sorted(out.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes().replace(b'"format":"pt"', b'"format":"tf"', 1))
    with pytest.raises(VerificationError, match=f"these parents would give a different header for {shard.name}"):
        verify(out, **parents)


def test_figures_of_another_machine_may_differ_a_little_and_counts_may_not() -> None:
    ours = {"environment": {"kernel": "compiled", "numpy": "2", "system": "x"}}
    base = {"inputs": [], "plan": {"inputs": {}, "version": "1"}}

    def told(said: float, found: float, kernel: str) -> list[str]:
        environment = {**ours["environment"], "kernel": kernel, "tuneport": "1"}
        return differences(
            {**base, "environment": environment, "measures": {"a": said}}, {**base, **ours, "measures": {"a": found}}
        )

    assert told(1.0, 1.0 + 1e-7, "numpy") == [] == told(1.0, 1.0 + 1e-15, "compiled")
    assert (
        told(1.0, 1.0 + 1e-7, "compiled")
        and told(1.0, 1.1, "numpy")
        and told(3, 4, "numpy")
        and told(1.0, 0.0, "numpy")
    )
