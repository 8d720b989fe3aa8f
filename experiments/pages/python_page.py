"""Make docs/python.md: every public function and what it returns, as directives that mkdocstrings fills in.

``python -m experiments.pages.python_page`` writes the page; ``--check`` exits with status 1 where the committed page is another.
"""

from __future__ import annotations

import importlib
import inspect
import sys

import tuneport
from experiments.pages.write_page import DOCS, write_or_compare
from tuneport import errors
from tuneport.public_functions import result_names

PAGE = DOCS / "python.md"
FIRST = ("transfer", "plan", "verify")  # whoever opens the page most often wants these
HEAD = """# Python

Each command is a function of the same name, with the same options, except `demo`. The dry run of a transfer is `plan`; those of `tune` and
`study`, and `study --init`, are on the command line only. Import the package, not its modules: every function below is
`tuneport.NAME`.

```python
import tuneport

print(tuneport.plan("v1", "v1-tuned", "v2"))  # what would happen; nothing is written
output = tuneport.transfer("v1", "v1-tuned", "v2", "v2-tuned", scale=0.8)
print(output.manifest["measures"])  # ‖Δ‖, ‖target − base‖, their cosine
tuneport.verify("v2-tuned", "v1", "v1-tuned", "v2", full=True)
```

- `help(tuneport.transfer)`, `?` in a notebook and your editor show the same signatures.
- Results are frozen records. They print as a line or a few, show as a table in a notebook, and have `to_dict()`.
- Errors are in `tuneport.errors`; all are subclasses of `TuneportError`. A wrong argument raises `UsageError`, which lists all faults of the call.

A study in a notebook: write its file (`tuneport study my.toml --init …` makes one to start from), run it, make its page.

```python
import tuneport

outcome = tuneport.study("my-study.toml", "my-study", jobs=2)
print(outcome["failed"])  # steps that failed, each with its error
tuneport.report("my-study")  # my-study/report.html
```

## Functions
"""


def render() -> str:
    names = [*FIRST, *(name for name in tuneport.__all__ if name not in FIRST)]
    functions = [getattr(tuneport, name) for name in names]
    parts = [HEAD]
    parts += [f"::: {function.__module__}.{function.__name__}\n" for function in functions]
    parts.append("## Results\n")
    records = dict.fromkeys(
        getattr(importlib.import_module(function.__module__), name)
        for function in functions
        for name in result_names(function)
    )
    parts += [f"::: {record.__module__}.{record.__name__}\n" for record in records]
    parts.append("## Errors\n")
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    raised = [kind for kind in kinds if issubclass(kind, Exception)]
    raised.sort(key=lambda kind: inspect.getsourcelines(kind)[1])
    parts += [f"::: {errors.__name__}.{kind.__name__}\n" for kind in [*raised, errors.Fault]]
    return "\n".join(parts)


def main() -> int:
    return write_or_compare(PAGE, render(), sys.argv[1:], "the public functions")


if __name__ == "__main__":
    sys.exit(main())
