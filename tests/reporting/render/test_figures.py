"""Letters on coloured cells can be read whatever the number, and no name is ever read as markup by plotly."""

from __future__ import annotations

import re
from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given
from support.colours import contrast, luminance

from tuneport.reporting.render.figures import CIVIDIS, _on_colour, text


def colour_at(share: float) -> str:
    """What plotly paints between the stops of the scale, as CSS says a colour."""
    place = share * (len(CIVIDIS) - 1)
    below = min(int(place), len(CIVIDIS) - 2)
    one, other = ([int(CIVIDIS[at][i : i + 2], 16) for i in (1, 3, 5)] for at in (below, below + 1))
    return f"rgb({', '.join(str(a + (place - below) * (b - a)) for a, b in zip(one, other, strict=True))})"


@given(st.floats(0, 1), st.booleans())
def test_the_letters_on_any_cell_have_the_contrast_of_wcag_aa(value: float, higher_is_better: bool) -> None:
    ((letters, words),) = re.findall(
        r'^<span style="color:(#\w{6})">(.*)</span>$', _on_colour("7.1", value, (0, 1), higher_is_better)
    )
    paper = luminance(colour_at(value if higher_is_better else 1 - value))
    ink = {"#000000": 0.0, "#ffffff": 1.0}[letters]
    assert words == "7.1" and contrast(ink, paper) >= 4.5


def test_the_scale_grows_evenly_brighter() -> None:
    brightness = [luminance(colour_at(place / 50)) ** (1 / 3) for place in range(51)]
    steps = [b - a for a, b in pairwise(brightness)]
    assert min(steps) > 0 and max(steps) < 4 * sum(steps) / len(steps)


@given(st.text(max_size=40))
def test_a_name_reaches_plotly_without_a_tag_or_an_entity_of_its_own(name: str) -> None:
    shown = text(name)
    assert "<" not in shown and ">" not in shown
    assert not re.search(r"&(?!(amp|lt|gt);)", shown)
