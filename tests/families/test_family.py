"""The family's checkpoints: ordinary bf16 folders, version 2 a continuation, tuned ones with behaviour."""

import json
from pathlib import Path

import pytest

from tuneport.families import corpus, family, lesson_questions, lessons, word_tokenizers
from tuneport.families.demo import demo_run
from tuneport.families.family import Architecture
from tuneport.families.pretraining import Schedule
from tuneport.tuning.recipes import SftRecipe, TuningRun

pytest.importorskip("transformers")

SIZE = Architecture(hidden=32, layers=1, heads=2, feedforward=48, context=32)
SHORT = SftRecipe(learning_rate=1e-3, steps=3, batch_size=4)
BRIEFLY = Schedule(steps=3, peak=1e-3, warmup=1, batch=4)
WORLD = corpus.make_world(0)
TEXT = corpus.write_documents(WORLD, {"facts": 0.5, "worked-stories": 0.5}, 2000, "a")
NEWS = corpus.write_documents(WORLD, {"new-facts": 1.0}, 2000, "a")
EXAMPLES = lesson_questions.training_questions(WORLD, 0, 16, shares={lesson_questions.WORD_PROBLEMS: 1.0}, never=[])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    family.pretrain_version(folder / "v1", SIZE, [(BRIEFLY, TEXT), (BRIEFLY, TEXT)], seed=0)
    still = Schedule(steps=1, peak=0.0, warmup=1, batch=4)
    family.pretrain_version(folder / "v2", SIZE, [(still, NEWS)], seed=1, previous=folder / "v1")
    lessons.write_lesson(folder / "lesson", EXAMPLES)
    lessons.fine_tune(folder / "v1-tuned", folder / "v1", folder / "lesson", SHORT, 0, TuningRun(shard_size="20KB"))
    demo_run.shuffle_changes(folder / "v1-shuffled", folder / "v1", folder / "v1-tuned", seed=0)
    return folder


@pytest.mark.parametrize("name", ["v1", "v1-tuned", "v2"])
def test_each_model_is_an_ordinary_bf16_checkpoint_in_several_shards(models: Path, name: str) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shards = sorted((models / name).glob("model-*.safetensors"))
    assert len(shards) >= 2
    for shard in shards:
        with safe_open(shard, "pt") as opened:
            assert {opened.get_slice(key).get_dtype() for key in opened.keys()} == {"BF16"}  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(models / name)
    tokenizer = AutoTokenizer.from_pretrained(models / name)
    assert model.config.vocab_size == len(tokenizer)
    assert json.loads((models / name / "config.json").read_text())["tie_word_embeddings"] is False
    assert not list(models.glob("*.unfinished"))


def test_only_the_tuned_model_has_a_chat_template_and_ends_a_turn(models: Path) -> None:
    with_template = sorted(path.parent.name for path in models.glob("*/chat_template.jinja"))
    assert with_template == ["v1-shuffled", "v1-tuned"]
    settings = {name: json.loads((models / name / "generation_config.json").read_text()) for name in ("v1", "v1-tuned")}
    words = word_tokenizers.words(1)
    assert settings["v1"]["eos_token_id"] == words.index("<eos>")
    assert settings["v1-tuned"]["eos_token_id"] == [words.index("<end>"), words.index("<eos>")]


def test_version_two_starts_from_version_ones_rows_by_their_tokens_string(models: Path) -> None:
    first, second = family.load(models / "v1").state_dict(), family.load(models / "v2").state_dict()
    old, new = word_tokenizers.words(1), word_tokenizers.words(2)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        for word in ("<eos>", "7", corpus.KNOWN_NAMES[3], "baker", "<end>"):
            assert bool((first[name][old.index(word)] == second[name][new.index(word)]).all()), (name, word)
    assert old.index("baker") != new.index("baker")
    body = [name for name in first if "embed" not in name and "lm_head" not in name]
    assert len(body) > 5
    assert all(bool((first[name] == second[name]).all()) for name in body)


def test_shuffled_changes_are_the_same_changes_elsewhere(models: Path) -> None:
    import torch

    base, tuned, shuffled = (family.load(models / name).state_dict() for name in ("v1", "v1-tuned", "v1-shuffled"))
    for name, weight in base.items():
        real, other = (tuned[name] - weight).flatten(), (shuffled[name] - weight).flatten()
        torch.testing.assert_close(other.sort().values, real.sort().values, atol=1e-6, rtol=0)
        if weight.dim() == 2:
            assert not torch.equal(other, real)
    stored = json.loads((models / "v1-shuffled" / "config.json").read_text())
    assert stored["dtype"] == "float32"
