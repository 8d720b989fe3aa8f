"""Prepare base and tuned for subtraction: align names, apply an adapter to its base, match rows, pair tensors.

The plan of a transfer uses this with a target, the plan of a diff vector without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.quantised.codes import ROUNDED_AWAY
from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.engine.choices import Choices
from tuneport.engine.pieces import PARENTS, Roles, Source
from tuneport.engine.tokens import MatchedRows, match_rows, token_decisions
from tuneport.pairing.account import Account
from tuneport.pairing.adapters.adapted import Adapted, check_ids, lay_onto
from tuneport.pairing.model_kinds import check_architectures
from tuneport.pairing.spelling import Aligned, align
from tuneport.pairing.tensors import Parents, check_readable, pair_parents, ties_of
from tuneport.pairing.vocabulary_matrices import Side
from tuneport.pairing.vocabulary_names import Ties
from tuneport.sidecars.config import is_tied
from tuneport.sidecars.merge import Decision


@dataclass(frozen=True)
class PairedParents:
    """``base`` and ``tuned`` as they are compared: under the names of the target, and of an adapter the model that it makes.

    ``inputs`` are the checkpoints as they are given, ``ties`` those of base, tuned and, if there is one, target.
    """

    inputs: tuple[Checkpoint, ...]
    base: Checkpoint
    tuned: Checkpoint
    ties: tuple[Ties, ...]
    aligned: Aligned
    adapted: Adapted
    matched: MatchedRows
    parents: Parents

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was decided about names, an adapter and tokens."""
        return (
            *self.aligned.decisions,
            *self.adapted.decisions,
            *token_decisions(self.matched.match),
        )

    def refusals(self, account: Account) -> tuple[str, ...]:
        """Why the difference of these two cannot be taken; ``account`` has their tensors."""
        refused = (*self.parents.refusals, *(line.reason for line in account.of("refused")))
        return (*self.matched.refusals, *refused, *(self.aligned.hints() if refused else ()))


def pair_models(base: Checkpoint, tuned: Checkpoint, target: Checkpoint | None, choices: Choices) -> PairedParents:
    """Pair base and tuned. Raises where the models do not belong together at all."""
    inputs = (base, tuned) if target is None else (base, tuned, target)
    for checkpoint in inputs:
        if checkpoint.adapter is None or checkpoint is not tuned:
            check_readable(checkpoint)
    check_architectures(*inputs, renames=choices.renames)
    aligned = align((base, tuned), base if target is None else target, choices.renames, choices.drop)
    base, tuned = aligned.checkpoints
    adapted = Adapted(tuned, None)
    if tuned.adapter is not None:
        adapted = lay_onto(tuned, base, is_tied(base.config), target, choices.renames)
    tuned = adapted.model
    models = (base, tuned, *inputs[2:])
    ties = tuple(map(ties_of, models))
    last = SidecarFolder("target", base.label, base.path) if target is None else target.sidecars
    # Without a target new tokens are always kept: whether one takes them is decided when the vector is applied.
    asked = choices if target is not None else replace(choices, new_tokens="append")
    matched = match_rows((base.sidecars, tuned.sidecars, last), list(map(Side.of, models, ties)), asked)
    if adapted.changes is not None:
        check_ids(matched.match, tuned)
    own = ties[0], ties[1]
    parents = pair_parents(base, tuned, own, matched.by_token, choices.drop, adapted.changes, aligned.outside)
    return PairedParents(inputs, base, tuned, ties, aligned, adapted, matched, parents)


def equal_pairs(account: Account, roles: Roles = PARENTS) -> tuple[tuple[Source, Source], ...]:
    """Tensors of an account that hold no floats, and must be equal in base and tuned."""
    pairs = (line.pair for line in account.of("copied", "dropped"))
    return tuple(
        (Source(roles.base, pair.base), Source(roles.tuned, pair.tuned))
        for pair in pairs
        if pair is not None and pair.exact and not pair.untrained
    )


def read_through_scales(inputs: Sequence[Checkpoint]) -> tuple[Decision, ...]:
    """Which inputs are stored as codes with scales."""
    return tuple(
        Decision(
            f"weights.{checkpoint.role}",
            "read through their scales",
            f"{checkpoint.scaled.in_words()}; added in float32"
            + ("" if checkpoint.role != "target" else ", written as plain floats, without quantization_config"),
        )
        for checkpoint in inputs
        if checkpoint.scaled is not None
    )


def rounded_parents(inputs: Sequence[Checkpoint]) -> tuple[str, ...]:
    """A warning where base or tuned is stored as codes: Δ then holds what these rounded away."""
    found = [each for each in inputs if each.role.startswith(("base", "tuned")) and each.scaled is not None]
    if not found:
        return ()
    formats = {name: ROUNDED_AWAY[name] for each in found if each.scaled is not None for name in each.scaled.formats()}
    told = ", ".join(f"{name} about {share:.1%}" for name, share in sorted(formats.items()))
    return (
        f"{' and '.join(each.role for each in found)}: weights are stored as codes with scales, which round: {told} of "
        "the weights' norm. Δ contains that as well. Compare ‖Δ‖ with ‖base‖ in the manifest: if Δ is not much larger than "
        "the rounding, give the bfloat16 checkpoints.",
    )


def told_at_opening(inputs: Sequence[Checkpoint]) -> tuple[str, ...]:
    """What lies beside the weights of the inputs and was not read, in words."""
    return tuple(warning for checkpoint in inputs for warning in checkpoint.warnings)
