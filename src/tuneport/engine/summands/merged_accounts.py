"""One account of several: what becomes of each of the target's tensors when all differences are added."""

from __future__ import annotations

from collections.abc import Sequence

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.files.lazy_sequences import LazyMapping
from tuneport.pairing.account import Account, ParentPair
from tuneport.pairing.vocabulary_names import Ties

# Of a tensor's lines in several accounts the first of these is the one of the merged account.
_ORDER = {"refused": 0, "resized": 1, "transferred": 2, "copied": 3, "dropped": 4}


def merge_accounts(accounts: Sequence[Account], target: Checkpoint) -> tuple[Account, list[str]]:
    """The account, and why tensors are refused: one is transferred if any summand has a difference for it."""
    refusals = list(dict.fromkeys(line.reason for account in accounts for line in account.of("refused")))
    if len(accounts) == 1:
        return accounts[0], refusals
    chosen: dict[str, tuple[Account, int]] = {}
    for account in accounts:
        for number, line in enumerate(account):
            held = chosen.get(line.name)
            if held is None or _ORDER[line.fate] < _ORDER[held[0][held[1]].fate]:
                chosen[line.name] = account, number

    def pair(name: str) -> ParentPair:
        account, number = chosen[name]
        found = account[number].pair
        assert found is not None, "only lines with a pair ask for this"
        return found

    merged = Account(LazyMapping(chosen, pair), Ties(False, None, ()), target.tensors)
    for account, number in chosen.values():
        merged.append(account[number])
    return merged, refusals
