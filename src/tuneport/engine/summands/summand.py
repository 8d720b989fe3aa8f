"""One difference that is added to a target: what a plan needs to know of it, wherever it comes from.

A pair of base and tuned model is one kind (`PairSummand`), a stored diff vector the other (`diffvector/`). A plan of
several adds them one after another (`summed_plan.py`).
"""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tuneport.checkpoint.adapter import Alike
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.engine.pieces import Source, Term
from tuneport.engine.plan import Added, LostRows
from tuneport.engine.summands.lineage import Lineage
from tuneport.engine.tokens import MatchedRows
from tuneport.errors import PairingError
from tuneport.pairing.account import Account, TensorPair
from tuneport.pairing.name_rules import Rename
from tuneport.pairing.vocabulary import VocabularyMatch
from tuneport.sidecars.merge import Decision


@dataclass(frozen=True)
class Terms:
    """What is added to one tensor. ``rows``: how many it then has, where they are matched; ``dtypes`` of what is read."""

    terms: tuple[Term, ...]
    rows: int | None
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Summand(ABC):
    """A difference beside a target. ``inputs`` are the checkpoints that it is read from, ``words`` its name in a formula.

    ``account`` has a line for each tensor of the target, ``sidecars`` are the small files of base and tuned. ``refusals`` are
    those of no single line of the account; ``hints`` are given beside any. ``lineage``: what the target is to a stored vector.
    """

    added: Added
    inputs: tuple[Checkpoint, ...]
    words: str
    sidecars: tuple[SidecarFolder, SidecarFolder]
    matched: MatchedRows
    account: Account
    decisions: tuple[Decision, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    exact: tuple[tuple[Source, Source], ...] = ()
    alike: tuple[tuple[str, Alike], ...] = ()
    lineage: Lineage | None = None

    @property
    def label(self) -> str:
        """What brings the difference, by its name."""
        return self.inputs[-1].label

    @property
    def match(self) -> VocabularyMatch:
        """How its tokens meet the target's."""
        return self.matched.match

    @property
    @abstractmethod
    def names(self) -> Iterator[str]:
        """Names of tensors that an expression may be for."""

    @abstractmethod
    def terms(self, line: TensorPair, scale: float, *, by_row: bool) -> Terms:
        """What is added to the tensor of a line of its account, which is transferred or resized.

        ``by_row``: its rows have scales of their own, so they are matched one by one in any case.
        """

    @abstractmethod
    def lost(self) -> Iterator[LostRows]:
        """What it holds for rows of tokens that the target lacks, matrix by matrix."""

    @abstractmethod
    def dropped(self) -> Iterator[LostRows]:
        """What it holds for tensors that have no place in the output, where that can be told."""


def adds(line: TensorPair | None) -> bool:
    """Whether a line of an account takes a difference."""
    return line is not None and line.pair is not None and line.fate in ("transferred", "resized")


def of_one(one: Summand, decisions: Iterable[Decision], summands: Sequence[Summand]) -> list[Decision]:
    """Decisions about one of several summands, which say of which."""
    if len(summands) == 1:
        return list(decisions)
    return [replace(decision, subject=f"{one.words}: {decision.subject}") for decision in decisions]


def check_one_vocabulary(summands: Sequence[Summand]) -> None:
    """Raise `PairingError` if more than one summand changes the tokens."""
    changing = [each.label for each in summands if each.match.changes]
    if len(changing) > 1:
        raise PairingError(
            f"{' and '.join(changing)} each add or rename tokens, so the new ids would depend on their order. Add "
            f"them in separate runs, one after another: the output of the first is the target of the second."
        )


def renames_of_each(renames: tuple[Rename, ...], names: Sequence[Iterable[str]]) -> list[tuple[Rename, ...]]:
    """Of several summands, by the names of their tensors, the renames of each: one may be meant for some of them only.

    A rename that finds nothing anywhere stays with all, which refuse it.
    """
    if not renames or len(names) == 1:
        return [renames] * len(names)
    listed = map(list, names)
    found = [{each for each in renames if any(re.search(each.pattern, name) for name in own)} for own in listed]
    lost = set(renames) - set(itertools.chain.from_iterable(found))
    return [tuple(rename for rename in renames if rename in own or rename in lost) for own in found]
