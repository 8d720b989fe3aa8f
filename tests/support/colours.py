"""How bright a colour is and how much two stand out from each other, as WCAG defines it."""

from __future__ import annotations

import re


def luminance(colour: str) -> float:
    """Relative luminance of an opaque colour, as WCAG defines it."""
    channels = [float(number) / 255 for number in re.findall(r"[\d.]+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
