"""Rows of any three vocabularies are those of a slow reference; vocabularies of 128,000 entries fit into bounded memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.matched_vocabularies import ROLES, match, table

from tuneport.errors import PairingError


def reference(
    base: list[str], tuned: list[str], target: list[str], rows: tuple[int, int, int], append: bool
) -> list[tuple[int, int, int]] | None:
    """Row by row with dictionaries; None where a row of the output has no source."""
    base_at, tuned_at = ({token: id for id, token in enumerate(tokens)} for tokens in (base, tuned))
    result = []
    consumed = set()
    for row in range(rows[2]):
        partners = (-1, -1)
        if row < len(target):
            token = target[row]
            if token in base_at and token in tuned_at:
                partners = (base_at[token], tuned_at[token])
            elif token in base_at and base_at[token] < len(tuned):
                place = base_at[token]
                if tuned[place] not in base_at and tuned[place] not in target:
                    partners = (place, place)
                    consumed.add(tuned[place])
        lacking = partners[0] >= rows[0] or partners[1] >= rows[1]
        result.append((row, *((-1, -1) if lacking else partners)))
    for row in range(rows[2], len(target)):  # tokens beyond the matrix may be renamed as well
        place = base_at.get(target[row], len(tuned))
        if place < len(tuned) and target[row] not in tuned_at:
            consumed |= {tuned[place]} - set(base) - set(target)
    for row in range(rows[2], len(target)):  # a token that only the tuned model has a row for
        place = tuned_at.get(target[row], rows[1])
        if place >= rows[1] or base_at.get(target[row], rows[0]) < rows[0]:
            break
        result.append((-1, -1, place))
    new = [token for id, token in enumerate(tuned) if id < rows[1] and token not in base and token not in target]
    for place, token in enumerate([token for token in new if token not in consumed] if append else []):
        row = len(target) + place
        while len(result) <= row:
            result.append((-1, -1, -1))
        result[row] = (-1, -1, tuned_at[token])
    return None if (-1, -1, -1) in result else result


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[list[str], list[str], list[str]]:
    """Base, and two that come from it by renames, removals, insertions and permutation."""

    def changed(start: list[str], names: str) -> list[str]:
        tokens = [
            f"{names}{index}" if draw(st.integers(0, 9)) == 0 else token
            for index, token in enumerate(start)
            if draw(st.integers(0, 9)) > 0
        ]
        for index in range(draw(st.integers(0, 4))):
            fresh = f"{draw(st.sampled_from([names, 'shared']))}_more{index}"
            if fresh not in tokens:
                tokens.insert(draw(st.integers(0, len(tokens))), fresh)
        return draw(st.permutations(tokens)) if draw(st.integers(0, 3)) == 0 else tokens

    base = [f"w{index}" for index in range(draw(st.integers(6, 20)))]
    return base, changed(base, "tuned"), changed(base, "target")


@settings(max_examples=300, deadline=None)
@given(vocabularies(), st.tuples(*[st.integers(-2, 5)] * 3), st.booleans())
def test_rows_agree_with_a_slow_reference(
    three: tuple[list[str], list[str], list[str]], padding: tuple[int, int, int], append: bool
) -> None:
    base, tuned, target = three
    rows = (len(base) + padding[0], len(tuned) + padding[1], len(target) + padding[2])
    rows = (max(rows[0], 1), max(rows[1], 1), max(rows[2], 1))
    expected = reference(base, tuned, target, rows, append)
    with tempfile.TemporaryDirectory() as name:
        try:
            found = match(
                Path(name), *three, rows=rows, new_tokens="append" if append else "drop", vocabulary="strings"
            )
        except PairingError as error:
            assert "strings agree" in str(error) or expected is None
            return
    assert expected is not None and table(found.rows(*rows)) == expected
    assert found.matched == sum(base_row >= 0 for _, base_row, _ in expected)
    new = {token for token in tuned if token not in base and token not in target}
    listed = [*(token.token for token in found.added), *found.dropped, *found.without_row]
    assert sorted(listed) == sorted(new - {rename.new for rename in found.renamed})
    kept = {token for id, token in enumerate(target) if id < rows[2] and expected[id][1] < 0}
    assert set(found.kept) == kept
    assert not set(found.kept) & set(found.lost)


MEASURE = """
import resource, sys, time
from pathlib import Path
from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.pairing.vocabulary import match_vocabulary, read_vocabularies
folders = [SidecarFolder(role, role, Path(sys.argv[1]) / role) for role in ("base", "tuned", "target")]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
match = match_vocabulary(read_vocabularies(tuple(folders)), (128000, 128000, 128001))
seconds = time.process_time() - start
print(match.matched, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, seconds)
"""


def test_three_tokenizers_of_128k_entries_are_matched_in_bounded_memory(tmp_path: Path) -> None:
    letters = [chr(code) for code in [*range(33, 127), *range(0x100, 0x144)]]
    chance = random.Random(0)
    tokens = dict.fromkeys(letters)
    while len(tokens) < 128_000:
        tokens["Ġ" + "".join(chance.choices(letters, k=chance.randint(2, 9)))] = None
    names = list(tokens)
    merges: list[Any] = [[chance.choice(names), chance.choice(names)] for _ in range(280_000)]
    model = {"type": "BPE", "vocab": {token: id for id, token in enumerate(names)}, "merges": None}
    written = json.dumps(merges, ensure_ascii=False, indent=1)
    for role in ROLES:
        (tmp_path / role).mkdir()
        vocab = {token: id for id, token in enumerate([*(["<|new|>"] if role == "target" else []), *names])}
        document = json.dumps({"added_tokens": [], "model": model | {"vocab": vocab}}, ensure_ascii=False, indent=2)
        document += " " * ROLES.index(role)
        (tmp_path / role / "tokenizer.json").write_text(document.replace("null", written), encoding="utf-8")
    assert (tmp_path / "base" / "tokenizer.json").stat().st_size > 13_000_000
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    matched, kibibytes, seconds = done.stdout.split()
    assert int(matched) == 128_000
    unit = 1024 if sys.platform == "darwin" else 1  # ru_maxrss is in bytes there
    assert int(kibibytes) / unit < 150 * 1024
    assert float(seconds) < 4  # about 1.3 on the machine this was written on
