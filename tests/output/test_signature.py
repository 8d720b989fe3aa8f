"""A folder is signed with an SSH key once it is verified, and `verify` says who signed it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli

import tuneport
from tuneport.engine.choices import Running
from tuneport.errors import TuneportError, UsageError, VerificationError
from tuneport.output.signature import SIGNATURE
from tuneport.publishing.push import _whole

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of two people, and a file of signers that names the first."""
    place = tmp_path_factory.mktemp("keys")
    for name in ("anna", "ben"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", place / name], check=True)
    kind, key, _ = (place / "anna.pub").read_text().split()
    (place / "signers").write_text(f"anna@example.org {kind} {key}\n")
    return place


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    made = tiny.trio(tmp_path)
    return tuneport.diff(made.base, made.tuned, tmp_path / "delta").out


def fingerprint(key: Path) -> str:
    return subprocess.run(["ssh-keygen", "-l", "-f", key], check=True, capture_output=True, text=True).stdout.split()[1]


def test_verify_signs_and_says_who_signed(cli: Cli, keys: Path, delta: Path) -> None:
    assert (ran := cli("verify", delta, "--sign", keys / "anna", "--json")).status == 0, ran.err
    assert ran.json()["signature"] == {"kind": "ed25519", "key": fingerprint(keys / "anna.pub"), "signer": None}
    assert fingerprint(keys / "anna.pub") in cli("verify", delta).out
    ran = cli("verify", delta, "--signers", keys / "signers")
    assert ran.status == 0 and "Signed by anna@example.org" in ran.out
    assert tuneport.verify(delta, signers=keys / "signers").signature == tuneport.verify(
        delta, sign=keys / "anna", signers=keys / "signers"
    ).signature  # fmt: skip


def test_somebody_elses_signature_and_none_are_no_signers(keys: Path, delta: Path) -> None:
    with pytest.raises(VerificationError, match="nobody signed"):
        tuneport.verify(delta, signers=keys / "signers")
    tuneport.verify(delta, sign=keys / "ben")
    with pytest.raises(VerificationError, match="none of the signers"):
        tuneport.verify(delta, signers=keys / "signers")


def test_what_was_changed_and_made_consistent_again_does_not_fit_the_signature(keys: Path, delta: Path) -> None:
    tuneport.verify(delta, sign=keys / "anna")
    manifest = json.loads((delta / "tuneport.json").read_text())
    manifest["environment"]["system"] = "another"
    (delta / "tuneport.json").write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match=SIGNATURE):
        tuneport.verify(delta)
    with pytest.raises(VerificationError, match=SIGNATURE):
        tuneport.verify(delta, signers=keys / "signers")


def test_only_what_verifies_is_signed(keys: Path, delta: Path) -> None:
    with (delta / "diff.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    with pytest.raises(TuneportError):
        tuneport.verify(delta, sign=keys / "anna")
    assert not (delta / SIGNATURE).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----",
        b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAf////8=\n-----END SSH SIGNATURE-----",
        b"\xff" * 1000,
        b"A" * 100_000,
    ],
)
def test_hostile_signatures_are_errors_in_words(keys: Path, delta: Path, content: bytes) -> None:
    (delta / SIGNATURE).write_bytes(content)
    for signers in (None, keys / "signers"):
        with pytest.raises(VerificationError, match=SIGNATURE):
            tuneport.verify(delta, signers=signers)


def test_a_pipe_is_not_waited_for(delta: Path) -> None:
    os.mkfifo(delta / SIGNATURE)
    with pytest.raises(VerificationError, match=SIGNATURE):
        tuneport.verify(delta)


def test_a_signature_made_for_something_else_is_refused(keys: Path, delta: Path) -> None:
    with (delta / "tuneport.json").open("rb") as manifest:
        ask = ["ssh-keygen", "-Y", "sign", "-f", keys / "anna", "-n", "git"]
        (delta / SIGNATURE).write_bytes(subprocess.run(ask, stdin=manifest, check=True, capture_output=True).stdout)
    with pytest.raises(VerificationError, match=SIGNATURE):
        tuneport.verify(delta)


def test_what_is_no_key_is_an_error_of_that_option(keys: Path, delta: Path) -> None:
    for key in (keys / "nobody", keys / "signers"):
        with pytest.raises(UsageError) as caught:
            tuneport.verify(delta, sign=key)
        assert [fault.option for fault in caught.value.faults] == ["sign"]


def test_a_signed_vector_is_applied_and_replaced_like_any_other(cli: Cli, keys: Path, delta: Path) -> None:
    tuneport.verify(delta, sign=keys / "anna")
    where = delta.parent
    assert cli("apply", delta, "--onto", where / "target", "--out", where / "out").status == 0
    argv = ["diff", "--base", where / "base", "--tuned", where / "target", "--out", delta, "--overwrite"]
    assert (ran := cli(*argv)).status == 0, ran.err
    assert not (delta / SIGNATURE).exists() and tuneport.verify(delta).signature is None


def test_a_pushed_folder_leaves_the_signature_behind(keys: Path, delta: Path) -> None:
    tuneport.verify(delta, sign=keys / "anna")
    names = _whole(delta, Running())[0]
    assert "tuneport.json" in names and SIGNATURE not in names
