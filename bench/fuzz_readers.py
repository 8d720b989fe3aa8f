"""`make fuzz-readers`: a coverage-guided fuzzer (atheris) over what reads files of others; each reader for so many seconds.

    python -m bench.fuzz_readers [--seconds 900] [--only header,tokenizer,journal,diff] [--corpus DIR]

A reader may give a value or raise a `TuneportError`; whatever else it raises is a crash, and its input is kept beside the corpus. The
corpus lies in tests/attacks/corpus and is read again by a test in each run of CI. atheris is in an environment of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import subprocess
import sys
import tempfile
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
        corpus = options.corpus / name
        corpus.mkdir(parents=True, exist_ok=True)
        if not any(corpus.iterdir()):
            begin(name, corpus)
        limits = [f"-max_total_time={options.seconds}", "-rss_limit_mb=2048", "-timeout=20", "-max_len=16384"]
        command = [
            sys.executable,
            "-m",
            "bench.fuzz_readers",
            "--reader",
            name,
            *limits,
            f"-artifact_prefix={corpus}/crash-",
        ]
        done = subprocess.run([*command, str(corpus)], capture_output=True, text=True, cwd=ROOT, check=False)
        ended = re.findall(r"^#(\d+)\s+DONE\s+cov: (\d+)", done.stderr, re.MULTILINE)
        runs, covered = map(int, ended[-1]) if ended else (0, 0)
        kept = len(list(corpus.iterdir()))
        told[name] = {
            "seconds": options.seconds,
            "runs": runs,
            "covered": covered,
            "kept": kept,
            "crashed": bool(done.returncode),
        }
        print(name, json.dumps(told[name]), flush=True)
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
    if options.out:
        options.out.write_text(json.dumps(told, indent=1) + "\n")
    return 1 if any(one["crashed"] for one in told.values()) else 0


def begin(name: str, corpus: Path) -> None:
    """Put right inputs into an empty corpus."""
    sys.path.insert(0, str(ROOT / "tests"))
    from attacks.readers import seeds

    for number, data in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(data)


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one reader until libFuzzer ends the process."""
    import atheris

    sys.path.insert(0, str(ROOT / "tests"))
    with atheris.instrument_imports(include=["tuneport"]):
        from attacks.readers import READ
    from attacks.mutate import mutated

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
