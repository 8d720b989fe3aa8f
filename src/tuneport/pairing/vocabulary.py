"""Match rows of embeddings and heads by token string.

A `VocabularyMatch` says which row of the output uses which rows of the three models, which tokens are renamed or added,
and what is kept or lost, by name. No row gets the difference of another token's row, and no token is dropped without
being listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.small_files import TOKENIZER_FILES, SidecarFolder
from tuneport.errors import CheckpointError, PairingError, TuneportError, listing, named
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.edit import can_rename
from tuneport.tokenizer.token_changes import AddedToken, TokenChanges
from tuneport.tokenizer.tokenizer import (
    Parsed,
    Tokenizer,
    is_readable,
    read_listed_tokens,
    read_tokenizer,
    tokenizers_agree,
)

Rows = NDArray[np.int64]
NONE = -1
# Rows that are matched one by one; the largest vocabularies have 300,000.
MOST_ROWS = 2**22
Folders = tuple[SidecarFolder, SidecarFolder, SidecarFolder]
How = Literal["identical", "strings", "positions"]
NewTokens = Literal["append", "all", "drop"]
# What model makers call the slots they hold free for later: Llama, Mistral, Gemma, T5, Qwen, Nemotron, Phi, Falcon, DeepSeek.
# All are marked off by brackets; `▁reserved` is a word.
_PLACEHOLDER = re.compile(
    r"^(?:<|\[|>>)(?:.*(?:reserved|unused|place▁?holder).*|\|?(?:control|extra|dummy|special)(?:_id)?_\d+\|?)(?:>|\]|<<)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Vocabularies:
    """The vocabularies of base, tuned and target, read as far as matching their rows needs it.

    ``tokenizers`` are whole with ``strings``; with ``positions`` they hold what can be read, to know tokens by name that
    have no row in common; None where nothing had to be read. ``why`` is the reason for ``how``.
    """

    how: How
    why: str
    folders: Folders
    tokenizers: tuple[Tokenizer, Tokenizer, Tokenizer] | None = field(default=None, repr=False)

    @property
    def sizes(self) -> tuple[int | None, int | None, int | None]:
        """How many ids each tokenizer counts, where rows are matched by string."""
        if self.how != "strings" or self.tokenizers is None:
            return None, None, None
        base, tuned, target = self.tokenizers
        return base.size, tuned.size, target.size


@dataclass(frozen=True)
class TokenRename:
    """A token that the tuned model has in place of one of base's, and its ids."""

    old: str
    new: str
    base_id: int
    tuned_id: int
    target_id: int


@dataclass(frozen=True)
class RowMap:
    """One vocabulary matrix of the output, row by row: where each row comes from (-1: from nowhere).

    All three given: target row + Δ. Only ``target``: that row as it stands. Only ``tuned``: raw, the tuned row as
    it stands (it may take a padded row's place).
    """

    rows: int
    target: Rows
    base: Rows
    tuned: Rows


