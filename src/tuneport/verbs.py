"""Packages that can be called: `tuneport.transfer` is where transfer lives, and the verb itself.

In comes the name of a package and of the function that is its verb, out comes the same package, callable. Without this
`tuneport.transfer(…)` would work or not depending on what was imported before it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def make_callable(package: str, home: str) -> None:
    """Calling the module ``package`` calls the function of its own name in the module ``home``, imported then."""
    verb = package.rpartition(".")[2]

    class CallablePackage(ModuleType):
        """A package that is also a verb."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(home), verb)(*args, **kwargs)

    sys.modules[package].__class__ = CallablePackage
