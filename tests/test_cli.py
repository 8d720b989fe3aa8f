"""The command line: what it prints where, and with which status it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli

import tuneport

COMMANDS = ["transfer", "diff", "apply", "inspect", "verify", "tune", "evaluate", "study", "path", "report", "demo"]


@pytest.fixture
def made(tmp_path: Path) -> tiny.Trio:
    return tiny.trio(tmp_path / "in")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_describes_its_flags(cli: Cli, command: str) -> None:
    ran = cli(command, "--help")
    assert ran.status == 0 and ran.err == ""
    assert ran.out.startswith(f"usage: tuneport {command}")
    assert "--json" in ran.out and "--debug" in ran.out


def test_help_names_every_command_and_version_the_version(cli: Cli) -> None:
    assert all(command in cli("--help").out for command in COMMANDS)
    assert cli("--version").out == f"tuneport {tuneport.__version__}\n"


def test_the_shared_flags_of_the_contract_are_there(cli: Cli) -> None:
    shared = [
        "scale",
        "rule",
        "drop",
        "dtype",
        "rounding",
        "seed",
        "config",
        "sidecar",
        "new-tokens",
        "vocabulary",
        "digest-inputs",
        "strict",
        "allow-nonfinite",
        "max-memory",
        "workers",
        "shard-size",
        "dry-run",
        "json",
        "overwrite",
    ]
    for command in ("transfer", "apply"):
        told = cli(command, "--help").out
        assert [flag for flag in shared if f"--{flag}" not in told] == []


def test_a_success_says_where_the_result_lies_on_stdout_and_nothing_on_stderr(
    cli: Cli, made: tiny.Trio, tmp_path: Path
) -> None:
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 0 and ran.err == ""
    done, verdict = ran.out.splitlines()
    assert str(tmp_path / "out") in done and verdict.startswith("verdict: ")


def test_a_run_and_a_plan_say_whose_template_and_which_end_token_the_output_has(
    cli: Cli, made: tiny.Trio, tmp_path: Path
) -> None:
    for folder in (made.base, made.tuned, made.target):
        settings = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 23}
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(tiny.WORDS[:22], ["<s>", "</s>"])))
    (made.tuned / "chat_template.jinja").write_text("{{ messages }}</s>")
    said = "chat template of the tuned model; end token </s>"
    out, delta, two = tmp_path / "out", tmp_path / "d", tmp_path / "two"
    assert f"the output: {said}" in cli(*made.flags(out, "--dry-run")).out
    ran = cli(*made.flags(out, "--json"))
    template = {"template": ["tuned"], "end_tokens": [{"id": 23, "token": "</s>"}], "tokenizer_end_token": None}
    assert json.loads(ran.out)["behaviour"] == template, ran.err
    assert said in cli(*made.flags(out)).out  # already done
    assert said not in cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", delta).out
    applied = cli("apply", delta, "--onto", made.target, "--out", two).out
    assert f"; {said}; the target is neither a parent" in applied
    assert cli("verify", out).status == 0


def test_json_is_one_object_on_stdout_for_every_command(cli: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    out, delta = tmp_path / "out", tmp_path / "d"
    for argv, key in (
        (made.flags(out, "--dry-run"), "counts"),
        (made.flags(out), "measures"),
        (["diff", "--base", made.base, "--tuned", made.tuned, "--out", delta], "measures"),
        (["apply", delta, "--onto", made.target, "--out", tmp_path / "two"], "measures"),
        (["inspect", made.base], "kind"),
        (["inspect", out], "kind"),
        (["verify", out], "verified"),
    ):
        ran = cli(*argv, "--json")
        assert ran.status == 0 and ran.err == "", ran.err
        assert key in ran.json() and len(ran.out.splitlines()) == 1


def test_json_of_a_failure_is_an_error_object_and_the_words_are_on_stderr(cli: Cli, tmp_path: Path) -> None:
    ran = cli("inspect", tmp_path / "nowhere", "--json")
    assert ran.status == 1
    error = ran.json()["error"]
    assert error["type"] == "CheckpointError" and "nowhere" in error["message"]
    assert ran.err.count("tuneport: ") == 1


def test_a_traceback_only_with_debug(command: Cli, tmp_path: Path) -> None:
    plain, debug = command("inspect", tmp_path / "nowhere"), command("inspect", tmp_path / "nowhere", "--debug")
    assert plain.status == debug.status == 1
    assert "Traceback" not in plain.err and "Traceback" in debug.err


@pytest.mark.parametrize(
    "flags",
    [
        ["--scale", "x"],
        ["--scale", "nan"],
        ["--scale", "inf"],
        ["--rule", "x"],
        ["--rule", "=1"],
        ["--rule", "x="],
        ["--rule", "x=y"],
        ["--rule", "x=nan"],
        ["--rule", "x=inf"],
        ["--rule", "(=1"],
        ["--drop", "("],
        ["--dtype", "int8"],
        ["--dtype", "float8"],
        ["--rounding", "up"],
        ["--seed", "x"],
        ["--seed", "-1"],
        ["--config", "rope"],
        ["--config", "rope=mine"],
        ["--config", "=base"],
        ["--sidecar", "x"],
        ["--sidecar", "x=y"],
        ["--new-tokens", "keep"],
        ["--vocabulary", "guess"],
        ["--shard-size", "big"],
        ["--shard-size", "-1"],
        ["--shard-size", "0"],
        ["--max-memory", "x"],
        ["--max-memory", "0"],
        ["--workers", "0"],
        ["--workers", "-1"],
        ["--workers", "x"],
        ["--nonsense"],
        ["--rule", "nowhere=0"],
        ["--drop", "nowhere"],
    ],
    ids=" ".join,
)  # fmt: skip  (one list)
def test_a_value_that_cannot_be_meant_is_wrong_usage(
    cli: Cli, made: tiny.Trio, tmp_path: Path, flags: list[str]
) -> None:
    ran = cli(*made.flags(tmp_path / "out", *flags))
    assert ran.status == 2
    assert flags[0].lstrip("-").split("-")[0] in ran.err or flags[-1] in ran.err
    assert "Traceback" not in ran.err
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize(
    "argv", [[], ["nonsense"], ["transfer"], ["transfer", "--base", "x"], ["diff"], ["apply"], ["inspect"], ["verify"]]
)
def test_wrong_usage_ends_with_status_2(cli: Cli, argv: list[str]) -> None:
    ran = cli(*argv)
    assert ran.status == 2 and ("--help" in ran.err or "Commands: " in ran.err)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["transfre"], ["transfre", "transfer"]),
        (["transfer", "--scael", "0.5"], ["--scael", "--scale"]),
        (["diff", "--bse", "v1", "--tuned", "v2"], ["--bse", "--base"]),
        (["transfer"], ["--base", "--tuned", "--onto", "--out"]),
        (["inspect", "v1", "v2"], ["v2"]),
    ],
)
def test_wrong_usage_names_what_was_probably_meant(cli: Cli, argv: list[str], named: list[str]) -> None:
    ran = cli(*argv)
    assert ran.status == 2 and len(ran.err.splitlines()) == 1 and all(name in ran.err for name in named)


def test_a_value_of_another_kind_names_its_option_and_is_an_object_with_json(
    cli: Cli, made: tiny.Trio, tmp_path: Path
) -> None:
    for flags in (["--scale", "ten"], ["--seed", "1.5"], ["--rounding", "up"]):
        ran = cli(*made.flags(tmp_path / "out", "--json", *flags))
        assert ran.status == 2 and ran.json()["error"]["type"] == "UsageError"
        assert f"{flags[0]} '{flags[1]}'" in ran.err


def test_a_rule_is_split_at_its_last_equals_sign(cli: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    assert cli(*made.flags(tmp_path / "out", "--rule", "(?=model).*norm=0")).status == 0
    entries = json.loads((tmp_path / "out" / "tuneport.json").read_text())["tensors"]
    assert {e["name"] for e in entries if e["scale"] in (0, None)} == {
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
    }


def hollow(folder: Path) -> None:
    """Put a hole where the weights are, of 50 GB: whoever reads weights needs minutes."""
    file = folder / "model.safetensors"
    header = {"model.embed_tokens.weight": {"dtype": "BF16", "shape": [24, 10**9], "data_offsets": [0, 48 * 10**9]}}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(file, 8 + len(text) + 48 * 10**9)


def test_a_dry_run_reads_headers_alone_and_writes_nothing(
    cli: Cli, made: tiny.Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in made.paths:
        hollow(path)
    # A dry run says whether the output fits on the disk; this test is of any machine, however full its disk is.
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=10**12))
    before = set(tmp_path.rglob("*"))
    ran = cli(*made.flags(tmp_path / "out", "--dry-run", "--json"))
    assert ran.status == 0, ran.err
    told = ran.json()
    assert told["counts"] == {"transferred": 1} and told["refused"] == []
    assert told["bytes"]["read"] == 3 * 48 * 10**9 and told["bytes"]["fetch"] == 0
    assert told["memory"]["bytes"] <= told["memory"]["limit"]
    assert set(tmp_path.rglob("*")) == before


def test_a_dry_run_states_the_bytes_that_the_run_then_writes(cli: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    told = cli(*made.flags(tmp_path / "out", "--dry-run", "--json", "--shard-size", "600")).json()
    assert cli(*made.flags(tmp_path / "out", "--shard-size", "600")).status == 0
    made_of_it = {"README.md", "tuneport.json"}
    assert set(told["files"]) | {"model.safetensors.index.json"} == {path.name for path in (tmp_path / "out").iterdir()}
    assert told["bytes"]["write"] == sum(
        p.stat().st_size for p in (tmp_path / "out").iterdir() if p.name not in made_of_it
    )


def test_a_dry_run_that_would_refuse_exits_1_and_says_why(cli: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    tiny.write_model(made.target, {**made.tensors["target"], "extra": made.tensors["base"]["model.norm.weight"]})
    ran = cli(*made.flags(tmp_path / "out", "--dry-run"))
    assert ran.status == 1 and "refused:" in ran.out and "`extra`" in ran.out
    small = cli(*made.flags(tmp_path / "out", "--dry-run", "--max-memory", "1MiB", "--rule", "extra=0"))
    assert small.status == 1 and "needs at least" in small.out


def test_a_dry_run_shows_the_plan_in_words(cli: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    told = cli(*made.flags(tmp_path / "out", "--dry-run", "--rule", "norm=0", "--scale", "0.5")).out
    for words in (
        "target + 0.5 · (tuned − base)",
        "6 transferred",
        "bytes:",
        "memory:",
        "checked only while running",
        "nothing stops this run",
    ):
        assert words in told


def test_progress_goes_to_a_terminal_only(command: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    assert command(*made.flags(tmp_path / "out")).err == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_gets_its_words(
    command: Cli, made: tiny.Trio, tmp_path: Path, encoding: str
) -> None:
    for flags in (("--dry-run",), ("--dry-run", "--json"), ()):
        ran = command(*made.flags(tmp_path / "out", *flags), env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
        assert ran.status == 0, ran.err
        assert "Traceback" not in ran.err


def test_names_that_are_no_unicode_do_not_break_the_message(made: tiny.Trio, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/mod\xffel"
    os.rename(made.base, odd)
    (Path(os.fsdecode(odd)) / "model.safetensors").unlink()
    for flags in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "tuneport", "inspect", odd, *flags], capture_output=True, check=False
        )
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr and done.stderr.startswith(b"tuneport: ")


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_reader_that_goes_away_is_no_traceback(made: tiny.Trio, flags: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tuneport", "inspect", str(made.base), *flags],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == b""


def test_an_error_whose_reader_goes_away_is_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tuneport", "inspect", str(tmp_path / "nothing"), "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert done.returncode == 1
    assert done.stderr.startswith(b"tuneport: ") and b"Traceback" not in done.stderr


def test_a_full_disk_behind_stdout_is_told(made: tiny.Trio) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tuneport", "inspect", str(made.base)],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr and b"No space left" in done.stderr


def test_max_memory_that_is_too_small_names_a_minimum_that_is_enough(
    command: Cli, made: tiny.Trio, tmp_path: Path
) -> None:
    ran = command(*made.flags(tmp_path / "out", "--max-memory", "1MiB"))
    assert ran.status == 1
    minimum = int(ran.err.partition("needs at least ")[2].partition("MiB")[0])
    # What the process holds differs by a page or two from run to run.
    assert command(*made.flags(tmp_path / "enough", "--max-memory", f"{minimum + 1}MiB")).status == 0
    assert command(*made.flags(tmp_path / "less", "--max-memory", f"{minimum - 4}MiB")).status == 1


MEASURE = """
import sys
from tuneport.cli import main
status = main(sys.argv[1:])
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1], file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here to tell the peak of memory")
@pytest.mark.parametrize(("limit", "workers"), [("128MiB", "2"), ("128MiB", "8"), ("64MiB", "8")])
def test_memory_stays_under_its_bound(tmp_path: Path, limit: str, workers: str) -> None:
    """Models of 100 MB each, mostly of holes; the peak of the resident set is never under the proportional share."""
    shape, size = [24, 2_000_000], 96_000_000
    for role, byte in (("base", b"\x80"), ("tuned", b"\x81"), ("target", b"\x82")):
        place = tiny.write_model(tmp_path / role, tiny.llama(1))
        text = json.dumps(
            {"model.embed_tokens.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}
        ).encode()
        with open(place / "model.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + (byte + b"\x3f") * 100_000)
            file.truncate(8 + len(text) + size)
    argv = ["transfer", "--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--onto", tmp_path / "target"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *argv, "--out", tmp_path / "out", "--max-memory", limit, "--workers", workers],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak = int(done.stderr.split()[-1]) * 1024
    assert 16 * 2**20 < peak <= int(limit.removesuffix("MiB")) * 2**20
