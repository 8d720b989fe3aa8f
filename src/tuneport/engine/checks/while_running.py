"""Checks that need the values: integers that differ, tied heads that are not equal, NaN and infinity."""

from __future__ import annotations

from tuneport.checkpoint.reading import Workspace
from tuneport.engine.budget import PIECE
from tuneport.engine.pieces import Readers, Rows, Source, Sum, equal, nonfinite_in
from tuneport.engine.plan import OutputTask, Plan
from tuneport.engine.product import are_alike
from tuneport.errors import PairingError, listing, named
from tuneport.files.printable import quoted
from tuneport.pairing.tensors import stored_twice, ties_of


def check_exact(plan: Plan, readers: Readers) -> None:
    """Integers and booleans have no difference: base and tuned must be equal."""
    space = Workspace()
    different = [
        quoted(base.tensor.name) + (f" ({base.role}, {tuned.role})" if len(plan.added) > 1 else "")
        for base, tuned in plan.exact
        if base.tensor.shape != tuned.tensor.shape or not equal(base, tuned, readers, space, PIECE)
    ]
    if different:
        raise PairingError(
            f"These tensors hold integers or booleans and differ between base and tuned, so their difference cannot "
            f"be transferred:{listing(different)}"
        )


def check_tied(plan: Plan, readers: Readers) -> None:
    """A tied head that is stored beside its embedding must hold the same: transformers 5 unties two that differ."""
    space = Workspace()
    different = [
        f"{checkpoint.role} {checkpoint.label}: {quoted(head.name)} is not the same as {quoted(embedding.name)}"
        for checkpoint in plan.inputs
        for embedding, head in stored_twice(checkpoint, ties_of(checkpoint))
        if (embedding.dtype, embedding.shape) != (head.dtype, head.shape)
        or not equal(Source(checkpoint.role, embedding), Source(checkpoint.role, head), readers, space, PIECE)
    ]
    differing = [a for role, a in plan.alike if not a.fits or not are_alike(a, readers[role], space)]
    copies = [f"{quoted(alike.one.name)} and {quoted(alike.other.name)}" for alike in differing if alike.copies]
    if copies:
        raise PairingError(
            f"The adapter contains one trained matrix twice, and the copies differ: {'; '.join(copies)}. Load it with "
            "peft and save it again (save_pretrained), or remove the copy that you do not need from its file."
        )
    apart = [f"{quoted(alike.one.name)} and {quoted(alike.other.name)}" for alike in differing]
    if apart:
        raise PairingError(
            "The base's config ties head and embedding, but the adapter trained them separately and saved two "
            "different matrices: "
            f"{'; '.join(apart)}. Merge it with peft onto a base without `tie_word_embeddings`, and pass both."
        )
    if different:
        raise PairingError(
            f"The config ties head and embedding, but both are stored with different values, so one would be "
            f"lost:{listing(different)}\nIf you need the head, set `tie_word_embeddings` to false in that "
            f"config.json; if not, remove it from the checkpoint."
        )


def nonfinite_in_words(bad: list[tuple[OutputTask, int]], readers: Readers) -> str:
    """Name each tensor, the count, and where the NaN or infinity comes from."""
    space, lines, too_large = Workspace(), [], False
    for task, count in bad:
        sources = _input_counts(task, readers, space)
        origin = ", ".join(f"{number:,} in {role}" for role, number in sources.items() if number)
        if not origin:
            origin = "too large for float16" if task.slot.dtype == "F16" else "caused by the sum"
            too_large |= task.slot.dtype == "F16"
        lines.append(f"{quoted(task.slot.name)}: {count:,} in the output ({origin})")
    told = f"NaN or infinity:{listing(lines)}\n"
    if too_large:
        told += f"The largest float16 value is 65,504: choose {named('dtype', 'bfloat16')} or float32. "
    return (
        f"{told}Correct the inputs, keep the target's tensor ({named('rules', 'NAME=0')}), or pass "
        f"{named('allow_nonfinite')} to write it anyway."
    )


def _input_counts(task: OutputTask, readers: Readers, space: Workspace) -> dict[str, int]:
    """How many elements of each input are NaN or infinite, by role."""
    terms = () if isinstance(task.recipe, Rows) else task.recipe.terms
    sources = [source for term in terms for source in (term.minus, term.plus) if source is not None]
    products = [term.product for term in terms if term.product is not None]
    sources += [Source(product.role, factor) for product in products for factor in product.low_rank.factors]
    if isinstance(task.recipe, Sum):
        sources.append(task.recipe.target)
    counts: dict[str, int] = {}
    for source in dict.fromkeys(sources):
        counts[source.role] = counts.get(source.role, 0) + nonfinite_in(source, readers, space, PIECE)
    return counts
