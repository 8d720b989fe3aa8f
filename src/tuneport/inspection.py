"""Describe what is in a folder: a checkpoint, a diff vector, an output of tuneport, or a study (which may be at a URL).

The description is a record, with a text for people. Only headers and small files are read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneport.checkpoint.adapter import read_changes
from tuneport.checkpoint.adapter_config import AdapterConfig
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.small_files import PROCESSOR_FILES
from tuneport.diffvector.exports.prepared_export import is_unfinished_export
from tuneport.engine import kernel
from tuneport.engine.manifest import read_manifest
from tuneport.engine.run_options import InspectOptions
from tuneport.errors import CheckpointError, OutputError, TuneportError, spoken
from tuneport.files.printable import printable_line
from tuneport.options import Place
from tuneport.output.replacing import MANIFESTS
from tuneport.output.write import MANIFEST
from tuneport.pairing.tensors import ties_of
from tuneport.pairing.vocabulary_matrices import Side, find_vocabulary_tensors
from tuneport.public_functions import takes
from tuneport.results.adaptation_reading import adaptation_of, is_adaptation, is_unfinished
from tuneport.results.evaluation_reading import read_results
from tuneport.results.schema import ADAPTATION
from tuneport.shown import Found
from tuneport.sidecars.config import is_tied
from tuneport.sidecars.embedding_modules import module_names
from tuneport.studies.run.folder_store import FolderStore
from tuneport.studies.run.store_at import open_store
from tuneport.studies.run.study_progress import is_study, progress


class Description(Found):
    """What something is, by key as its JSON is."""

    def heading(self) -> str:
        """One line: kind and name."""
        return f"{self['kind']}: {self.get('name') or self.get('study')}"


@takes(InspectOptions)
def inspect(given: InspectOptions) -> Description:
    """A description of what is in a folder, or at a Hub id: its contents and ``kind``.

    The kinds are checkpoint, adapter, output, diff vector, sparse patch, unfinished output and study. Raises `TuneportError`.
    """
    return Description(_described(given.path))


def _described(spec: Place) -> dict[str, Any]:
    if "://" in os.fspath(spec):
        return _behind_url(os.fspath(spec))
    path = Path(os.path.expanduser(spec))
    if path.is_dir() and is_study(FolderStore(path)):
        return {"kind": "study", **progress(FolderStore(path))}
    if path.is_dir() and ((path / "journal.jsonl").exists() or is_unfinished(path) or is_unfinished_export(path)):
        return {
            "kind": "unfinished output",
            "name": path.name,
            "next": "Run the command that started it again to resume.",
        }
    if path.is_dir() and (path / MANIFEST).exists():
        manifest = read_manifest(path)
        if manifest["operation"] == "diff":
            from tuneport.diffvector.vector import open_diff

            del manifest  # of many tensors it is large, and the diff vector has its own
            vector = open_diff(path)
            return {"kind": "diff vector", **_encoding(vector.stored), **_made(vector.stored, vector.manifest)}
        if manifest["operation"] == "export":
            return _exported(path, manifest)
        return {"kind": "output", **_adapted(path), **_made(open_checkpoint(path, "output"), manifest)}
    checkpoint = open_checkpoint(spec, "checkpoint")
    if checkpoint.adapter is not None:
        return {"kind": "adapter", **_adapter(checkpoint, checkpoint.adapter), **_checkpoint(checkpoint)}
    return {"kind": "checkpoint", **_adapted(path), **_checkpoint(checkpoint)}


def _exported(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """An export of a diff vector: what it is of, and what it holds."""
    found, sparse = manifest.get("exported", {}), manifest.get("form") == "sparse"
    counted = ("changed", "elements", "share") if sparse else ("rank", "survives", "error")
    return {
        "kind": "sparse patch" if sparse else "adapter",
        "name": path.name,
        "made_from": [f"{entry['role']}: {entry['name']}" for entry in manifest["inputs"]],
        "formula": manifest["formula"],
        "tensors": len(manifest["tensors"]),
        **{name: found.get(name) for name in counted},
        **({} if sparse else {"left_out": len(found.get("left_out", ()))}),
        "warnings": list(spoken(manifest["warnings"])),
    }


def _encoding(stored: Checkpoint) -> dict[str, Any]:
    """How a diff vector is stored, and in how many bits."""
    parameters = stored.parameters
    return {
        "encoding": "float32" if stored.encoded is None else "exact",
        "bits_per_parameter": round(8 * stored.nbytes / parameters, 4) if parameters else None,
    }


def _adapted(folder: Path) -> dict[str, str]:
    """What `adapt` chose, in a line, where it wrote this folder. Raises `ReportError` where its record is damaged."""
    file = folder / ADAPTATION
    if not file.is_file() or not any((folder / name).is_file() for name in MANIFESTS):
        return {}
    found = read_results(file, "Restore it, or run `tuneport adapt` again.")
    return {"adapted": adaptation_of(found, str(file)).in_a_line()} if is_adaptation(found) else {}


def in_words(description: Mapping[str, Any]) -> str:
    """A description for a person."""
    lines = []
    for key, value in description.items():
        if isinstance(value, list):
            shown = str if key == "warnings" else _value_in_words
            value = "; ".join(map(shown, value)).replace("\n", "\n  ") or "–"
        else:
            value = _value_in_words(value)
        lines.append(f"{key.replace('_', ' '):<15} {value}")
    return "\n".join(lines)


def _value_in_words(value: Any) -> str:
    """One value; of several by name those that are known."""
    if isinstance(value, Mapping):
        known = {name: entry for name, entry in value.items() if entry is not None}
        return (
            ", ".join(f"{printable_line(str(name))}: {_value_in_words(entry)}" for name, entry in known.items()) or "–"
        )
    if value is None or isinstance(value, bool):
        return "–" if value is None else "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return printable_line(str(value))


def _behind_url(url: str) -> dict[str, Any]:
    """A study; nothing else of tuneport's is read from URLs."""
    try:
        store = open_store(url)
    except OutputError as error:
        raise CheckpointError(str(error)) from error
    if not is_study(store):
        raise CheckpointError(
            f"{url} is not a study. `inspect` reads only studies from URLs: copy the files to a folder, and inspect "
            f"that."
        )
    return {"kind": "study", **progress(store)}


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": checkpoint.hub_id or checkpoint.label,
        "revision": checkpoint.revision,
        "model_type": checkpoint.config.get("model_type"),
        "architectures": checkpoint.config.get("architectures"),
        "parameters": checkpoint.parameters,
        "tensors": len(checkpoint.tensors),
        "dtypes": _dtypes(checkpoint),
        "bytes": checkpoint.nbytes,
        "files": sorted(checkpoint.files),
        "vocabulary_rows": find_vocabulary_tensors([Side.of(checkpoint, ties_of(checkpoint))]).rows[0] or None,
        "tokens": _tokens(checkpoint),
        "tied": is_tied(checkpoint.config),
        "chat_template": _has_template(checkpoint),
        "processor_files": [name for name in PROCESSOR_FILES if checkpoint.sidecars.has(name)],
        "modules": module_names(checkpoint.sidecars),
        "kernel": kernel.NAME,
        "warnings": list(spoken(checkpoint.warnings)),
    }


