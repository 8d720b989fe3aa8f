"""The form of a model card: what every README.md written by tuneport has in common.

Lines of Markdown from names, tags and cells: the front matter that the Hub reads, tables, names of models with their
revisions, and the user's own section, which later runs keep. `engine/transfer_card.py` and `publishing/tuning_card.py`
choose the facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.errors import OutputError, shortened
from tuneport.files.opening import read_bytes
from tuneport.files.printable import printable_line
from tuneport.output.licences import licence_of

HERE = "this-folder"  # what a card calls its model as long as it has no name on the Hub
_BEGIN, _END = "<!-- tuneport: your own text begins -->", "<!-- tuneport: your own text ends -->"
_MOST_BYTES = 4 * 2**20


def is_hub_id(name: str) -> bool:
    """Whether a recorded name is one of the Hub's: the name of a folder holds no slash, a Hub id always does."""
    return "/" in name


def front_matter(
    tags: Sequence[str],
    *,
    library: str | None,
    parents: Iterable[str],
    relation: str,
    datasets: Iterable[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> list[str]:
    """The lines that the Hub reads; of ``parents`` and ``datasets`` only Hub ids, for nothing else can be linked.

    ``facts`` is the record's ``card``: licences, languages and pipeline_tag of the parents, and of a published one ``repository``
    and ``scores``, which become a model-index.
    """
    facts = facts or {}
    licence, _ = _licence(facts)
    lines = ["---"]
    lines += [f"license: {_quoted(licence)}"] if licence else []
    lines += _listed("language", facts.get("languages") or ())
    lines += [f"library_name: {library}"] if library is not None else []
    lines += [f"pipeline_tag: {_quoted(facts['pipeline_tag'])}"] if facts.get("pipeline_tag") else []
    hub_ids = sorted({name for name in parents if is_hub_id(name)})
    if hub_ids:
        lines += [*_listed("base_model", hub_ids), f"base_model_relation: {relation}"]
    lines += _listed("datasets", sorted({name for name in datasets if is_hub_id(name)}))
    return [*lines, "tags:", *[f"- {tag}" for tag in tags], *_index(facts), "---"]


def _listed(field: str, names: Sequence[str]) -> list[str]:
    return [f"{field}:", *[f"- {_quoted(name)}" for name in names]] if names else []


def _quoted(text: str) -> str:
    """A text of any kind as YAML reads it back: in ASCII, so that nothing in it can end its line or its field."""
    shown = (
        f"\\{sign}" if sign in '"\\' else sign if " " <= sign <= "~" else f"\\U{ord(sign):08x}" for sign in str(text)
    )
    return f'"{"".join(shown)}"'


def _index(facts: Mapping[str, Any]) -> list[str]:
    """Scores as the Hub's model-index."""
    scores = facts.get("scores") or ()
    if not scores:
        return []
    lines = [
        "model-index:",
        f"- name: {_quoted(str(facts.get('repository') or HERE).rpartition('/')[2])}",
        "  results:",
    ]
    for row in scores:
        lines += ["  - task:", f"      type: {_quoted(facts.get('pipeline_tag') or 'text-generation')}"]
        lines += ["    dataset:", f"      type: {_quoted(row['task'])}", f"      name: {_quoted(row['task'])}"]
        lines += ["    metrics:", f"    - type: {_quoted(row['metric'])}", f"      value: {float(row['value'])!r}"]
    return lines


def scored(facts: Mapping[str, Any]) -> list[str]:
    """The section on scores; nothing where there are none."""
    rows = [
        (row["task"], row["metric"], f"{row['value']:.4g}", _ends(row.get("interval")), f"{row['n']:,}")
        for row in facts.get("scores") or ()
    ]
    if not rows:
        return []
    return [
        "",
        "## Scores",
        "",
        "By `tuneport evaluate`.",
        "",
        *table(["task", "metric", "score", "95 % interval", "n"], rows),
    ]


def licensed(facts: Mapping[str, Any]) -> list[str]:
    """The section on the licence; nothing where no parent was asked."""
    _, words = _licence(facts)
    return ["", "## Licence", "", words] if words else []


def _licence(facts: Mapping[str, Any]) -> tuple[str | None, str]:
    """The licence's id, if known, and a sentence: as named by whoever pushed the model, else from the parents' cards."""
    named, licences = facts.get("license"), facts.get("licences")
    if named:
        told = "; ".join(f"{role}: {name or 'not stated'}" for role, name in (licences or {}).items())
        return str(named), f"{named}, as named by whoever pushed it. Licences of the parents: {told or 'not checked'}."
    return licence_of(licences) if licences else (None, "")


def own_section() -> list[str]:
    """The user's section, as it is before anybody wrote in it."""
    return ["", "## Notes", "", _BEGIN, _END]


def own_text(place: Path) -> str:
    """What the user wrote into a card's own section; empty where there is no card, or no such section.

    Raises `OutputError` where the card is there and cannot be read: a text that is not seen cannot be kept.
    """
    try:
        return own_text_in(read_bytes(place, place.parent, _MOST_BYTES))
    except FileNotFoundError:
        return ""
    except OSError as error:
        words = error.strerror or error
        raise OutputError(
            f"{place} cannot be read ({words}), so your own section in it cannot be kept. Move the file away, then "
            f"run again."
        ) from None


def own_text_in(card: bytes) -> str:
    """What the user wrote into the own section of this card."""
    return _split(card.decode("utf-8", "surrogateescape"))[1]


def with_own(card: bytes, text: str) -> bytes:
    """A card with this text in the user's section."""
    before, _, after = _split(card.decode("utf-8", "surrogateescape"))
    return f"{before}{text}{after}".encode("utf-8", "surrogateescape")


def card_digest(card: bytes) -> str:
    """The digest by which a record knows its card: the user's section counts as empty."""
    before, _, after = _split(card.decode("utf-8", "surrogateescape"))
    return blake3(f"{before}{after}".encode("utf-8", "surrogateescape")).hexdigest()


def _split(text: str) -> tuple[str, str, str]:
    """What stands before, in and after the user's section; the first mark and the last count, so that a text may hold them."""
    begin, end = text.find(f"{_BEGIN}\n"), text.rfind(_END)
    if begin < 0 or end < begin:
        return text, "", ""
    begin += len(_BEGIN) + 1
    return text[:begin], text[begin:end], text[end:]


def _ends(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table of cells; long ones are cut."""
    lines = [f"| {' | '.join(heading)} |", f"| {' | '.join('---' for _ in heading)} |"]
    return lines + [f"| {' | '.join(cell(str(value)) for value in row)} |" for row in rows]


def cell(text: str, most: int = 160) -> str:
    """A text that cannot break out of its cell."""
    return shortened(text, most).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def document(lines: Iterable[str]) -> bytes:
    """The card of these lines: no text in a line can begin another one, or contain unsafe characters."""
    return "".join(f"{printable_line(line)}\n" for line in lines).encode()


def warned(warnings: Iterable[str]) -> list[str]:
    """Each warning in a paragraph of its own; tokens in angle brackets are no HTML."""
    return [
        line
        for warning in warnings
        for line in ("", f"> **Warning:** {warning.replace('<', '&lt;').replace(chr(10), ' ')}")
    ]


def label(name: str, revision: str | None) -> str:
    """A model or data set with the revision that was read."""
    name = name.replace("<", "&lt;")
    return f"{name} @ {revision}" if revision else name
