"""Processor files are the target's; what the fine-tuning changed in them is told, wherever transformers wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.merged_sidecars import decided, json_of, merge, model

from tuneport.errors import FLAGS
from tuneport.sidecars.merge import Sidecars

IMAGE = {"image_processor_type": "CLIPImageProcessor", "size": 224, "image_mean": [0.5, 0.5, 0.5], "resample": 2}
PRE, PROCESSOR, VIDEO = "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"
APART = {PRE: IMAGE, PROCESSOR: {"processor_class": "LlavaProcessor", "patch_size": 14}, VIDEO: {"fps": 2}}
# The same, as transformers 5 saves it again: one file, numbers of edges, more fields.
JOINED = {
    PROCESSOR: {
        "processor_class": "LlavaProcessor",
        "patch_size": 14,
        "num_additional_image_tokens": 0,
        "image_processor": {**IMAGE, "size": {"shortest_edge": 224}, "image_processor_type": "CLIPImageProcessorFast"},
        "video_processor": {"fps": 2, "do_sample_frames": True},
    }
}


def changed(files: dict[str, Any], name: str, **fields: Any) -> dict[str, Any]:
    return {**files, name: {**files[name], **fields}}


def merged(root: Path, base: Any, tuned: Any, target: Any, **sidecar: str) -> Sidecars:
    sides = {name.replace("__", "."): side for name, side in sidecar.items()}
    return merge(root, {**model(), **base}, {**model(), **tuned}, {**model(), **target}, sidecar=sides)


@pytest.mark.parametrize("base", [{}, APART, JOINED], ids=["none", "apart", "joined"])
@pytest.mark.parametrize("tuned", [{}, APART, JOINED], ids=["none", "apart", "joined"])
@pytest.mark.parametrize("target", [APART, JOINED], ids=["apart", "joined"])
def test_the_targets_processor_files_come_along_byte_for_byte_and_saving_again_is_no_change(
    base: Any, tuned: Any, target: Any, tmp_path: Path
) -> None:
    sidecars = merged(tmp_path, base, tuned, target)
    assert {name: sidecars.files.get(name) for name in APART} == {
        name: tmp_path / "target" / name if name in target else None for name in APART
    }
    assert not sidecars.warnings and not sidecars.refusals


def test_a_text_model_gets_no_processor_of_the_tuned_model(tmp_path: Path) -> None:
    sidecars = merged(tmp_path, APART, APART, {})
    assert not sidecars.files.keys() & APART.keys() and not sidecars.warnings


@pytest.mark.parametrize("form", ["apart", "joined"])
def test_what_the_fine_tuning_changed_is_told_and_the_flags_that_are_named_bring_it(form: str, tmp_path: Path) -> None:
    tuned = changed(APART, PRE, size=336, resample=3)
    if form == "joined":
        image = {**JOINED[PROCESSOR]["image_processor"], "size": {"shortest_edge": 336}, "resample": 3}  # type: ignore[dict-item]
        tuned = changed(JOINED, PROCESSOR, image_processor=image)
    (warning,) = merged(tmp_path, APART, tuned, JOINED).warnings
    assert "`resample`, `size`" in warning and (PRE if form == "apart" else PROCESSOR) in warning
    flags = [
        word.strip(".")
        for word in FLAGS.message(warning).split("To have the tuned model's: ")[1].split("--sidecar ")
        if word
    ]
    sides = {flag.split("=")[0].replace(".", "__"): flag.split("=")[1].strip() for flag in flags}
    assert set(sides.values()) == {"tuned"} and sides
    brought = merged(tmp_path / "2", APART, tuned, JOINED, **sides)
    assert not brought.warnings and not brought.refusals
    assert json_of(brought, PROCESSOR) == tuned[PROCESSOR]
    assert (PRE in brought.files) == (form == "apart")
    assert decided(brought, PROCESSOR) == "tuned"


QWEN = {PRE: {"min_pixels": 3136, "max_pixels": 12845056, "do_pan_and_scan": None}}


@pytest.mark.parametrize(
    ("tuned", "fields"),
    [
        ({"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "resample": 3}, None),
        ({"size": {"min_pixels": 3136, "max_pixels": 12845056}}, None),
        ({"size": {"shortest_edge": 3136, "longest_edge": 1003520}}, "`size`"),
        ({"min_pixels": 3136, "max_pixels": 1003520}, "`size`"),
        ({"do_pan_and_scan": True}, "`do_pan_and_scan`"),
    ],
)
def test_bounds_on_pixels_are_read_in_every_spelling_and_a_null_is_a_value(
    tuned: dict[str, Any], fields: str | None, tmp_path: Path
) -> None:
    for place, files in enumerate(({PRE: tuned}, {PROCESSOR: {"image_processor": tuned}})):
        warnings = merged(tmp_path / str(place), QWEN, files, QWEN).warnings
        assert len(warnings) == (fields is not None)
        assert all(f"changed {fields} in " in warning for warning in warnings)


def test_a_setting_that_only_the_tuned_model_has_is_noted_as_a_decision(tmp_path: Path) -> None:
    sidecars = merged(tmp_path, APART, JOINED, APART)
    (told,) = [one.reason for one in sidecars.decisions if one.subject == "processor files"]
    assert "`do_sample_frames` in processor_config.json" in told and not sidecars.warnings


def test_a_setting_that_the_new_version_changed_alike_or_that_is_chosen_is_not_told(tmp_path: Path) -> None:
    tuned = changed(APART, PRE, size=336)
    assert not merged(tmp_path, APART, tuned, tuned).warnings
    assert not merged(tmp_path / "2", APART, tuned, APART, preprocessor_config__json="target").warnings
    taken = merged(tmp_path / "3", APART, tuned, APART, preprocessor_config__json="tuned")
    assert json_of(taken, PRE)["size"] == 336 and not taken.warnings
    assert taken.files[PROCESSOR] == tmp_path / "3" / "target" / PROCESSOR


@pytest.mark.parametrize(
    ("target", "chosen", "said"),
    [
        (JOINED, {"preprocessor_config__json": "tuned"}, "reads its `image_processor` instead"),
        (JOINED, {"video_preprocessor_config__json": "base"}, "reads its `video_processor` instead"),
        ({}, {"video_preprocessor_config__json": "target"}, "the target does not have video"),
    ],
)
def test_a_choice_without_effect_is_refused(target: Any, chosen: dict[str, str], said: str, tmp_path: Path) -> None:
    (refusal,) = merged(tmp_path, APART, APART, target, **chosen).refusals
    assert said in refusal
