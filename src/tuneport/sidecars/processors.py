"""Processor files of multimodal models: how images, sound and video become model inputs.

They belong to the part that reads them (vision tower, audio encoder), so the output has the target's, as whole files;
the user may take one from another model. What the fine-tuning changed in them is not transferred, and a warning says
so. transformers 5 writes the contents of the other files into sections of processor_config.json, so settings are
compared wherever they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneport.checkpoint.small_files import PROCESSOR_FILES, SidecarFolder
from tuneport.errors import named
from tuneport.files.printable import quoted
from tuneport.sidecars.three_way import MergeFindings, Three, same

PREPROCESSOR, PROCESSOR, VIDEO = PROCESSOR_FILES
# Sections of processor_config.json, and the file that they stand for: transformers reads the section where there is one.
_SECTIONS = {"image_processor": PREPROCESSOR, "feature_extractor": PREPROCESSOR, "video_processor": VIDEO}
# Names of classes and notes of the library that wrote the file.
_NO_SETTINGS = ("auto_map", "transformers_version")


def merge_processors(folders: Three, sides: Mapping[str, str], findings: MergeFindings) -> dict[str, bytes | Path]:
    """The output's processor files. ``sides`` are the choices by file name; an invalid choice is a refusal."""
    files: dict[str, bytes | Path] = {}
    for name in PROCESSOR_FILES:
        side = sides.get(name)
        folder: SidecarFolder = folders.of(side or "target")
        if folder.has(name):
            files[name] = folder.content(name)
        elif side is not None and not folders.target.has(name):
            both = "the target does not have" if side == "target" else f"neither the {side} model nor the target has"
            findings.refusals.append(f"{named('sidecar', f'{name}={side}')}: {both} {name}.")
        if side is not None:
            findings.decided(name, side, "set by --sidecar")
    _check_effect(folders, sides, findings)
    if not sides.keys() & {*PROCESSOR_FILES}:
        _tell_changes(folders, findings)
    return files


def _check_effect(folders: Three, sides: Mapping[str, str], findings: MergeFindings) -> None:
    """A file whose settings are in a section of the output's processor_config.json is not read."""
    reads = sides.get(PROCESSOR, "target")
    sections = folders.of(reads).json(PROCESSOR) or {}
    for section, name in _SECTIONS.items():
        if isinstance(sections.get(section), dict) and sides.get(name, reads) != reads:
            findings.refusals.append(
                f"{named('sidecar', f'{name}={sides[name]}')} has no effect: the output's {PROCESSOR} is the {reads} "
                f"model's, and transformers reads its {quoted(section)} instead. Give "
                f"{named('sidecar', f'{PROCESSOR}={sides[name]}')} as well."
            )


def _tell_changes(folders: Three, findings: MergeFindings) -> None:
    base, tuned, target = (_settings(folder) for folder in folders)
    changed: dict[str, list[str]] = {}
    more = []  # a tool that saves a processor again fills in defaults, so what is new need not be a choice
    for key, (value, file) in sorted(tuned.items()):
        if value is None or (key in target and _alike(target[key][0], value)):
            continue
        if key not in base:
            more.append(f"{quoted(key[1])} in {file}")
        elif not _alike(base[key][0], value):
            changed.setdefault(file, []).append(key[1])
    for file, fields in changed.items():
        flags = f"{named('sidecar', f'{file}=tuned')}"
        flags += (
            f" {named('sidecar', f'{PROCESSOR}=tuned')}" if file != PROCESSOR and folders.target.has(PROCESSOR) else ""
        )
        findings.warnings.append(
            f"The fine-tuning changed {', '.join(quoted(field) for field in fields)} in {file}; the output has the "
            f"target's processor files. To have the tuned model's: {flags}."
        )
    if more:
        findings.decided(
            "processor files", "target", f"the tuned model has settings that the base lacks: {', '.join(more)}"
        )


def _settings(folder: SidecarFolder) -> dict[tuple[str, str], tuple[Any, str]]:
    """Each setting by the file it belongs to and its name: the value, and the file it is in."""
    found: dict[tuple[str, str], tuple[Any, str]] = {}
    for name in (PREPROCESSOR, VIDEO, PROCESSOR):
        content = folder.json(name) or {}
        sections = [section for section in _SECTIONS if name == PROCESSOR and isinstance(content.get(section), dict)]
        inner = {section: content.pop(section) for section in sections}
        for belongs, part in ((name, content), *((_SECTIONS[section], part) for section, part in inner.items())):
            found |= {(belongs, field): (value, name) for field, value in _with_pixels_as_size(part).items()}
    return {key: value for key, value in found.items() if _is_setting(key[1])}


def _is_setting(field: str) -> bool:
    return not field.startswith("_") and not field.endswith(("_class", "_type")) and field not in _NO_SETTINGS


def _with_pixels_as_size(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen's bounds on the pixels of an image, which transformers 5 writes as edges of its size."""
    said = dict(settings)
    size = dict(said["size"]) if isinstance(said.get("size"), dict) else {}
    for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        own, inside = said.pop(old, None), size.pop(old, None)
        bound = own if own is not None else inside
        if bound is not None:
            said["size"] = size = {**size, new: bound}
    return said


def _alike(one: Any, other: Any) -> bool:
    """Whether two values say the same: a size of 224 was written as a number once, and as its edges later."""
    for number, edges in ((one, other), (other, one)):
        if isinstance(number, int | float) and isinstance(edges, dict) and edges:
            return all(same(number, edge) for edge in edges.values())
    return same(one, other)