@dataclass(frozen=True)
class VocabularyMatch:
    """How the three vocabularies belong together; everything that is not simply matched is listed by name.

    ``matched`` counts the rows (identical, positions) or tokens (strings) of the embedding that carry Δ.
    ``dropped`` are tokens that only the tuned model has, left out by ``--new-tokens drop`` or since rows match by position;
    ``without_row`` those for which its matrix has no row; ``placeholders`` reserved slots that were paired by string and
    renumbered; ``kept`` the target's tokens whose rows stay as they are; ``lost`` tokens of base and tuned that have no
    row in the target, with their ids in base and tuned in ``lost_ids``; ``without_base`` tokens that tuned and target have a row
    for and base has none: there is no difference, and the target's row stays. ``tokenizers`` are base's, tuned's and target's,
    if read. ``unnamed`` counts rows of the tuned model behind those of base, whose tokens no file names.
    ``all_tokens``: a token that the target has no row for gets one though base has it too (``--new-tokens all``). ``pairs`` holds ids of target, base and tuned in columns, ``raw`` ids of output and tuned.
    """

    how: How
    why: str
    matched: int
    target_size: int | None = None
    renamed: tuple[TokenRename, ...] = ()
    added: tuple[AddedToken, ...] = ()
    dropped: tuple[str, ...] = ()
    without_row: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    without_base: tuple[str, ...] = ()
    unnamed: int = 0
    all_tokens: bool = False
    changes: TokenChanges = field(default_factory=TokenChanges)
    tokenizers: tuple[Tokenizer, Tokenizer, Tokenizer] | None = field(default=None, repr=False, compare=False)
    pairs: Rows | None = field(default=None, repr=False, compare=False)
    raw: Rows | None = field(default=None, repr=False, compare=False)
    lost_ids: Rows | None = field(default=None, repr=False, compare=False)

    @property
    def common(self) -> int | None:
        """Ids below it mean the same in all three, where rows match by position because a person said so."""
        return self.matched if self.how == "positions" and self.tokenizers is not None else None

    @property
    def names(self) -> TokenNames:
        """What ids mean in the three models, and in the output."""
        return TokenNames(self.tokenizers, self.changes, self.common, self.dropped, self.without_row)

    def rows(self, base_rows: int, tuned_rows: int, target_rows: int) -> RowMap:
        """Where each row of a matrix comes from that has so many rows in base, tuned and target.

        Raises `PairingError` for more rows than a vocabulary has: a diff vector's manifest may claim any number.
        """
        if max(base_rows, tuned_rows, target_rows) > MOST_ROWS:
            raise PairingError(
                f"A matrix with one row per token claims {base_rows:,} rows in the base, {tuned_rows:,} in the tuned "
                f"model and {target_rows:,} in the target. The limit is {MOST_ROWS:,}: a file is damaged; download or "
                f"write it again."
            )
        if self.pairs is None or self.raw is None:
            common = min(base_rows, tuned_rows, target_rows)
            matched = np.full(target_rows, NONE, np.int64)
            matched[:common] = np.arange(common)
            return RowMap(target_rows, np.arange(target_rows, dtype=np.int64), matched, matched.copy())
        raw = np.concatenate(
            [self.raw[self.raw[:, 1] < tuned_rows], self._without_row((base_rows, tuned_rows, target_rows))]
        )
        rows = max(target_rows, int(raw[:, 0].max(initial=NONE)) + 1)
        target, base, tuned = (np.full(rows, NONE, np.int64) for _ in range(3))
        target[:target_rows] = np.arange(target_rows)
        pairs = self.pairs[(self.pairs < (target_rows, base_rows, tuned_rows)).all(axis=1)]
        base[pairs[:, 0]] = pairs[:, 1]
        tuned[pairs[:, 0]] = pairs[:, 2]
        target[raw[:, 0]] = NONE
        tuned[raw[:, 0]] = raw[:, 1]
        empty = np.flatnonzero((target == NONE) & (tuned == NONE))
        if empty.size:
            raise PairingError(
                f"The output would need {rows} rows for its new tokens, but nothing provides row {empty[0]} "
                f"({empty.size} row(s) in all): the target has {target_rows} rows for a tokenizer of "
                f"{self.target_size} "
                f"tokens, the tuned model {tuned_rows}. Pass {named('new_tokens', 'drop')} to leave the new tokens out."
            )
        return RowMap(rows, target, base, tuned)

    def lost_rows(self, base_rows: int, tuned_rows: int) -> Rows:
        """Rows of base and tuned, in two columns, of the lost tokens: their difference has no place in the output."""
        lost = np.empty((0, 2), np.int64) if self.lost_ids is None else self.lost_ids
        return lost[(lost < (base_rows, tuned_rows)).all(axis=1)]

    def _without_row(self, matrix_rows: tuple[int, int, int]) -> Rows:
        """Ids of output and tuned of the tokens right behind the target's last row."""
        found = [] if self.tokenizers is None else _without_row(self.tokenizers, matrix_rows, self.all_tokens)
        return np.array(found, np.int64).reshape(-1, 2)


def read_vocabularies(folders: Folders, vocabulary: Literal["strings", "positions"] | None = None) -> Vocabularies:
    """How the rows of base, tuned and target meet, and their tokenizers where these have to be read.

    ``vocabulary`` forces rows to be matched by token string or by position. Raises `PairingError` for tokenizers whose
    strings cannot be read, `CheckpointError` for broken files.
    """
    agree = tokenizers_agree(folders)
    if vocabulary == "positions":
        base, tuned, target = map(read_listed_tokens, folders)
        return Vocabularies("positions", "--vocabulary positions", folders, None if agree else (base, tuned, target))
    if vocabulary == "strings":
        return Vocabularies("strings", "--vocabulary strings", folders, _read_all(folders))
    if not agree:
        return Vocabularies("strings", "the tokenizer files differ", folders, _read_all(folders))
    if not _has_tokenizer(folders):
        return Vocabularies("positions", "no tokenizer files", folders)
    return Vocabularies("identical", "the tokenizer files are byte-identical", folders)


