"""Read rows of tables from other libraries: data sets of `datasets`, from the Hub or from Python, and pandas frames.

`datasets` downloads a data set of the Hub into its cache, as usual. No code of a data set is run; current versions of
the library cannot do so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuneport.errors import DataError, UsageError
from tuneport.examples.data_files import Raw
from tuneport.examples.naming import HUB_FORM, HubData
from tuneport.files.printable import quoted
from tuneport.libraries import how_to_install, missing

_AT_ONCE = 1_000


def load(data: HubData, given: str) -> Any:
    """A data set of the Hub, on disk: its rows are not in memory yet. Raises `DataError`."""
    if missing("datasets"):
        raise UsageError(
            f"{given} is a data set on the Hub; reading it needs the library datasets. {how_to_install('models')}"
        )
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(data.id, data.config, revision=data.revision, split=data.split)
    except Exception as error:  # the library raises errors of a dozen families, its own, the Hub's and the system's
        lines = str(error).strip().splitlines()
        first = " ".join(lines[:2]) if lines else type(error).__name__
        raise DataError(
            f"The data set {data.id} (split {data.split}) cannot be loaded from the Hub: {first}. Check the name "
            f"({HUB_FORM}) and your login; offline, it must be in the cache."
        ) from None


def commit_of(table: Any) -> str | None:
    """The commit that a data set was fetched at: the library keeps what it has fetched in a folder of that name."""
    folders = {Path(file["filename"]).parent.name for file in table.cache_files}
    return next((name for name in folders if re.fullmatch(r"[0-9a-f]{40}", name)), None)


def column_names(table: Any) -> list[str]:
    """The columns of a table; of a data set that is streamed and does not know them, none."""
    return list(table.columns if hasattr(table, "iloc") else table.column_names or [])


def can_select(table: Any) -> bool:
    """Whether rows can be taken by their numbers: of a data set that is not streamed. (A frame is in memory already.)"""
    return hasattr(table, "select") and not hasattr(table, "iloc")


def rows_having(table: Any, wanted: Mapping[str, str]) -> Any:
    """The rows whose columns have the values wanted; only these columns are looked at, some at a time."""
    if not wanted:
        return table
    kept: list[int] = []
    place = 0
    for batch in table.select_columns(list(wanted)).iter(batch_size=_AT_ONCE):
        for values in zip(*(batch[column] for column in wanted), strict=True):
            if tuple(map(shown, values)) == tuple(wanted.values()):
                kept.append(place)
            place += 1
    return table.select(kept)


def shown(value: Any) -> str:
    """A value as the name of data spells it; what is missing is nothing."""
    return "" if value is None else str(value)


def rows_of_data_set(table: Any) -> Iterator[tuple[int, Raw]]:
    """Each row of a data set, whether it is held, on disk or streamed."""
    number = 0
    for batch in table.iter(batch_size=_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield number, dict(zip(batch, values, strict=True))


def rows_of_frame(frame: Any, label: str) -> Iterator[tuple[int, Raw]]:
    """Each row of a frame; what pandas takes for missing is None. Raises `DataError` where two columns have one name."""
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{label} has two columns named {', '.join(map(quoted, twice))}. Rename one of them.")
    for start in range(0, len(frame), _AT_ONCE):
        part = frame.iloc[start : start + _AT_ONCE].astype(object)
        part = part.where(part.notna(), None)
        for place, values in enumerate(part.itertuples(index=False, name=None), start + 1):
            yield place, dict(zip(names, values, strict=True))
