"""The core needs no torch, importing costs nothing, and imports run in one direction."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import tuneport

SOURCE = Path(tuneport.__file__).parent
HEAVY = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "datasets",
    "peft",
    "trl",
    "lm_eval",
    "scipy",
    "pandas",
)

CORE = """
import sys
for name in {heavy!r}:
    sys.modules[name] = None
from tuneport.cli import main
for argv in {commands!r}:
    status = main(argv)
    assert status == 0, (argv, status)
loaded = sorted(name for name, module in sys.modules.items() if module is not None and name.partition(".")[0] in {heavy!r})
assert not loaded, loaded
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_transfer_diff_apply_inspect_and_verify_run_without_torch_transformers_tokenizers_and_safetensors(
    tmp_path: Path,
) -> None:
    made = tiny.trio(tmp_path)
    # Tokenizers that differ have to be parsed, which is done without the tokenizers library too.
    tiny.write_model(made.target, made.tensors["target"], words=[*tiny.WORDS[:-2], "other", "else"])
    base, tuned, target = map(str, made.paths)
    out, delta, both = (str(tmp_path / name) for name in ("out", "delta", "both"))
    commands = [
        made.flags(tmp_path / "out", "--dry-run"),
        made.flags(tmp_path / "out"),
        ["diff", "--base", base, "--tuned", tuned, "--out", delta],
        ["apply", delta, "--onto", target, "--out", both],
        ["inspect", base],
        ["inspect", out, "--json"],
        ["inspect", delta],
        ["verify", out],
        ["verify", out, "--base", base, "--tuned", tuned, "--onto", target, "--full"],
        ["verify", both, "--diff", delta, "--onto", target, "--full"],
    ]
    done = python(CORE.format(heavy=HEAVY, commands=commands))
    assert done.returncode == 0, done.stderr
    assert len(tiny.read_weights(tmp_path / "out")) == len(made.tensors["target"])


