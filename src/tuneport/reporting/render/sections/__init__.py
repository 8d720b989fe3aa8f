"""The sections of the page: each its anchor, its title and its content, or None where a study has nothing of it."""

from __future__ import annotations

from typing import Any

Section = tuple[str, str, Any]