def with_tokens_behind(vocabularies: Vocabularies, matrix_rows: tuple[int, int, int]) -> Vocabularies:
    """The vocabularies, read whole where equal tokenizers have tokens that only some of the models have a row for.

    By position, the longer models' rows of these tokens would be lost silently: rows after the end of the shortest
    matrix may also be padding. ``matrix_rows`` as in `match_vocabulary`.
    """
    fewest, most = min(matrix_rows), max(matrix_rows)
    if fewest in (0, most) or not is_readable(vocabularies.folders[0]):
        return vocabularies
    if vocabularies.how == "positions" and vocabularies.tokenizers is None and _has_tokenizer(vocabularies.folders):
        # The user wants positions: the rows after the end of the shortest matrix are lost, and reported by token.
        base, tuned, target = map(read_listed_tokens, vocabularies.folders)
        return replace(vocabularies, tokenizers=(base, tuned, target))
    if vocabularies.how != "identical":
        return vocabularies
    tokenizers = _read_all(vocabularies.folders)
    if tokenizers[0].size <= fewest:
        return vocabularies
    why = "the tokenizer files are byte-identical, but not all models have a row for each token"
    return replace(vocabularies, how="strings", why=why, tokenizers=tokenizers)


def match_vocabulary(
    vocabularies: Vocabularies, matrix_rows: tuple[int, int, int], new_tokens: NewTokens = "append"
) -> VocabularyMatch:
    """Match the vocabularies of three models (SEMANTICS: Tokens). Raises `PairingError` where they cannot be matched.

    ``matrix_rows`` are the rows of the embeddings of base, tuned and target, 0 for a model that has none.
    """
    base, _, target = vocabularies.folders
    if vocabularies.tokenizers is not None and vocabularies.how == "strings":
        match = _match_strings(vocabularies.tokenizers, target, matrix_rows, new_tokens)
    elif vocabularies.tokenizers is not None:
        match = _match_positions(vocabularies.tokenizers, matrix_rows)
    elif len(set(matrix_rows)) > 1 and not is_readable(base) and vocabularies.why != "--vocabulary positions":
        # Equal files of a kind that cannot be read do not say which tokens a longer matrix has rows for.
        _refuse_shapes(vocabularies.folders, matrix_rows)
    else:
        match = VocabularyMatch(vocabularies.how, "", min(matrix_rows))
    return replace(match, why=vocabularies.why)


def _match_positions(
    tokenizers: tuple[Tokenizer, Tokenizer, Tokenizer], matrix_rows: tuple[int, int, int]
) -> VocabularyMatch:
    """Rows by position because a person said so. Tokens behind the rows in common are lost, by name where it is known."""
    base, tuned, target = tokenizers
    base_rows, tuned_rows, target_rows = matrix_rows
    common = min(matrix_rows)
    behind = sorted((id, token) for token, id in tuned.ids.items() if common <= id < tuned_rows)
    lost = [(id, token) for id, token in behind if id < base_rows and base.token(id) == token and id >= target_rows]
    dropped = [(id, token) for id, token in behind if id >= base_rows]
    if base.whole and target.whole:  # a token on a padded row, which no file of the output would define
        gained = [token for token in tuned.beyond if token not in base.ids and token not in target.ids]
        dropped = sorted({*dropped, *((tuned.ids[token], token) for token in gained if tuned.ids[token] < tuned_rows)})
    return VocabularyMatch(
        "positions",
        "",
        common,
        dropped=tuple(token for _, token in dropped),
        lost=tuple(token for _, token in lost),
        lost_ids=np.array([(id, id) for id, _ in lost], np.int64).reshape(-1, 2),
        unnamed=max(tuned_rows - max(common, base_rows), 0) - sum(id >= max(common, base_rows) for id, _ in dropped),
        tokenizers=tokenizers,
    )


