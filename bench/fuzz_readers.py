"""`make fuzz-readers`: a coverage-guided fuzzer (atheris) over what reads files of others; each reader for so many seconds.

    python -m bench.fuzz_readers [--seconds 900] [--only header,tokenizer,journal,diff] [--corpus DIR] [--out FILE]

A reader may give a value or raise a `TuneportError`; whatever else it raises is a crash, whose input is kept as well. What was kept
lies in tests/attacks/corpus, one file for each reader, and is read again by a test in each run of CI. atheris is in an environment
of its own.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import random
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "tests" / "attacks" / "corpus"
READERS = ("header", "tokenizer", "journal", "diff")


def main() -> int:
    """Fuzz each reader in a process of its own, two at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=900)
    parser.add_argument("--only", default=",".join(READERS))
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--out", type=Path, help="file for the figures")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.reader:
        fuzz(options.reader, rest)
    told = {}
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            corpus = Path(scratch)
            for number, data in enumerate(kept(name, options.corpus)):
                (corpus / f"kept-{number}").write_bytes(data)
            limits = [f"-max_total_time={options.seconds}", "-rss_limit_mb=2048", "-timeout=20", "-max_len=16384"]
            command = [
                sys.executable,
                "-m",
                "bench.fuzz_readers",
                "--reader",
                name,
                *limits,
                f"-artifact_prefix={corpus}/",
            ]
            done = subprocess.run([*command, str(corpus)], capture_output=True, text=True, cwd=ROOT, check=False)
            found = sorted({file.read_bytes() for file in corpus.iterdir()})
        keep(name, options.corpus, found)
        ended = re.findall(r"^#(\d+)\s+DONE\s+cov: (\d+)", done.stderr, re.MULTILINE)
        runs, covered = map(int, ended[-1]) if ended else (0, 0)
        crashed = bool(done.returncode)
        told[name] = {
            "seconds": options.seconds,
            "runs": runs,
            "covered": covered,
            "kept": len(found),
            "crashed": crashed,
        }
        print(name, json.dumps(told[name]), flush=True)
        if crashed:
            print(done.stderr[-3000:], file=sys.stderr)
    if options.out:
        options.out.write_text(json.dumps(told, indent=1) + "\n")
    return 1 if any(one["crashed"] for one in told.values()) else 0


def kept(name: str, corpus: Path) -> list[bytes]:
    """What earlier runs have kept for a reader; right inputs where there is nothing."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.fuzzed_readers import corpus_of, seeds

    return corpus_of(name, corpus) or seeds(name)


def keep(name: str, corpus: Path, found: list[bytes]) -> None:
    """Keep inputs of a reader as lines of base64."""
    corpus.mkdir(parents=True, exist_ok=True)
    lines = [base64.b64encode(zlib.compress(data, 9)).decode() + "\n" for data in found]
    (corpus / f"{name}.txt").write_text("".join(lines), encoding="ascii")


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one reader until libFuzzer ends the process."""
    import atheris

    sys.path.insert(0, str(ROOT / "tests"))
    with atheris.instrument_imports(include=["tuneport"]):
        from support.fuzzed_readers import READ
    from support.mutated_files import mutated

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        """Half of the time as libFuzzer does, else JSON as JSON."""
        drawn = random.Random(seed)
        return bytes(atheris.Mutate(data, most) if drawn.random() < 0.5 else mutated(data, drawn)[:most])

    atheris.Setup([sys.argv[0], *arguments], lambda data: read(READ[name], data), custom_mutator=mutate)
    atheris.Fuzz()


def read(reader: Callable[[bytes, Path], object], data: bytes) -> None:
    """One input: a value, or an error in words."""
    from tuneport.errors import TuneportError

    silent = contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place, silent, contextlib.suppress(TuneportError):
        reader(data, Path(place))


if __name__ == "__main__":
    sys.exit(main())
