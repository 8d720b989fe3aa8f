"""The difference of a base and its tuned model, or adapter, beside a target."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.floats import working_dtype
from tuneport.engine.adapted_terms import adapted_terms
from tuneport.engine.choices import Choices
from tuneport.engine.parents import PairedParents, equal_pairs, pair_models
from tuneport.engine.pieces import PARENTS, DifferenceRecipe, Roles, Source, Term
from tuneport.engine.plan import Added, LostRows, Plan
from tuneport.engine.summands.summand import Summand, Terms
from tuneport.engine.summands.summed_plan import plan_sum
from tuneport.engine.tokens import Matrices, lost_runs
from tuneport.pairing.account import Account, ParentPair, TensorPair
from tuneport.pairing.name_rules import lay_rules
from tuneport.pairing.rows import Runs
from tuneport.pairing.tensors import pair_target
from tuneport.pairing.vocabulary import RowMap
from tuneport.pairing.vocabulary_matrices import columns_of, rows_of


@dataclass(frozen=True, kw_only=True)
class PairSummand(Summand):
    """Base and tuned, paired with each other and with a target."""

    paired: PairedParents
    roles: Roles
    matrices: Matrices

    @property
    def names(self) -> Iterator[str]:
        """Those of the base's pairs, and of what only one of the two has."""
        return itertools.chain((pair.name for pair in self.paired.parents.pairs.values()), self.paired.parents.alone)

    def terms(self, line: TensorPair, scale: float, *, by_row: bool) -> Terms:
        """The scaled difference, or what an adapter adds."""
        assert line.pair is not None and line.target is not None
        base, tuned, change = line.pair.base, line.pair.tuned, line.pair.change
        matched = line.by_token or by_row or (change is not None and change.rows is not None)
        rows = self.matrices.map(rows_of(base), rows_of(tuned), rows_of(line.target)) if matched else None
        if change is None:
            runs = self.matrices.runs(base, tuned, line.target) if matched else None
            terms: tuple[Term, ...] = (difference(line.pair, self.roles, scale, runs),)
        else:
            terms = adapted_terms(line.pair, scale, rows, columns_of(line.target), self.roles)
        return Terms(terms, None if rows is None else rows.rows, (base.dtype, tuned.dtype))

    def lost(self) -> Iterator[LostRows]:
        """What the fine-tuning changed in rows of tokens that the target lacks."""
        for line in self.account.by_token():
            if line.pair is None or line.pair.untrained:
                continue
            base, tuned, columns = line.pair.base, line.pair.tuned, columns_of(line.pair.base)
            rows = self.match.lost_rows(rows_of(base), rows_of(tuned))
            if not len(rows):
                continue
            if line.pair.change is None:
                runs = lost_runs(rows[:, 0], rows[:, 1], columns)
                terms: tuple[Term, ...] = (difference(line.pair, self.roles, 1.0, runs),)
            else:
                places = np.arange(len(rows), dtype=np.int64)
                meet = RowMap(len(rows), places, rows[:, 0], rows[:, 1])
                terms = adapted_terms(line.pair, 1.0, meet, columns, self.roles)
            recipe = DifferenceRecipe(line.name, terms, working_dtype(base.dtype, tuned.dtype))
            yield LostRows(recipe, len(rows) * columns)

    def dropped(self) -> Iterator[LostRows]:
        """The differences of tensors that the target lacks."""
        return dropped(self.account, self.roles)


def difference(pair: ParentPair, roles: Roles, scale: float = 1.0, runs: Runs | None = None) -> Term:
    """Tuned minus base of a full model's tensor."""
    return Term(Source(roles.tuned, pair.tuned), Source(roles.base, pair.base), scale, runs)


def dropped(account: Account, roles: Roles = PARENTS) -> Iterator[LostRows]:
    """The differences of tensors that have no place in the output, where they can be told."""
    for line in account.of("dropped"):
        pair = line.pair
        if pair is None or pair.exact or pair.base.shape != pair.tuned.shape:
            continue
        if pair.change is None:
            terms: tuple[Term, ...] = (difference(pair, roles),)
        elif pair.change.rows is not None:
            rows = np.arange(rows_of(pair.base), dtype=np.int64)
            terms = adapted_terms(pair, 1.0, RowMap(len(rows), rows, rows, rows), columns_of(pair.base), roles)
        else:
            terms = () if pair.untrained else adapted_terms(pair, 1.0, None, columns_of(pair.base), roles)
        recipe = DifferenceRecipe(line.name, terms, working_dtype(pair.base.dtype, pair.tuned.dtype))
        yield LostRows(recipe, pair.base.elements)


def add_pair(
    base: Checkpoint, tuned: Checkpoint, target: Checkpoint, scale: float, choices: Choices, words: str
) -> PairSummand:
    """The summand of tuned − base, which the formula calls ``words``. Raises where the models do not belong together."""
    paired = pair_models(base, tuned, target, choices)
    roles, match = Roles(base.role, tuned.role), paired.matched.match
    rules = lay_rules(choices.rules, target.tensors)
    account = pair_target(paired.parents, target, paired.ties[2], rules, bool(match.added))
    return PairSummand(
        added=Added(roles.tuned, account, scale, roles.base),
        inputs=(base, tuned),
        words=words,
        sidecars=(paired.base.sidecars, paired.tuned.sidecars),
        matched=paired.matched,
        account=account,
        decisions=paired.decisions,
        warnings=paired.adapted.warnings,
        refusals=paired.parents.refusals,
        hints=tuple(paired.aligned.hints()) if _refuses(paired, account) else (),
        exact=equal_pairs(account, roles),
        alike=tuple((roles.tuned, alike) for alike in paired.adapted.alike),
        paired=paired,
        roles=roles,
        matrices=Matrices(match),
    )


def plan_transfer(base: Checkpoint, tuned: Checkpoint, target: Checkpoint, choices: Choices) -> Plan:
    """The plan of target + scale·(tuned − base). Raises an error if the models do not belong together."""
    return plan_sum(
        "transfer", [add_pair(base, tuned, target, choices.scale, choices, "(tuned − base)")], target, choices
    )


def _refuses(paired: PairedParents, account: Account) -> bool:
    return bool(paired.parents.refusals) or any(True for _ in account.places("refused"))