def loaded_by(code: str) -> set[str]:
    done = python(f"import sys\n{code}\nprint('MODULES', *sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_importing_tuneport_imports_next_to_nothing() -> None:
    found = loaded_by("import tuneport\nassert tuneport.__version__")
    assert "tuneport" in found
    assert not found & {"numpy", "blake3", "huggingface_hub", "argparse", *HEAVY}


@pytest.mark.parametrize(
    "verb",
    ["", "transfer", "diff", "apply", "inspect", "verify", "tune", "evaluate", "path", "study", "report", "demo"],
)
def test_help_imports_neither_numpy_nor_torch(verb: str) -> None:
    arguments = [verb, "--help"] if verb else ["--help"]
    code = f"from tuneport.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code"
    found = loaded_by(code)
    assert "tuneport.cli" in found
    assert not found & {"numpy", "blake3", "huggingface_hub", *HEAVY}


def test_a_local_transfer_does_not_import_the_hub_client(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    found = loaded_by(f"from tuneport.cli import main\nassert main({made.flags(tmp_path / 'out')!r}) == 0")
    assert "numpy" in found
    assert not found & {"huggingface_hub", "requests", "httpx", *HEAVY}


def test_the_verbs_can_be_called_from_python_whatever_was_imported_before() -> None:
    for first in ("tuneport", "tuneport.transfer.plan", "tuneport.diff.vector", "tuneport.tune.run", "tuneport.cli"):
        found = loaded_by(
            f"import {first}\nimport tuneport\nfrom tuneport import transfer, diff, apply, evaluate, inspect, path, publish, report, study, tune, verify\n"
            "verbs = (transfer, diff, apply, evaluate, inspect, path, publish, report, study, tune, verify, tuneport.transfer, tuneport.diff)\n"
            "assert all(map(callable, verbs))\n"
            "assert sorted(tuneport.__all__) == tuneport.__all__ and set(tuneport.__all__) <= set(dir(tuneport))"
        )
        assert "tuneport" in found


# Which rooms a room may know (DESIGN: direction of imports). The roof (cli, inspecting, __init__) knows all.
EVERYWHERE = {
    "errors",
    "expressions",
    "json_text",
    "lazily",
    "limited",
    "long_json",
    "printable",
    "terminal",
}  # what every room may know
ALLOWED = {
    "errors": set(),
    "expressions": {"limited"},
    "json_text": set(),
    "lazily": set(),
    "limited": set(),
    "long_json": {"json_text"},
    "printable": set(),
    "terminal": {"printable"},
    "foreign": {"errors"},
    "verbs": set(),
    "checkpoint": {"errors", "foreign", "long_json"},
    "pairing": {"errors", "foreign", "checkpoint"},
    "transfer": {"errors", "foreign", "long_json", "verbs", "checkpoint", "pairing"},
    "diff": {"errors", "foreign", "verbs", "checkpoint", "pairing", "transfer"},
    "place": {"errors", "foreign", "checkpoint"},  # checkpoint: how two plans differ, and what is ours, nothing else
    "tune": {
        "errors",
        "foreign",
        "verbs",
        "checkpoint",
        "place",
        "transfer",
    },  # transfer: how rounding is measured, nothing else
    "evaluate": {
        "errors",
        "foreign",
        "verbs",
        "checkpoint",
        "place",
        "tune",
    },  # tune: how an example's digest is formed, how templates are rendered, where prompts end in tokens
    "diagnose": {"errors", "foreign", "checkpoint", "pairing", "transfer", "evaluate"},
    "study": {
        "errors",
        "foreign",
        "verbs",
        "checkpoint",
        "tune",
        "evaluate",
        "lab",
    },  # settings, measures, names; what steps do: below
    "report": {"errors", "foreign", "verbs", "evaluate"},  # evaluate: what outcomes are worth (measures), nothing else
}
# `verify` proves what `apply` wrote as well; it looks at diff vectors inside its functions only. The examples of a curve are
# read as `evaluate` will read them, before anything is trained.
EXCEPTIONS = {
    ("transfer/verify.py", "diff"),
    ("tune/selection.py", "evaluate"),
    # What each kind of step does is a verb, imported when it is done; a file's choices are checked by the verb's own.
    *(("study/perform.py", room) for room in ("transfer", "diagnose", "evaluate", "tune")),
    ("study/settings.py", "transfer"),
    *((f"study/{name}.py", "diagnose") for name in ("settings", "cost")),  # how many points a path has, nothing else
}
ROOF = {"__init__", "__main__", "cli", "inspecting", "publishing"}


def imported(tree: ast.AST) -> list[tuple[str, ast.AST]]:
    found: list[tuple[str, ast.AST]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [(f"{node.module}.{alias.name}", node) for alias in node.names]
    return found


def sources() -> list[Path]:
    found = sorted(SOURCE.rglob("*.py"))
    assert len(found) > 40
    return found


def test_imports_run_in_one_direction() -> None:
    looked_at = set()
    for path in sources():
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in ROOF or room == "lab":
            continue
        assert room in ALLOWED, f"{room} is a new room: say what it may know"
        looked_at.add(room)
        for name, _ in imported(ast.parse(path.read_text(encoding="utf-8"))):
            parts = name.split(".")
            if parts[0] != "tuneport" or len(parts) < 2 or parts[1] in ("__version__", room):
                continue
            known = (
                parts[1] in ALLOWED[room] | EVERYWHERE or (path.relative_to(SOURCE).as_posix(), parts[1]) in EXCEPTIONS
            )
            assert known, f"{path.relative_to(SOURCE)} imports {name}"
            assert (room, parts[1]) != ("tune", "transfer") or parts[2] in ("arithmetic", "kernel", "rounding"), name
            assert (room, parts[1]) != ("evaluate", "tune") or parts[2] in (
                "leakage",
                "chat",
                "rendering",
                "joining",
                "architecture",
            )
            assert (room, parts[1]) != ("report", "evaluate") or parts[2] in ("answered", "crossed", "measures")
    assert looked_at == set(ALLOWED)


# What may use the models extra, inside its functions. The lab may anywhere.
MODELS_EXTRA = ("evaluate/", "tune/", "diagnose/line.py", "study/perform.py")


def test_only_what_needs_models_imports_torch_and_only_where_it_is_needed() -> None:
    users = set()
    for path in sources():
        place = path.relative_to(SOURCE).as_posix()
        if place.startswith("lab/"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = {id(node) for node in tree.body}
        for name, node in imported(tree):
            if name.partition(".")[0] in HEAVY:
                users.add(place)
                assert id(node) not in top, f"{place} imports {name} at the top"
    core = {place for place in users if not place.startswith(MODELS_EXTRA)}
    assert core == {"checkpoint/legacy.py"}
    assert any(place.startswith("evaluate/") for place in users)


# What an engine or a place needs beyond the core, imported where it is asked for.
OF_EXTRAS = {
    ("study/engines/ray_cluster.py", "ray"),
    ("study/url_store.py", "fsspec"),
    ("report/fetching.py", "fsspec"),
}


def test_the_core_imports_only_what_the_package_declares() -> None:
    allowed = {*sys.stdlib_module_names, "tuneport", "numpy", "blake3", "huggingface_hub"}
    for path in sources():
        place = path.relative_to(SOURCE).as_posix()
        if place.startswith(("lab/", *MODELS_EXTRA)) or place == "checkpoint/legacy.py":
            continue
        for name, _ in imported(ast.parse(path.read_text(encoding="utf-8"))):
            top = name.partition(".")[0]
            assert top in allowed or (place, top) in OF_EXTRAS, f"{place} imports {name}"