def _match_strings(
    tokenizers: tuple[Tokenizer, Tokenizer, Tokenizer],
    folder: SidecarFolder,
    matrix_rows: tuple[int, int, int],
    new_tokens: NewTokens,
) -> VocabularyMatch:
    base, tuned, target = tokenizers
    base_rows, tuned_rows, target_rows = matrix_rows
    renames = _find_renames(base, tuned, target, folder)
    shared = [token for token in base.ids if token in tuned.ids and token in target.ids]
    _check_overlap(len(shared), len(renames), tokenizers)
    pairs = np.empty((len(shared) + len(renames), 3), np.int64)
    for column, tokenizer in enumerate((target, base, tuned)):
        pairs[: len(shared), column] = np.fromiter(map(tokenizer.ids.__getitem__, shared), np.int64, len(shared))
    for place, rename in enumerate(renames, start=len(shared)):
        pairs[place] = rename.target_id, rename.base_id, rename.tuned_id

    new_names = {rename.new for rename in renames}
    only_tuned = sorted(tuned.ids.keys() - base.ids.keys() - target.ids.keys() - new_names, key=tuned.ids.__getitem__)
    without_row = [token for token in only_tuned if tuned.ids[token] >= tuned_rows]
    gained = [token for token in only_tuned if tuned.ids[token] < tuned_rows]
    no_base_row = (tuned.ids.keys() & target.ids.keys()) - base.ids.keys() - new_names
    no_base_row |= {token for token in shared if base.ids[token] >= base_rows}
    without_base = [t for t in no_base_row if tuned.ids[t] < tuned_rows and target.ids[t] < target_rows]
    gone = {*((base.ids.keys() & tuned.ids.keys()) - target.ids.keys())}
    gone |= {shared[place] for place in np.flatnonzero(pairs[: len(shared), 0] >= target_rows)}
    lost = sorted((token for token in gone if base.ids[token] < base_rows), key=base.ids.__getitem__)
    if new_tokens == "all":
        more = {token for token in lost if token not in target.ids and tuned.ids[token] < tuned_rows}
        gained = sorted([*gained, *more], key=tuned.ids.__getitem__)
        placed_all = {target.token(id) for id, _ in _without_row(tokenizers, matrix_rows, all_tokens=True)}
        lost = [token for token in lost if token not in more and token not in placed_all]
    added = tuple(
        AddedToken(token, target.size + place, tuned.added.get(token, {}))
        for place, token in enumerate([] if new_tokens == "drop" else gained)
    )

    placed = (pairs < (target_rows, base_rows, tuned_rows)).all(axis=1)
    carried = set(pairs[placed, 0].tolist())
    kept = [token for token, id in target.ids.items() if id < target_rows and id not in carried]
    renumbered = [shared[place] for place in np.flatnonzero(pairs[: len(shared), 0] != pairs[: len(shared), 1])]
    placeholders = [token for token in renumbered if is_placeholder(token)]
    match = VocabularyMatch(
        how="strings",
        why="",
        matched=int(placed.sum()),
        target_size=target.size,
        renamed=tuple(renames),
        added=added,
        dropped=tuple(gained) if new_tokens == "drop" else (),
        without_row=tuple(without_row),
        placeholders=tuple(sorted(placeholders, key=base.ids.__getitem__)),
        kept=tuple(sorted(kept, key=target.ids.__getitem__)),
        lost=tuple(lost),
        without_base=tuple(sorted(without_base, key=target.ids.__getitem__)),
        all_tokens=new_tokens == "all",
        changes=_changes(renames, added, tuned, target),
        tokenizers=tokenizers,
        pairs=pairs,
        raw=np.array([(token.id, tuned.ids[token.token]) for token in added], np.int64).reshape(-1, 2),
        lost_ids=np.array([(base.ids[token], tuned.ids[token]) for token in lost], np.int64).reshape(-1, 2),
    )
    match.rows(*matrix_rows)
    return match


def _without_row(
    tokenizers: tuple[Tokenizer, Tokenizer, Tokenizer], matrix_rows: tuple[int, int, int], all_tokens: bool
) -> list[tuple[int, int]]:
    """Ids in target and tuned of the tokens right behind the target's last row, which the tuned model has a row for.

    Gemma 3's tokenizer ends with an image token that the text models have no row for; one that was resized has. Base must
    have none either, unless ``all_tokens`` are wanted.
    """
    (base, tuned, target), (base_rows, tuned_rows, target_rows) = tokenizers, matrix_rows
    found: list[tuple[int, int]] = []
    for id in range(target_rows, target.size):
        token = target.token(id)
        row = tuned_rows if token is None else tuned.ids.get(token, tuned_rows)
        if row >= tuned_rows or token is None or (not all_tokens and base.ids.get(token, base_rows) < base_rows):
            break
        found.append((id, row))
    return found


