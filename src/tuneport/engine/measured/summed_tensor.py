"""The sums of a tensor as the kernel adds them up (`arithmetic.SUMS`), as the figures of a comparison read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuneport.comparison.measures import TensorSums


def tensor_sums(sums: Sequence[float], met: int, *, has_base: bool, whole: bool = True) -> TensorSums:
    """The sums by name, over ``met`` elements that have a partner; those that need a base only where it was read.

    ``whole`` False: the target's square holds elements without a partner too, so it says nothing beside the base's.
    """
    diff, target, base, shift, along, opposed, added, error, nonzero, unchanged = map(float, sums)
    known = {"diff": diff, "added": added, "error": error, "nonzero": nonzero, "unchanged": unchanged}
    known |= {"target": target} if whole else {}
    if has_base:
        known |= {"base": base, "shift": shift, "along": along, "opposed": opposed}
        known |= {"product": (base + target - shift) / 2} if whole else {}
    return TensorSums(
        float(met), **{name: value if math.isfinite(value) else math.nan for name, value in known.items()}
    )
