"""Sign a finished folder with an SSH key, and check who signed one.

What is signed is the manifest, which has a digest of every tensor and of every other file, so a signature of it and a
verified folder prove all of them (but for the user's own section of the card). `ssh-keygen -Y` makes and checks the
signature; nothing goes over a network, and nothing in a signature is executed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneport.errors import Fault, UsageError, VerificationError, named
from tuneport.files.opening import opened, read_bytes
from tuneport.files.printable import printable_line
from tuneport.files.writing import write_new

SIGNED = "tuneport.json"
SIGNATURE = f"{SIGNED}.sig"
# What a signature is for, so that one made for mail or a commit is not taken for one of a model.
NAMESPACE = "tuneport"
_MOST_BYTES = 2**16
_MOST_SIGNERS = 2**20
_SECONDS = 60
_BEGIN, _END, _MAGIC = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----", b"SSHSIG"


@dataclass(frozen=True)
class Signature:
    """A signature that fits the manifest: the key's kind and fingerprint, and its owner where a list of signers names one."""

    kind: str
    key: str
    signer: str | None = None

    def __str__(self) -> str:
        """As a sentence."""
        if self.signer is None:
            return f"Signed with the key {self.key} ({self.kind}); {named('signers')} checks whose it is."
        return f"Signed by {printable_line(self.signer)} ({self.kind} {self.key})."


def sign(out: Path, key: str | os.PathLike[str]) -> None:
    """Sign the manifest with an SSH key: a private key's file, or a public key's whose private one an agent holds.

    Raises `UsageError` if there is no such key, or `ssh-keygen` refuses it.
    """
    place = Path(os.path.expanduser(key))
    if not place.is_file():
        raise UsageError(Fault("sign", str(key), "is not a file", "Give an SSH key, for example ~/.ssh/id_ed25519"))
    with opened(out / SIGNED, out) as manifest:
        done = _ssh_keygen(["sign", "-f", str(place.resolve()), "-n", NAMESPACE], manifest.fileno())
    if done.returncode:
        told = printable_line(done.stderr.decode(errors="replace").strip())
        raise UsageError(Fault("sign", str(key), f"could not sign: {told}", "Give an SSH key that ssh-keygen can use"))
    fresh = out / f"{SIGNATURE}.new"
    write_new(fresh, done.stdout)
    fresh.replace(out / SIGNATURE)


def check_signature(out: Path, signers: str | os.PathLike[str] | None) -> Signature | None:
    """Who signed a folder; None where nobody did. ``signers`` is a file of allowed signers, as ssh and git have it.

    Raises `VerificationError` for a signature that does not fit, or that none of the ``signers`` made.
    """
    if not os.path.lexists(out / SIGNATURE):
        if signers is None:
            return None
        raise VerificationError(f"{out} has no {SIGNATURE}: nobody signed it. Leave out {named('signers')}.")
    try:
        content = read_bytes(out / SIGNATURE, out, _MOST_BYTES)
    except OSError as error:
        raise VerificationError(f"{out / SIGNATURE} cannot be read: {error.strerror}.") from None
    kind, key = _key_of(content, out)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "signature"
        copy.write_bytes(content)
        if signers is None:
            _must_fit(out, ["check-novalidate", "-n", NAMESPACE, "-s", str(copy)])
            return Signature(kind, key)
        allowed = Path(scratch) / "signers"
        allowed.write_bytes(_signers(signers))
        found = _ssh_keygen(["find-principals", "-s", str(copy), "-f", str(allowed)])
        names = found.stdout.decode(errors="replace").splitlines() if not found.returncode else []
        if not names:
            raise VerificationError(
                f"{out} is signed with the key {key} ({kind}), which none of the signers in {signers} has."
            )
        _must_fit(out, ["verify", "-n", NAMESPACE, "-s", str(copy), "-f", str(allowed), "-I", names[0]])
        return Signature(kind, key, names[0])


def _must_fit(out: Path, arguments: Sequence[str]) -> None:
    with opened(out / SIGNED, out) as manifest:
        done = _ssh_keygen(arguments, manifest.fileno())
    if done.returncode:
        raise VerificationError(
            f"{out / SIGNATURE} does not fit {SIGNED}: one of the two was changed after signing, or the signature is of "
            f"something else. Get the folder again from whoever signed it."
        )


def _signers(place: str | os.PathLike[str]) -> bytes:
    try:
        return read_bytes(os.path.expanduser(place), None, _MOST_SIGNERS)
    except OSError as error:
        raise UsageError(Fault("signers", str(place), f"cannot be read: {error.strerror}")) from None


def _key_of(content: bytes, out: Path) -> tuple[str, str]:
    """Kind and fingerprint of the key in an armoured signature (PROTOCOL.sshsig of OpenSSH)."""
    lines = content.decode("ascii", "replace").split()
    text = " ".join(lines)
    try:
        if not (text.startswith(_BEGIN) and text.endswith(_END)):
            raise ValueError
        packed = base64.b64decode(text[len(_BEGIN) : -len(_END)].replace(" ", ""), validate=True)
        if not packed.startswith(_MAGIC):
            raise ValueError
        key = _string(packed, len(_MAGIC) + 4)
        kind = _string(key, 0).decode("ascii")
    except (ValueError, binascii.Error, UnicodeDecodeError):
        raise VerificationError(
            f"{out / SIGNATURE} is not a signature of ssh-keygen. Remove it, or sign again."
        ) from None
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return printable_line(kind.removeprefix("ssh-")), f"SHA256:{digest}"


def _string(packed: bytes, start: int) -> bytes:
    """A string with its length before it. Raises ValueError where the bytes end before it does."""
    size = int.from_bytes(packed[start : start + 4])
    found = packed[start + 4 : start + 4 + size]
    if not size or len(found) != size:
        raise ValueError
    return found


def _ssh_keygen(arguments: Sequence[str], stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", "-Y", *arguments], stdin=stdin, capture_output=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise VerificationError("Signatures need ssh-keygen (OpenSSH 8.2 or newer), which is not installed.") from None
    except subprocess.TimeoutExpired:
        raise VerificationError(f"ssh-keygen did not answer within {_SECONDS} seconds.") from None
