"""The core needs no torch, importing costs nothing, and imports run in one direction."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny

import tuneport
from experiments.pages import house_section

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
        ["export", delta, "--as", "peft", "--onto", target, "--out", str(tmp_path / "adapter")],
        ["export", delta, "--as", "sparse", "--onto", target, "--out", str(tmp_path / "patch")],
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
    "command",
    ["", "transfer", "diff", "apply", "inspect", "verify", "tune", "evaluate", "path", "study", "report", "demo"],
)
def test_help_imports_neither_numpy_nor_torch(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    code = f"from tuneport.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code"
    found = loaded_by(code)
    assert "tuneport.cli" in found
    assert not found & {"numpy", "blake3", "huggingface_hub", *HEAVY}


def test_a_local_transfer_does_not_import_the_hub_client(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    found = loaded_by(f"from tuneport.cli import main\nassert main({made.flags(tmp_path / 'out')!r}) == 0")
    assert "numpy" in found
    assert not found & {"huggingface_hub", "requests", "httpx", *HEAVY}


PUBLIC = (
    "apply",
    "diff",
    "evaluate",
    "inspect",
    "path",
    "plan",
    "publish",
    "report",
    "study",
    "transfer",
    "tune",
    "verify",
)


def test_the_public_functions_are_plain_functions_whatever_was_imported_before() -> None:
    for first in (
        "tuneport",
        "tuneport.engine.plan",
        "tuneport.diffvector.vector",
        "tuneport.tuning.run",
        "tuneport.cli",
    ):
        found = loaded_by(
            f"import types, {first}, tuneport\n"
            f"assert all(isinstance(getattr(tuneport, name), types.FunctionType) for name in {PUBLIC!r})\n"
            "assert sorted(tuneport.__all__) == tuneport.__all__ and set(tuneport.__all__) <= set(dir(tuneport))\n"
            f"assert set({PUBLIC!r}) <= set(tuneport.__all__)"
        )
        assert "tuneport" in found


# The house (DESIGN): each room imports only from those listed before it, inside functions too. The lazy `__init__` is no room.
ORDER = (
    "errors",
    "options",
    "public_functions",
    "shown",
    "platforms",
    "files",
    "terminal",
    "progress",
    "libraries",
    "statistics",
    "checkpoint",
    "tokenizer",
    "output",
    "sidecars",
    "pairing",
    "comparison",
    "engine",
    "diffvector",
    "verification",
    "results",
    "publishing",
    "examples",
    "scoring",
    "tuning",
    "diagnosis",
    "adaptation",
    "families",
    "studies",
    "reporting",
    "inspection",
    "commands",
    "cli",
    "__main__",
)


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


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_imports_run_in_one_direction() -> None:
    rooms = {room_of(path) for path in sources()} - {"__init__"}
    assert rooms == set(ORDER), "a room that the order does not know, or one that is gone"
    for path in sources():
        room = room_of(path)
        if room == "__init__":
            continue
        for name, _ in imported(ast.parse(path.read_text(encoding="utf-8"))):
            parts = name.split(".")
            if parts[0] != "tuneport" or len(parts) < 2 or parts[1] not in ORDER:
                continue
            assert ORDER.index(parts[1]) <= ORDER.index(room), f"{path.relative_to(SOURCE)} imports {name}"


def test_the_outline_in_the_design_is_that_of_the_source() -> None:
    page = house_section.PAGE.read_text(encoding="utf-8")
    assert house_section.with_outline(page, house_section.outline(ORDER)) == page, "run `make docs`"


def test_reporting_reads_results_and_nothing_that_made_them() -> None:
    known = {
        "errors",
        "options",
        "public_functions",
        "shown",
        "files",
        "libraries",
        "statistics",
        "results",
        "reporting",
    }
    for path in (SOURCE / "reporting").rglob("*.py"):
        for name, _ in imported(ast.parse(path.read_text(encoding="utf-8"))):
            parts = name.split(".")
            assert parts[0] != "tuneport" or parts[1] in (*known, "__version__"), (
                f"{path.relative_to(SOURCE)} imports {name}"
            )


def test_no_folder_holds_more_than_twenty_files_and_no_two_files_have_one_name() -> None:
    files = [*sources(), *(SOURCE.parents[1] / "experiments").rglob("*.py")]
    folders = Counter(path.parent for path in files)
    assert {folder.name: number for folder, number in folders.items() if number > 20} == {}
    names = Counter(path.name for path in files if path.name not in ("__init__.py", "__main__.py", "run.py"))
    assert {name for name, number in names.items() if number > 1} == set()


def test_no_class_name_means_two_things() -> None:
    classes = Counter(
        node.name
        for path in sources()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert len(classes) > 200
    assert {name for name, number in classes.items() if number > 1} == set()


# What may use the models extra, inside its functions. The families may anywhere.
_OF_DIAGNOSIS = ("diagnosis/line.py", "diagnosis/placed_tensors.py", "diagnosis/probing/")
MODELS_EXTRA = (
    "scoring/",
    "tuning/",
    "examples/",
    *_OF_DIAGNOSIS,
    "adaptation/layer_scales.py",
    "adaptation/retained_texts.py",
)  # `studies` imports no torch


def test_only_what_needs_models_imports_torch_and_only_where_it_is_needed() -> None:
    users = set()
    for path in sources():
        place = path.relative_to(SOURCE).as_posix()
        if place.startswith("families/"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = {id(node) for node in tree.body}
        for name, node in imported(tree):
            if name.partition(".")[0] in HEAVY:
                users.add(place)
                assert id(node) not in top, f"{place} imports {name} at the top"
    core = {place for place in users if not place.startswith(MODELS_EXTRA)}
    assert core == {"checkpoint/pytorch_bin.py"}
    assert any(place.startswith("scoring/") for place in users)


# What an engine or a place needs beyond the core, imported where it is asked for.
OF_EXTRAS = {
    ("studies/run/engines/ray_cluster.py", "ray"),
    ("studies/run/url_store.py", "fsspec"),
    ("reporting/fetching.py", "fsspec"),
    ("reporting/render/page.py", "jinja2"),
    ("reporting/render/page.py", "markupsafe"),
}


def test_the_core_imports_only_what_the_package_declares() -> None:
    allowed = {*sys.stdlib_module_names, "tuneport", "numpy", "blake3", "huggingface_hub", "openzl"}
    for path in sources():
        place = path.relative_to(SOURCE).as_posix()
        if place.startswith(("families/", *MODELS_EXTRA)) or place == "checkpoint/pytorch_bin.py":
            continue
        for name, _ in imported(ast.parse(path.read_text(encoding="utf-8"))):
            top = name.partition(".")[0]
            assert top in allowed or (place, top) in OF_EXTRAS, f"{place} imports {name}"
