"""Read the [do] table of a study, with its pairs of versions.

Pairs that cannot be done are faults, each with its reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from tuneport.studies.declared import Doing, Healing, Lines, Pair, Tuning, Version
from tuneport.studies.file.toml_tables import Table, Tables, nearest, said


def read_doing(
    tables: Tables, content: Table, versions: Sequence[Version], tunings: Sequence[Tuning], lines: Lines
) -> Doing:
    """What [do] says; what cannot be done is noted in `tables`."""
    table = tables.table(content, "do", (), optional=True)
    path = ("do",)
    keys = ("transfer", "adapt", "transfer-then-tune", "recycle", "paths", "distances", "compare")
    chosen = tables.values(Doing, table, path, *keys)
    if isinstance(table.get("recycle"), dict):
        recycle = table["recycle"]
        chosen["healing"] = Healing(**tables.values(Healing, recycle, (*path, "recycle"), "pairs"))
        table = {**table, "recycle": recycle.get("pairs", "all")}
    pairs = {key: _pairs(tables, table, key, versions, tunings, lines) for key in keys}
    _check(tables, pairs, versions, tunings)
    _check_paths(tables, pairs["paths"], versions, tunings, lines)
    if "paths" in table and not lines.text and not lines.data:
        tables.fault(
            (*path, "paths"),
            "the data is missing; give [paths] with text (bases), data (tuned models), or both",
        )
    chosen |= {key.replace("-", "_"): of_key for key, of_key in pairs.items()}
    return Doing(**chosen)


def _check(
    tables: Tables, pairs: Mapping[str, tuple[Pair, ...]], versions: Sequence[Version], tunings: Sequence[Tuning]
) -> None:
    by_name = {version.name: version for version in versions}
    trained = {tuning.name for tuning in tunings}
    for key in ("transfer", "adapt", "transfer-then-tune", "recycle", "paths", "compare"):
        place = ("do", key)
        for source, target in pairs[key]:
            one, other = by_name[source], by_name[target]
            if key != "paths" and one.target_only:
                tables.fault(place, f"{source} is target-only, but is a source in [{source}, {target}]")
            elif key != "paths" and not one.tuned and not trained:
                tables.fault(place, f"{source} has no fine-tuned model; give it `tuned`, or a [tune] section")
            if key in ("transfer-then-tune", "recycle"):
                if not trained:
                    tables.fault(place, "a [tune] section is missing; add one")
                if other.target_only:
                    tables.fault(
                        place,
                        f"{target} is target-only and never fine-tuned, but [{source}, {target}] needs its "
                        f"fine-tuning; remove one of the two",
                    )
    begun, reached = {source for source, _ in pairs["recycle"]}, {target for _, target in pairs["recycle"]}
    for before, after in itertools.pairwise(pairs["recycle"]):
        if before[1] != after[0] and (after[0] in reached or after[1] in begun):
            tables.fault(
                ("do", "recycle"),
                f"[{', '.join(after)}] does not continue from [{', '.join(before)}]; order the pairs as a chain",
            )
    targets = [target for _, target in pairs["recycle"]]
    for twice in sorted({target for target in targets if targets.count(target) > 1}):
        tables.fault(("do", "recycle"), f"{twice} is the target twice; in a chain, each version has one predecessor")


def _check_paths(
    tables: Tables, pairs: Sequence[Pair], versions: Sequence[Version], tunings: Sequence[Tuning], lines: Lines
) -> None:
    """On data with answers a path begins at a fine-tuned model; a pair without one, and without text, would measure nothing."""
    if not lines.data or lines.text:
        return
    sources = _sources(versions, tunings)
    by_name = {version.name: version for version in versions}
    for one, other in pairs:
        if one not in sources and not by_name[one].tuned:
            tables.fault(
                ("do", "paths"),
                f"[{one}, {other}] has nothing to measure on `data`: {one} has no fine-tuned model; give [paths] "
                "text to compare the versions, or a fine-tuning",
            )


def _sources(versions: Sequence[Version], tunings: Sequence[Tuning]) -> list[str]:
    """Versions that have or get a diff vector."""
    return [version.name for version in versions if not version.target_only and (version.tuned or tunings)]


def _all(key: str, versions: Sequence[Version], tunings: Sequence[Tuning], lines: Lines) -> tuple[Pair, ...]:
    """The pairs that "all" stands for."""
    names, sources = [version.name for version in versions], _sources(versions, tunings)
    every = tuple(itertools.combinations(names, 2))
    if key == "distances":
        return every
    if key == "recycle":
        return tuple(itertools.pairwise(version.name for version in versions if not version.target_only))
    untuned = {v.name for v in versions if v.target_only} if key == "transfer-then-tune" else set()
    found = tuple((one, other) for one in sources for other in names if one != other and other not in untuned)
    if key == "paths" and lines.text:  # a line between two versions needs no fine-tuning
        found += tuple((one, other) for one, other in every if one not in sources and other not in sources)
    return found


def _why_none(key: str, versions: Sequence[Version], tunings: Sequence[Tuning]) -> str:
    """Why "all" is nothing here, and what to do."""
    if len(versions) < 2:
        return "there is only one version; add another [[version]]"
    if key in ("transfer", "adapt", "transfer-then-tune", "paths", "compare") and not _sources(versions, tunings):
        remedy = ", or [paths] text for lines between versions" if key == "paths" else ""
        return f"no version has a fine-tuned model; give one `tuned`, or add a [tune] section{remedy}"
    return "too few versions are fine-tuned; remove a `target-only`, or add another [[version]]"


def _pairs(
    tables: Tables, table: Table, key: str, versions: Sequence[Version], tunings: Sequence[Tuning], lines: Lines
) -> tuple[Pair, ...]:
    value = table.get(key)
    if value is None:
        return ()
    names = [version.name for version in versions]
    if value == "all":
        everything = _all(key, versions, tunings, lines)
        if not everything and versions:  # a missing version is reported already
            tables.fault(("do", key), f'"all" gives no pairs: {_why_none(key, versions, tunings)}')
        return everything
    wanted = '"all", or pairs such as [["M1", "M2"], ["M2", "M3"]], each [source, target]'
    if not isinstance(value, list):
        tables.fault(("do", key), f"is {said(value)}; write {wanted}")
        return ()
    found: list[Pair] = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            tables.fault(("do", key), f"{said(pair)} is not a pair; write {wanted}")
            continue
        unknown = [name for name in pair if name not in names]
        for name in unknown:
            tables.fault(("do", key), f"there is no version {name!r}{nearest(name, names)}")
        if pair[0] == pair[1]:
            tables.fault(("do", key), f"[{pair[0]}, {pair[1]}] names the same version twice; name two")
        elif tuple(pair) in found:
            tables.fault(("do", key), f"[{pair[0]}, {pair[1]}] is listed twice; remove one")
        elif not unknown:
            found.append((pair[0], pair[1]))
    return tuple(found)
