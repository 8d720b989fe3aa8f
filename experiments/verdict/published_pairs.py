"""What the verdict's figures let us expect of published pairs, written down before anybody here had their weights.

Of some the scores are published, so they are no test of the scores; that `compare` would find what is said here of the weights is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedPair:
    """A pair, what is published of it, what `compare` is expected to find, the word that should follow, and how to check."""

    pair: str
    known: str
    expected: str
    word: str
    check: str


PAIRS = (
    PublishedPair(
        "Llama 3.1 8B + Δ(Llama 3.0 Instruct)",
        "Table 1: GSM8K 56.6 → 79.8 (Instruct 86.5), IFEval 36.4 → 83.3 (80.5), MATH 19.3 → 29.9 (50.3)",
        "versions of one model (cosine well over 0.1), roles at a right angle, distance larger than ‖Δ‖; `files` warns: rope differs",
        "likely on format, uncertain on reasoning",
        "the four checkpoints (64 GB); `compare`, then IFEval and GSM8K",
    ),
    PublishedPair(
        "Llama 3.0 8B + Δ(Llama 3.1 Instruct)",
        "Table 1: GSM8K 55.6 → 82.8 (Instruct 81.1), IFEval 34.5 → 76.6 (76.6)",
        "the same distance, seen from the other end; ‖Δ‖ about as large",
        "likely",
        "the same files",
    ),
    PublishedPair(
        "OLMo 2 7B: M5 + Δ(M4), M4 + Δ(M5)",
        "Table 3: GSM8K 65.5 → 77.1 (FT 75.5); 64.5 → 72.9 (75.7). M4 and M5 are 6,000 steps of a falling rate apart",
        "the smallest distance of all ten pairs",
        "likely",
        "five revisions of allenai/OLMo-2-1124-7B (146 GB); their fine-tunings are not published: `tune` with section 3.1's choices",
    ),
    PublishedPair(
        "OLMo 2 7B: M4, M5 + Δ(M3)",
        "Table 3: 64.5 → 68.6 (FT 75.7), 65.5 → 70.3 (75.5): about 40 % of the gain",
        "a distance between that of M4–M5 and that of M2–M3, for the second stage is short",
        "uncertain",
        "as above",
    ),
    PublishedPair(
        "OLMo 2 7B: M4, M5 + Δ(M1), Δ(M2)",
        "Table 3: 64.5 → 27.5, 25.9; 65.5 → 19.6, 17.3: harm",
        "the largest distances; ‖Δ‖ small against them",
        "unlikely",
        "as above",
    ),
    PublishedPair(
        "OLMo 2 7B: M1, M2, M3 + Δ(M4), Δ(M5)",
        "Table 3: 13.2 → 11.8, 11.9; 19.4 → 18.0, 16.0; 24.4 → 22.6, 24.0",
        "the same distances from the other end, but for M3–M4, which is short; M3 + Δ(M4) would be missed by distance alone",
        "unlikely; M3 + Δ(M4) uncertain",
        "as above",
    ),
    PublishedPair(
        "Llama 3.1 Instruct + Δ(Turkish, Malagasy, Sinhala on Llama 3.0 Instruct)",
        "Table 2: Turkish 27.7 → 43.2, Malagasy 27.6 → 32.3, Sinhala 33.0 → 32.3",
        "instruct models of two versions lie farther apart than their bases; Δ (30,000 steps at 5e-6) is small",
        "uncertain: where the target knows the language already, there is nothing to gain, and weights do not tell that",
        "both instruct models (32 GB) and the three fine-tunings, which are not published",
    ),
    PublishedPair(
        "Llama 3 70B + Δ (Param∆)",
        "reported to work",
        "near versions of one model, as at 8 B",
        "likely",
        "four checkpoints of 141 GB; `compare` reads them in its memory bound",
    ),
    PublishedPair(
        "Sailor + Δ(Qwen1.5-Chat)",
        "reported to fail: Sailor is Qwen1.5 after long further pretraining on other languages",
        "a distance far beyond ‖Δ‖, most of it in the embedding",
        "unlikely",
        "Qwen1.5-7B, its chat model and Sailor-7B (46 GB)",
    ),
    PublishedPair(
        "Swallow + Δ(Llama 2 Chat)",
        "reported to work: Llama 2 after further pretraining on Japanese, with a longer vocabulary",
        "a distance of the order of Sailor's, or less; tokens all have a place. If it is not smaller, distance alone cannot distinguish the two",
        "uncertain",
        "Llama 2 7B, its chat model and Swallow-7b (40 GB)",
    ),
)
