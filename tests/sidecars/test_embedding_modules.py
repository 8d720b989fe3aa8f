"""What sentence-transformers keeps beside a model: merged three ways, whichever version wrote it down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.merged_sidecars import decided, merge, model, write

from tuneport.checkpoint.small_files import SidecarFolder, is_sidecar
from tuneport.errors import CheckpointError
from tuneport.sidecars.merge import Sidecars

OLD, NEW = "sentence_transformers.models", "sentence_transformers.sentence_transformer.modules.pooling"
FILES = {
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
}


def embedding(mode: str = "mean", *more: tuple[str, str, dict[str, Any] | None], length: int = 256) -> dict[str, Any]:
    """The files of sentence-transformers 2: the transformer, pooling, and more modules (folder, class, config)."""
    lines = [("", "Transformer", None), ("1_Pooling", "Pooling", None), *more]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": kind if "." in kind else f"{OLD}.{kind}"}
        for place, (path, kind, _) in enumerate(lines)
    ]
    names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    flags = {f"pooling_mode_{spelled}": name == mode for name, spelled in names.items()}
    return {
        "modules.json": json.dumps(modules),
        "1_Pooling/config.json": {"word_embedding_dimension": 64, **flags},
        "sentence_bert_config.json": {"max_seq_length": length, "do_lower_case": False},
        "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.2.2"}},
        **{f"{path}/config.json": config for path, _, config in more if config is not None},
    }


def saved_again(mode: str = "mean", prompts: dict[str, str] | None = None) -> dict[str, Any]:
    """The same as sentence-transformers 6.2 writes it."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{NEW}.Pooling"},
    ]
    return {
        "modules.json": json.dumps(modules, indent=2),
        "1_Pooling/config.json": {"embedding_dimension": 64, "pooling_mode": mode, "include_prompt": True},
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "module_output_name": "token_embeddings",
        },
        "config_sentence_transformers.json": {
            "__version__": {"sentence_transformers": "6.2.0"},
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": "", **(prompts or {})},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def merged(root: Path, base: Any, tuned: Any, target: Any, **sidecar: str) -> Sidecars:
    sides = {name.replace("__", "."): side for name, side in sidecar.items()}
    return merge(root, {**model(), **base}, {**model(), **tuned}, {**model(), **target}, sidecar=sides)


def sides_of(sidecars: Sidecars) -> dict[str, str]:
    """Whose each file is."""
    return {name: path.parts[-2 - name.count("/")] for name, path in sidecars.files.items() if name in FILES}  # type: ignore[union-attr]


PLAIN: dict[str, Any] = {}
MEAN, CLS = embedding("mean"), embedding("cls")


@pytest.mark.parametrize(
    ("base", "tuned", "target", "sides"),
    [
        pytest.param(MEAN, MEAN, MEAN, "target", id="the same"),
        pytest.param(MEAN, saved_again("mean"), MEAN, "target", id="saved again"),
        pytest.param(MEAN, MEAN, CLS, "target", id="the new version changed it"),
        pytest.param(MEAN, PLAIN, MEAN, "target", id="the fine-tuning was saved without"),
        pytest.param(PLAIN, PLAIN, MEAN, "target", id="only the target"),
        pytest.param(PLAIN, CLS, PLAIN, "tuned", id="only the fine-tuning"),
        pytest.param(CLS, CLS, PLAIN, "tuned", id="the target was saved without"),
        pytest.param(PLAIN, PLAIN, PLAIN, None, id="none"),
        pytest.param(MEAN, PLAIN, PLAIN, None, id="only the base"),
    ],
)
def test_all_files_of_an_embedding_come_from_one_side(
    base: Any, tuned: Any, target: Any, sides: str | None, tmp_path: Path
) -> None:
    sidecars = merged(tmp_path, base, tuned, target)
    assert sides_of(sidecars) == ({} if sides is None else dict.fromkeys(FILES, sides))
    assert not sidecars.warnings and not sidecars.refusals


@pytest.mark.parametrize("tuned", [CLS, saved_again("cls")], ids=["old", "new"])
def test_the_pooling_that_the_fine_tuning_changed_comes_along_with_its_modules(tuned: Any, tmp_path: Path) -> None:
    sidecars = merged(tmp_path, MEAN, tuned, MEAN)
    assert {name for name, side in sides_of(sidecars).items() if side == "tuned"} == {
        "modules.json",
        "1_Pooling/config.json",
    }
    assert decided(sidecars, "modules.json") == "tuned" and not sidecars.warnings
    assert {one.field for one in sidecars.differences} == {"modules.json"}


def test_prompts_and_length_are_merged_apart_from_the_pooling(tmp_path: Path) -> None:
    tuned = {**saved_again("mean", {"query": "query: "}), "sentence_bert_config.json": {"max_seq_length": 128}}
    sides = sides_of(merged(tmp_path, MEAN, tuned, MEAN))
    assert sides["config_sentence_transformers.json"] == sides["sentence_bert_config.json"] == "tuned"
    assert sides["modules.json"] == "target"


def test_where_all_three_differ_the_tuned_models_comes_along_with_a_warning(tmp_path: Path) -> None:
    sidecars = merged(tmp_path, MEAN, CLS, embedding("max"))
    assert sides_of(sidecars)["modules.json"] == "tuned"
    (warning,) = sidecars.warnings
    assert "modules.json: base, tuned and target all differ" in warning
    chosen = merged(tmp_path / "2", MEAN, CLS, embedding("max"), modules__json="target")
    assert sides_of(chosen)["1_Pooling/config.json"] == "target" and not chosen.warnings
    (refusal,) = merged(tmp_path / "3", MEAN, CLS, PLAIN, modules__json="target").refusals
    assert "the target model has no modules.json" in refusal


def test_a_module_with_weights_of_its_own_is_named_and_its_config_stays_so_that_nobody_passes_it_over(
    tmp_path: Path,
) -> None:
    dense = embedding(
        "mean", ("2_Dense", "Dense", {"in_features": 64, "out_features": 8}), ("3_Normalize", "Normalize", None)
    )
    dense["2_Dense/model.safetensors"] = "weights"
    sidecars = merged(tmp_path, MEAN, dense, MEAN)
    (warning,) = sidecars.warnings
    assert "2_Dense (Dense), which has its own weights" in warning and "Copy 2_Dense from the tuned model" in warning
    assert {name for name in sidecars.files if name.startswith("2_")} == {"2_Dense/config.json"}


def test_code_that_modules_name_is_not_taken_over(tmp_path: Path) -> None:
    tuned = embedding("mean", ("2_Gate", "gates.Gate", {"x": 1}))
    said = merged(tmp_path, MEAN, {**tuned, "gates.py": "1/0"}, MEAN)
    assert any("gates.Gate, code that the target lacks" in warning for warning in said.warnings)
    assert "gates.py" not in said.files
    there = merged(tmp_path / "2", MEAN, tuned, {**MEAN, "gates.py": ""})
    assert not any("code" in warning for warning in there.warnings) and "gates.py" in there.files


def test_ids_of_tokens_in_a_modules_config_are_told_where_the_tokenizers_differ(tmp_path: Path) -> None:
    tuned = {
        **model(["<unk>", "<s>", "</s>", "b", "a"]),
        **embedding("mean", ("2_LogitScore", "LogitScore", {"true_token_id": 3})),
    }
    sidecars = merge(tmp_path, {**model(), **MEAN}, tuned, {**model(), **MEAN}, tokenizers=True)
    assert any("2_LogitScore/config.json has `true_token_id`" in warning for warning in sidecars.warnings)


@pytest.mark.parametrize("path", ["..", "../1_Pooling", "/etc", "1_Pooling/..", "models/1_Pooling", ".hidden", "1_A\n"])
def test_a_path_in_modules_is_not_followed_out_of_its_shape(path: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"secret": 1}')
    tuned = embedding("mean", (path, "Dense", None))
    sidecars = merged(tmp_path, MEAN, tuned, MEAN)
    assert set(sidecars.files) - set(model()) == FILES
    assert any("has its own weights" in warning for warning in sidecars.warnings)
    assert not is_sidecar(f"{path}/config.json")


def test_a_linked_folder_is_not_looked_into(tmp_path: Path) -> None:
    folder = write(tmp_path / "target", {**model(), **MEAN})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    (folder.path / "2_Linked").symlink_to(tmp_path / "elsewhere")
    assert "1_Pooling/config.json" in folder.names() and "2_Linked/config.json" not in folder.names()


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"path": 1, "type": ""}]', '[{"path": ""}]', "[" * 100_000])
def test_damaged_modules_end_in_words(content: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tuned the-tuned: modules\.json"):
        merged(tmp_path, PLAIN, {"modules.json": content}, PLAIN)


def test_an_adapters_folder_has_its_own_and_else_those_of_its_base(tmp_path: Path) -> None:
    base, adapter = write(tmp_path / "base", {**model(), **MEAN}), tmp_path / "adapter"
    write(adapter, {"1_Pooling/config.json": {}})
    folder = SidecarFolder("tuned", "a", adapter, base.path)
    assert folder.place("1_Pooling/config.json").parent.parent == adapter
    assert folder.place("modules.json").parent == base.path and "modules.json" in folder.names()