def _dtypes(checkpoint: Checkpoint) -> dict[str, int]:
    """How many tensors are stored in each format."""
    found = Counter(tensor.dtype for tensor in checkpoint.tensors.values() if not tensor.is_dequantised)
    coded = {} if checkpoint.scaled is None else checkpoint.scaled.formats()
    return dict(sorted({**found, **{f"{name} with scales": count for name, count in coded.items()}}.items()))


def _adapter(checkpoint: Checkpoint, config: AdapterConfig) -> dict[str, Any]:
    changes = read_changes(checkpoint.tensors, config, f"{checkpoint.role} {checkpoint.label}").changes
    return {
        "adapter": config.in_words(),
        "changes": dict(sorted(Counter(str(change) for change in changes.values()).items())),
    }


def _tokens(checkpoint: Checkpoint) -> int | None:
    from tuneport.tokenizer.tokenizer import read_tokenizer

    try:
        return read_tokenizer(checkpoint.sidecars).size
    except TuneportError:
        return None  # no tokenizer files, or of a kind that cannot be read without its own library


def _has_template(checkpoint: Checkpoint) -> bool:
    sidecars = checkpoint.sidecars
    return sidecars.has("chat_template.jinja") or bool(
        (sidecars.json("tokenizer_config.json") or {}).get("chat_template")
    )


def _made(checkpoint: Checkpoint, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """An output of tuneport: the folder, and what its manifest says."""
    fates = Counter(entry["fate"] for entry in manifest["tensors"])
    return {
        **_checkpoint(checkpoint),
        "operation": manifest["operation"],
        "formula": manifest["formula"],
        "made_from": [f"{entry['role']}: {entry['name']}" for entry in manifest["inputs"]],
        "fates": dict(sorted(fates.items())),
        "measures": manifest["measures"],
        "warnings": [*spoken(checkpoint.warnings), *manifest["warnings"]],
    }
