"""How an adapter changes weights that the base's config ties, such as head and embedding: reported once, or refused.

peft ties trained tokens itself, adds an embedding's product to both when it merges, and ties the rest if
``ensure_weight_tying`` was set. Otherwise the head was trained separately, and base and tuned model no longer have the
same structure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tuneport.checkpoint.adapter import AdapterChange, Alike, LowRank
from tuneport.checkpoint.weights import StoredTensor
from tuneport.files.printable import quoted
from tuneport.pairing.vocabulary_names import EMBEDDING, Ties

_APART = (
    "the base's config ties head and embedding, but the adapter trains {} separately, so they no longer share "
    "weights. Merge it with peft (merge_and_unload().save_pretrained(…)) onto a base without `tie_word_embeddings`, "
    "and pass both."
)


def untied(
    changes: Mapping[str, AdapterChange], ties: Ties, kept_tied: bool
) -> tuple[dict[str, AdapterChange], list[Alike], list[str]]:
    """Changes with one for each tied weight, under the name that is stored; what must be alike for that, and faults."""
    found = dict(changes)
    groups: dict[str, list[str]] = {}
    for name in changes:
        if ties.is_shared(name):
            groups.setdefault(ties.weight(name), []).append(name)
    alike: list[Alike] = []
    faults: list[str] = []
    for weight, names in groups.items():
        # Of a decoder that was one half of a model the source is not there; the embedding then stands for it.
        names.sort(key=lambda name: (not ties.is_source(name), EMBEDDING.search(name) is None))
        first, copies = names[0], names[1:]
        own = changes[first]
        if not ties.is_source(first) and own.whole is not None and len(own.whole.shape) == 1 and not copies:
            found[weight] = found.pop(first)  # a head's bias, which nothing but the head uses
        elif not copies and not ties.is_source(first) and EMBEDDING.search(first) is None:
            faults.append(f"{quoted(first)}: {_APART.format('the head')}")
        elif not copies and own.whole is not None and own.low_rank is None and own.rows is None and not kept_tied:
            faults.append(f"{quoted(first)}: {_APART.format('the embedding')}")
        for copy in copies:
            same = _same(own, changes[copy], kept_tied)
            if same is None:
                faults.append(f"{quoted(copy)}: {_APART.format('the head')}")
            else:
                alike += same
                del found[copy]
    return found, alike, faults


def tied_products(changes: Mapping[str, AdapterChange], ties: Ties, kept_tied: bool) -> Iterable[str]:
    """A product on the embedding of a tied model goes onto the head too, which peft trained without it."""
    for name, change in changes.items():
        if change.low_rank is not None and not kept_tied and ties.is_shared(name) and ties.is_source(name):
            yield (
                f"{quoted(name)}: the base ties head and embedding, so the adapter's change of the embedding also "
                f"changes the head, as in peft's own merge. During training the head did not change (peft's "
                f"ensure_weight_tying was off)."
            )


def _same(source: AdapterChange, copy: AdapterChange, kept_tied: bool) -> list[Alike] | None:
    """What must hold the same for the two to be one change; None where they cannot be."""
    pairs = [(source.whole, copy.whole), (_trained(source), _trained(copy))]
    same = all((one is None) == (other is None) for one, other in pairs)
    if source.rows is not None and copy.rows is not None:
        same = same and source.rows.ids == copy.rows.ids
    alike = [Alike(one, other) for one, other in pairs if one is not None and other is not None]
    if isinstance(source.low_rank, LowRank) and isinstance(copy.low_rank, LowRank):
        same = same and kept_tied and source.low_rank.scaling == copy.low_rank.scaling
        alike += [
            Alike(source.low_rank.a, copy.low_rank.b, True),
            Alike(source.low_rank.b, copy.low_rank.a, True),
        ]
    elif source.low_rank is not None or copy.low_rank is not None:
        same = False
    return alike if same else None


def _trained(change: AdapterChange) -> StoredTensor | None:
    return change.rows.tensor if change.rows is not None else None