def is_placeholder(token: str) -> bool:
    """Whether a token's string says that its slot is held free for later."""
    return _PLACEHOLDER.search(token) is not None


def _has_tokenizer(folders: Iterable[SidecarFolder]) -> bool:
    return any(folder.has(name) for folder in folders for name in TOKENIZER_FILES)


def _find_renames(base: Tokenizer, tuned: Tokenizer, target: Tokenizer, folder: SidecarFolder) -> list[TokenRename]:
    """Tokens that the tuned model has in place of base's, where the target has the old one and not the new one."""
    new_at = {tuned.ids[token]: token for token in tuned.ids.keys() - base.ids.keys()}
    renames = [
        TokenRename(old, new_at[id], id, id, target.ids[old])
        for old, id in base.ids.items()
        if id in new_at and old not in tuned.ids and old in target.ids and new_at[id] not in target.ids
    ]
    # A piece that merges build or use cannot change its name without breaking them: its new form is a new token.
    pieces = {rename.old for rename in renames} - target.beyond
    fixed = pieces - can_rename(folder, pieces, target.sections) if pieces else set()
    return [rename for rename in renames if rename.old not in fixed]


def _changes(
    renames: list[TokenRename], added: tuple[AddedToken, ...], tuned: Tokenizer, target: Tokenizer
) -> TokenChanges:
    entries: dict[str, Mapping[str, Any]] = {}
    if added:
        # Ids of added tokens come from counting: what stands before the new ones must be spelled out everywhere.
        names = {rename.old: rename.new for rename in renames}
        entries = {names.get(token, token): entry for token, entry in target.added.items()}
    for rename in renames:
        entry = tuned.added.get(rename.new) or target.added.get(rename.old)
        if entry:
            entries[rename.new] = {**entry, "content": rename.new, "id": rename.target_id}
    return TokenChanges(tuple((rename.old, rename.new) for rename in renames), added, entries)


def _check_overlap(matched: int, renamed: int, tokenizers: tuple[Tokenizer, Tokenizer, Tokenizer]) -> None:
    sizes = [len(tokenizer.ids) for tokenizer in tokenizers]
    # A fine-tuning gives reserved tokens names. Where it seems to have renamed most tokens, its tokenizer is another one.
    if 2 * (matched + min(renamed, matched)) >= min(sizes) > 0:
        return
    the = [next((form for form in ("▁the", "Ġthe", "the") if form in each.ids), "none") for each in tokenizers]
    raise PairingError(
        f"Only {matched} token strings agree; the vocabularies have {sizes[0]} (base), {sizes[1]} (tuned) and "
        f'{sizes[2]} (target). They are of different kinds, as `▁the` is not `Ġthe` (here "the" is {the[0]!r}, '
        f"{the[1]!r} and {the[2]!r}), so a fine-tuning cannot be transferred row by row. Check that base, tuned and "
        f"target belong to one model family; if you know that the rows agree in spite of their names, pass "
        f"{named('vocabulary', 'positions')}."
    )


def _read_all(folders: Folders) -> tuple[Tokenizer, Tokenizer, Tokenizer]:
    tokenizers: list[Tokenizer] = []
    faults: list[TuneportError] = []
    parsed = Parsed()
    for folder in folders:
        try:
            tokenizers.append(read_tokenizer(folder, parsed))
        except (PairingError, CheckpointError) as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        kind = CheckpointError if all(isinstance(fault, CheckpointError) for fault in faults) else PairingError
        raise kind(f"{len(faults)} tokenizers cannot be read:{listing([str(fault) for fault in faults])}")
    base, tuned, target = tokenizers
    return base, tuned, target


def _refuse_shapes(folders: Folders, matrix_rows: tuple[int, int, int]) -> NoReturn:
    rows = ", ".join(f"{count} ({folder.role})" for folder, count in zip(folders, matrix_rows, strict=True))
    state = (
        "The tokenizer files agree, but tuneport cannot read token strings from this kind"
        if _has_tokenizer(folders)
        else "None of the three folders has tokenizer files"
    )
    raise PairingError(
        f"{state}, and the embeddings differ in rows: {rows}. Put each model's tokenizer.json into its folder to "
        f"match rows with {named('vocabulary', 'strings')}; or, if you know that equal positions are equal "
        f"tokens, pass {named('vocabulary', 'positions')}: common rows are then matched, and the target's other rows "
        f"are kept."
    )
