"""Write numbers the same way on the page, in figures and in Markdown.

Shares are in per cent with one decimal, losses with three; a minus is a minus sign, and a missing number is a dash.
"""

from __future__ import annotations

from collections.abc import Iterable

from tuneport.reporting.tables.estimates import Change, ShownScore
from tuneport.statistics import Estimate

DASH = "–"
FALLEN = (
    "Where lower is better (a loss), a positive difference means that it fell."  # differences are positive where better
)
PER_CENT = "\N{NO-BREAK SPACE}%"
Interval = tuple[float, float]


def number(value: float, share: bool) -> str:
    """A score: 77.1 (per cent), or a loss: 1.234."""
    return minus(f"{100 * value:.1f}" if share else f"{value:.3f}")


def signed(value: float, share: bool) -> str:
    """A difference, with its sign."""
    text = f"{100 * value:+.1f}" if share else f"{value:+.3f}"
    return minus("0" + text[2:] if float(text) == 0 and text[1] == "0" else text)


def span(interval: Interval | None, share: bool, sign: bool = False) -> str:
    """An interval in brackets, or nothing."""
    if interval is None:
        return ""
    say = signed if sign else number
    return f"[{say(interval[0], share)}, {say(interval[1], share)}]"


def with_unit(shown: ShownScore) -> str:
    """A value as written in a sentence: 77.1 % [74.8, 79.3]."""
    share = shown.score.is_share
    return f"{number(shown.value, share)}{PER_CENT if share else ''} {span(shown.interval, share)}".rstrip()


def points(change: Change, share: bool) -> str:
    """A difference as written in a sentence: +11.6 points [9.1, 14.0]."""
    unit = " points" if share else ""
    return f"{signed(change.value, share)}{unit} {span(change.interval, share, sign=True)}".rstrip()


def ratio(estimate: Estimate | None) -> str:
    """A recovered gain: 1.16 [0.93, 1.41], or a dash where there is nothing to recover."""
    if estimate is None:
        return DASH
    low, high = estimate.interval
    return minus(f"{estimate.value:.2f} [{low:.2f}, {high:.2f}]")


def listed(names: Iterable[str]) -> str:
    """a, b and c."""
    found = list(names)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}" if found else ""


def counted(count: int, thing: str, things: str | None = None) -> str:
    """1 model, 2 models."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return DASH
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def minus(text: str) -> str:
    """With a minus sign instead of a hyphen."""
    return text.replace("-", "−")
