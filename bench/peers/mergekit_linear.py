"""mergekit `linear`: target first, weights 1, 1, −1, not normalised; the command line of `mergekit-yaml`.

0.1.5 adds up in float32 even with ``dtype: bfloat16`` and rounds once; it adds target, then tuned, then −base, so its sums
may be rounded otherwise than target + (tuned − base). ``float32`` as the fifth argument asks for the wider dtype
throughout, which takes longer and changes no bit. Further arguments replace `FLAGS`.
"""

from __future__ import annotations

import sys
from pathlib import Path

DTYPES = {"bfloat16": "dtype: bfloat16", "float32": "dtype: float32\nout_dtype: bfloat16"}
# No flag made a merge on two CPUs faster: --num-threads 2 is what torch takes by itself, --async-write gained nothing with
# one shard to write (28 to 42 s beside 29 to 31), and the rest is for GPUs or pickles.
FLAGS: tuple[str, ...] = ("--quiet",)


def main() -> None:
    from mergekit.scripts.run_yaml import main as mergekit_yaml

    base, tuned, target, out = sys.argv[1:5]
    dtype = sys.argv[5] if len(sys.argv) > 5 else "bfloat16"
    flags = sys.argv[6:] or FLAGS
    lines = ["merge_method: linear", "parameters:", "  normalize: false", DTYPES[dtype], "models:"]
    for model, weight in ((target, 1.0), (tuned, 1.0), (base, -1.0)):
        lines += [f"  - model: {model}", "    parameters:", f"      weight: {weight}"]
    recipe = Path(out).with_name(Path(out).name + ".yaml")
    recipe.write_text("\n".join(lines) + "\n")
    mergekit_yaml([str(recipe), out, *flags])


if __name__ == "__main__":
    main()
