"""How results of public functions are shown: a short repr, a table in a notebook, and `to_dict()` for everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from html import escape
from pathlib import Path
from typing import Any


class Shown:
    """A result. What it holds is `to_dict()`; `heading` and `table` say how it is shown."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        assert is_dataclass(self), "a result is a frozen record, or Found"
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def heading(self) -> str:
        """One line."""
        return type(self).__name__

    def table(self) -> list[list[str]]:
        """Rows of a table, the first of them its head."""
        return [["", ""], *([key.replace("_", " "), _brief(value)] for key, value in self.to_dict().items())]

    def __repr__(self) -> str:
        return f"<{self.heading()}>"

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        head, *rows = self.table()
        cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><caption>{escape(self.heading())}</caption><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


class Found(Shown, Mapping[str, Any]):
    """A result that is read by key, as its JSON is; it cannot be changed."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = dict(found)

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return dict(self._found)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value


def _brief(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return f"{len(value):,} entries" if len(str(value)) > 120 else str(value)
    return "–" if value is None else str(value)
