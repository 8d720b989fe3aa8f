"""The files that are copied without merging: licences, code, and what is left out.

Returns the files to copy unchanged, and a reason for every file that is left out. Only names on the list of
`tuneport.checkpoint.small_files` are copied, and no code is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuneport.checkpoint.small_files import LICENCE_PREFIXES, MORE_TEMPLATES, SidecarFolder, is_sidecar
from tuneport.files.printable import printable_line
from tuneport.sidecars.three_way import SIDES, MergeFindings, Three

# Weights and their kin, and what describes a repository: the engine writes its own, so their absence says nothing.
_NOT_SIDECARS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".onnx",
    ".h5",
    ".msgpack",
    ".index.json",
    ".md",
    ".pkl",
    ".pickle",
    ".npz",
)  # fmt: skip  (one list)


def merge_licences(folders: Three, sides: Mapping[str, str], findings: MergeFindings) -> dict[str, Path]:
    """The target's licences, and the tuned model's beside them where they say something else: both bind."""
    files: dict[str, Path] = {}
    for name in sorted({name for folder in folders for name in licences_of(folder)}):
        chosen = sides.get(name)
        if chosen is not None:
            findings.decided(name, chosen, "set by --sidecar")
            if folders.of(chosen).has(name):
                files[name] = folders.of(chosen).place(name)
            continue
        if folders.target.has(name):
            files[name] = folders.target.path / name
    for name in licences_of(folders.tuned):
        if name in sides:
            continue
        contents = folders.tuned.read(name)
        if any(folders.target.read(other) == contents for other in licences_of(folders.target)):
            continue
        beside, number = f"{name}.tuned", 2
        while beside in files:
            beside, number = f"{name}.tuned-{number}", number + 1
        files[beside] = folders.tuned.place(name)
        findings.decided(beside, "tuned", "the tuned model's licence differs from the target's; both are kept")
    return files


def licences_of(folder: SidecarFolder) -> list[str]:
    """Names of a folder's licences."""
    return [name for name in folder.names() if name.upper().startswith(LICENCE_PREFIXES) and not name.endswith(".py")]


def copy_code(target: SidecarFolder, findings: MergeFindings) -> dict[str, Path]:
    """The target's own modelling code."""
    names = [name for name in target.names() if name.endswith(".py")]
    for name in names:
        findings.decided(name, "target", "the target's code is copied unchanged and never run")
    return {name: target.path / name for name in names}


def tell_left_behind(folders: Three, findings: MergeFindings) -> None:
    """Name the files beside the target's weights that are not copied, and templates that no merge reads."""
    target: SidecarFolder = folders.target
    known = {name.partition("/")[0] for name in target.names()}
    for entry in sorted(target.path.iterdir()) if target.path.is_dir() else ():
        if entry.name.startswith(".") or entry.name in known or is_sidecar(entry.name):
            continue
        if entry.is_file() and not entry.name.endswith(_NOT_SIDECARS) and entry.name != "tuneport.json":
            findings.decided(printable_line(entry.name), "left behind", "not on the list of files to copy")
        elif (entry / "tokenizer_config.json").is_file():
            findings.warnings.append(
                f"target {target.label}: {printable_line(entry.name)}/ contains the processor's own tokenizer, which "
                f"is not copied. Copy the folder into the output; AutoProcessor needs it to load."
            )
        elif entry.is_dir() and entry.name != MORE_TEMPLATES:
            findings.decided(
                f"{printable_line(entry.name)}/", "left behind", "only folders named in modules.json are copied"
            )
    for side in SIDES:
        if (folders.of(side).path / MORE_TEMPLATES).is_dir():
            findings.warnings.append(
                f"{side} {folders.of(side).label}: the templates in {MORE_TEMPLATES}/ are not copied; only the "
                f"default chat template is."
            )
